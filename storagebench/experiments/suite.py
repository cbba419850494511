"""A suite: one YAML file that says which runs `sweep` makes. Frozen models, and every mistake told at once with file and line.

A suite has either `axes` (a matrix of cells: loaders x formats x stores x accelerators x settings) or `jobs` (several at the same time on this host).
Nothing is run or looked up here; what the cells are is in `experiments.units_of_suite`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storagebench.configfile import Path_, place_of, read_yaml, unknown_key
from storagebench.errors import UsageError, did_you_mean
from storagebench.workload import Size

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What an axis of its own chooses, or what would need a dataset for each value.
_AXIS_OF: Final = {"loader.name": "loaders", "dataset.format": "formats", "run.num_accelerators": "accelerators"}
_OF_THE_RUN: Final = "dataset.record_length_bytes_resize"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StoreSpec(_Frozen):
    """Where the datasets of each format lie: `data_dirs` by format, else `data_dir`, in which `{format}` stands for the format's name."""

    data_dir: str = ""
    data_dirs: dict[str, str] = Field(default_factory=dict)
    storage_options: dict[str, str] = Field(default_factory=dict)

    def of(self, format_name: str) -> str:
        """The data dir of this format, empty where none is given."""
        return self.data_dirs.get(format_name) or self.data_dir.replace("{format}", format_name)


class Axes(_Frozen):
    """The matrix. An axis that is not given has the one value of the workload; `stores` not given: all stores of the suite. `settings`: key path -> values."""

    loaders: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    accelerators: tuple[int, ...] = ()
    settings: dict[str, tuple[Any, ...]] = Field(default_factory=dict)


class JobSpec(_Frozen):
    """One of several jobs that run at the same time. `run`: a run of its own. `writer`: processes that store shards like those of the dataset in
    `data_dir`, below `written/` there, as long as the runs last; exactly these are deleted afterwards. `write_rate`: bytes/s of all its processes, 0: as fast as they can."""

    kind: Literal["run", "writer"] = "run"
    workload: str = ""
    data_dir: str
    storage_options: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    writers: int = Field(1, ge=1, le=1024)
    write_rate: Size = Field(0, ge=0)
    write_shard_samples: int = Field(0, ge=0, le=2**31)
    write_keep_shards: int = Field(0, ge=0)


_WRITER_FIELDS: Final = ("writers", "write_rate", "write_shard_samples", "write_keep_shards")


class Suite(_Frozen):
    """The whole file. `settings` hold for all runs. `generate`: datasets that are not there are made. `alone`: each job is measured by itself too."""

    name: str
    description: str = ""
    workload: str
    settings: dict[str, Any] = Field(default_factory=dict)
    stores: dict[str, StoreSpec] = Field(default_factory=dict)
    axes: Axes | None = None
    jobs: dict[str, JobSpec] = Field(default_factory=dict)
    alone: bool = False
    generate: bool = False
    ceiling: bool = False
    repeats: int = Field(3, ge=1, le=1000)
    seed: int = Field(1, ge=0, lt=2**63)


@dataclass(frozen=True)
class LoadedSuite:
    """A suite, and where its keys stand, for messages and provenance."""

    suite: Suite
    file: str
    lines: Mapping[Path_, int]

    def where(self, path: Path_) -> str:
        """`FILE:LINE` of the key, or of the nearest one above it that has a line."""
        return place_of(path, self.file, self.lines)


def load_suite(path: Path) -> LoadedSuite:
    """Read and check a suite. Raises UsageError that lists every unknown, repeated, mistyped or contradicting key at once, with file and line."""
    document, lines = read_yaml(path, _unknown)
    try:
        loaded = LoadedSuite(Suite.model_validate(document), path.name, lines)
    except ValidationError as error:
        problems = [_sentence(item, path.name, lines) for item in error.errors()]
        raise UsageError("; ".join(problems), _HINT) from None
    found = [f"{loaded.where(key)}: {message}" for key, message in _contradictions(loaded.suite)]
    if found:
        raise UsageError("; ".join(found), _HINT)
    return loaded


_HINT: Final = "mend the suite; docs/suite.yaml is one with every key"


