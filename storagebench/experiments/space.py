"""What `tune` may turn: dimensions with their candidate values, each with the default among them. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storagebench.adapters import LoaderInfo
from storagebench.errors import UsageError
from storagebench.workload import Workload

Point = Mapping[str, Any]

DATA_DIR: Final = "data_dir"
STORAGE: Final = "storage."
# Steps of about the square root of two: what doubles the work in flight changes a rate by far less than the noise of a finer step.
_COUNTS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_MOST_PREFETCH: Final = 32
_DEPTHS: Final = (0, 1, 2, 4, 8, 16, 32, 64)
_CONCURRENCIES: Final = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Dimension:
    """A key (`section.field`, `storage.OPTION` or `data_dir`), its candidates, the default among them, and whether their order means something."""

    key: str
    values: tuple[Any, ...]
    default: Any
    ordered: bool = True

    def __post_init__(self) -> None:
        if self.default not in self.values:
            raise ValueError(f"{self.key} has the default {self.default!r}, and it is not among {self.values}")


def default_point(space: Sequence[Dimension]) -> dict[str, Any]:
    return {dimension.key: dimension.default for dimension in space}


def num_points(space: Sequence[Dimension]) -> int:
    count = 1
    for dimension in space:
        count *= len(dimension.values)
    return count


def key_of(point: Point) -> tuple[tuple[str, str], ...]:
    """A point as a key of dictionaries."""
    return tuple((name, repr(value)) for name, value in point.items())


def neighbours(space: Sequence[Dimension], point: Point) -> Iterator[dict[str, Any]]:
    """Points one step away: along one dimension, then along two that grow or shrink against or with each other, since settings make up for one another."""
    steps: dict[str, list[Any]] = {}
    for dimension in space:
        at = dimension.values.index(point[dimension.key])
        near = (at - 1, at + 1) if dimension.ordered else [other for other in range(len(dimension.values)) if other != at]
        steps[dimension.key] = [dimension.values[other] for other in near if 0 <= other < len(dimension.values)]
    for key, values in steps.items():
        for value in values:
            yield {**point, key: value}
    for (one, values), (two, others) in itertools.combinations(steps.items(), 2):
        for value, other in itertools.product(values, others):
            yield {**point, one: value, two: other}


def space_of(workload: Workload, info: LoaderInfo, store_kind: str, max_workers: int, data_dirs: Sequence[str] = ()) -> list[Dimension]:
    """The dimensions that this loader has on this storage. `max_workers` bounds the workers of all accelerators of the host together.

    Raises UsageError where the request itself is beyond that bound.
    """
    loader, run = workload.loader, workload.run
    asked = loader.num_workers * run.num_accelerators
    if asked > max_workers:
        raise UsageError(
            f"{run.num_accelerators} accelerators with {loader.num_workers} workers each are {asked} workers, over --max-workers {max_workers}",
            "raise --max-workers, or use fewer --num-workers",
        )
    most = max_workers // run.num_accelerators
    space = []
    if info.workers != "none":
        space.append(_counts("loader.num_workers", loader.num_workers, (0, *(count for count in _COUNTS if count <= most))))
    space.append(_counts("loader.prefetch_batches", loader.prefetch_batches, [count for count in _COUNTS if count <= _MOST_PREFETCH]))
    if info.prefers_odirect:
        space.append(_counts("loader.io_depth", loader.io_depth, _DEPTHS))
    if info.shares_process and run.num_accelerators > 1:
        divisors = [count for count in range(1, run.num_accelerators + 1) if run.num_accelerators % count == 0]
        space.append(_counts("run.accelerators_per_process", run.accelerators_per_process, divisors))
    if len(data_dirs) > 1:
        space.append(Dimension(DATA_DIR, tuple(data_dirs), data_dirs[0], ordered=False))
    return [dimension for dimension in space if len(dimension.values) > 1]


def concurrency_of_s3(default: int) -> Dimension:
    """Ranges that one read of a long object is cut into."""
    return _counts(f"{STORAGE}concurrency", default, _CONCURRENCIES)


def asked_dimension(key: str, values: Sequence[Any], default: Any) -> Dimension:
    """A dimension that the user names (`--try`): numbers are taken in their order, other values as they come."""
    every = [*values] if default in values else [default, *values]
    ordered = all(isinstance(value, int | float) and not isinstance(value, bool) for value in every)
    return Dimension(key, tuple(sorted(every) if ordered else every), default, ordered)


def _counts(key: str, default: int, candidates: Sequence[int]) -> Dimension:
    return Dimension(key, tuple(sorted({default, *candidates})), default)