def _sentence(item: Any, file: str, lines: Mapping[Path_, int]) -> str:
    path = tuple(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    given = "" if isinstance(item["input"], dict) else f" (given: {str(item['input'])[:80]!r})"
    return f"{place_of(path, file, lines)}: {'.'.join(path)}: {message}{given}"


_MODELS: Final[dict[str, type[BaseModel]]] = {"stores": StoreSpec, "jobs": JobSpec}


def _unknown(parts: Path_) -> str:
    """Why a key path does not belong into a suite, or an empty string."""
    if parts[0] not in Suite.model_fields:
        return f"unknown key {parts[0]!r}: {did_you_mean(parts[0], list(Suite.model_fields))}"
    if parts[0] == "settings":
        return _unknown_setting(parts[1:])
    if parts[0] == "axes":
        return _unknown_field(parts[1:], Axes, "axes")
    if parts[0] in _MODELS and len(parts) >= 2:
        if not NAME.fullmatch(parts[1]):
            return f"{parts[0]} has the name {parts[1][:80]!r}: letters, digits, '.', '_' and '-' make one, 64 at most"
        return _unknown_field(parts[2:], _MODELS[parts[0]], ".".join(parts[:2]))
    return ""


def _unknown_field(parts: Path_, model: type[BaseModel], above: str) -> str:
    if not parts:
        return ""
    if parts[0] not in model.model_fields:
        return f"unknown key {f'{above}.{parts[0]}'!r}: {did_you_mean(parts[0], list(model.model_fields))}"
    return _unknown_setting(parts[1:]) if parts[0] == "settings" else ""


def _unknown_setting(parts: Path_) -> str:
    """Settings are key paths of the workload, each in one key: `loader.num_workers: 4`."""
    if not parts or parts[-1] == "-":
        return ""
    keys = tuple(".".join(parts).split("."))
    if len(parts) > 1:
        return f"write it as {'.'.join(keys)}: VALUE, in one key"
    if len(keys) == 1 and not unknown_key(keys):
        return f"setting {keys[0]!r} is no field of a section: write it as section.field, such as loader.num_workers"
    return unknown_key(keys)


def _contradictions(suite: Suite) -> Iterator[tuple[Path_, str]]:
    """(key path, what is wrong) of what each key alone does not show."""
    if not NAME.fullmatch(suite.name):
        yield ("name",), f"name is {suite.name[:80]!r}: letters, digits, '.', '_' and '-' make one, 64 at most, since it names a folder"
    if (suite.axes is None) == (not suite.jobs):
        both = "has both axes and jobs" if suite.jobs else "has neither axes nor jobs"
        yield ("jobs",) if suite.jobs else (), f"the suite {both}, and needs one of them: axes make a matrix, jobs run at the same time"
    for key in suite.settings:
        yield from _reserved(("settings", key), key, suite.axes is not None)
    if suite.axes is not None:
        yield from _of_axes(suite, suite.axes)
        if suite.alone:
            yield ("alone",), "alone belongs to jobs: the cells of a matrix run by themselves anyway"
    if suite.jobs:
        yield from _of_jobs(suite)


def _reserved(path: Path_, key: str, in_matrix: bool) -> Iterator[tuple[Path_, str]]:
    if in_matrix and key in _AXIS_OF:
        yield path, f"{key} is the axis {_AXIS_OF[key]}: write axes.{_AXIS_OF[key]}"


def _of_axes(suite: Suite, axes: Axes) -> Iterator[tuple[Path_, str]]:
    if not suite.stores:
        yield ("stores",), "stores is empty, and says where the datasets lie: such as stores: {disk: {data_dir: '/data/{format}'}}"
    for name in axes.stores:
        if name not in suite.stores:
            yield ("axes", "stores"), f"axes.stores names {name!r}: {did_you_mean(name, list(suite.stores))}"
    for name, store in suite.stores.items():
        if not store.data_dir and not store.data_dirs:
            yield ("stores", name), f"stores.{name} has neither data_dir nor data_dirs"
        elif store.data_dir and "{format}" not in store.data_dir and len(axes.formats) > 1:
            yield ("stores", name, "data_dir"), f"stores.{name}.data_dir has no '{{format}}', and {len(axes.formats)} formats cannot share a data dir"
    lists: list[tuple[Path_, tuple[Any, ...]]] = [(("axes", name), getattr(axes, name)) for name in ("loaders", "formats", "stores", "accelerators")]
    for count in axes.accelerators:
        if count < 1:
            yield ("axes", "accelerators"), f"axes.accelerators has {count}, below 1"
    for key, values in axes.settings.items():
        path: Path_ = ("axes", "settings", key)
        lists.append((path, values))
        yield from _reserved(path, key, True)
        if key.startswith("dataset.") and key != _OF_THE_RUN:
            yield path, f"{key} is made into a dataset: give a store with a data dir of its own for each value"
        if not values:
            yield path, f"{key} has no values"
        if key in suite.settings:
            yield path, f"{key} stands in settings too"
    for path, values in lists:
        if len({str(value) for value in values}) < len(values):
            yield path, f"{'.'.join(path)} has a value twice"


def _of_jobs(suite: Suite) -> Iterator[tuple[Path_, str]]:
    runs = [name for name, job in suite.jobs.items() if job.kind == "run"]
    if not runs:
        yield ("jobs",), "jobs has no job of kind run, so nothing would be measured"
    if suite.stores:
        yield ("stores",), "stores belongs to axes: each job has a data_dir of its own"
    places: dict[str, str] = {}
    for name, job in suite.jobs.items():
        cache = {**suite.settings, **job.settings}.get("run.cache", "cold")
        if job.kind == "run" and cache in ("cold", "warm"):
            if job.data_dir in places:
                yield (
                    ("jobs", name, "data_dir"),
                    f"jobs {places[job.data_dir]} and {name} read the same data dir with cache {cache}, and each would change the other's cache: "
                    "give each a dataset of its own, or set run.cache: direct",
                )
            places[job.data_dir] = name
        if job.kind == "run":
            for field in _WRITER_FIELDS:
                if field in job.model_fields_set:
                    yield ("jobs", name, field), f"jobs.{name}.{field} belongs to kind writer"
