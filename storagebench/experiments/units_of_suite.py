"""A suite -> the units that a sweep runs, again and again: a cell of the matrix, several jobs at the same time, or one of these jobs alone.

Pure but for reading the workloads' files. What does not fit is a unit with a reason, never left out in silence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from storagebench.configfile import Configured, load_workload
from storagebench.errors import UsageError
from storagebench.experiments.suite import Axes, JobSpec, LoadedSuite
from storagebench.workload import PAYLOAD_OF_FORMAT

Override = tuple[str, Any, str]

TOGETHER: Final = "together"
ALONE: Final = "alone"
_LONGEST_NAME: Final = 80
_EQUAL_BUDGET: Final = "equal budget of a suite"
# A job that ended would disturb those that still run with what only serves its own summary.
_QUIET_END: Final = {"run.null_duration_s": 0.0, "run.headroom_duration_s": 0.0}


@dataclass(frozen=True)
class Job:
    """One run as it is asked for: a workload with overrides (key path, value, where it was said), and where its dataset lies. `labels` are what tells
    it from the other runs of the suite, in words."""

    name: str
    workload: str
    overrides: tuple[Override, ...]
    data_dir: str
    storage_options: Mapping[str, str]
    labels: Mapping[str, str]

    def configured(self) -> Configured:
        """Raises UsageError for values that do not fit, with where they were said."""
        return load_workload(self.workload, self.overrides)


@dataclass(frozen=True)
class Unit:
    """What is run at once: `jobs` at the same time (mostly one), beside `writers`. With a `reason` it is not run."""

    name: str
    jobs: tuple[Job, ...]
    writers: tuple[Job, ...] = ()
    reason: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


Fits = Callable[[Job], str]


def units_of(loaded: LoadedSuite, fits: Fits) -> list[Unit]:
    """All units in the order of the suite. `fits` says why a job cannot be run here (its adapters do not go together, something is not installed), or "".

    Raises UsageError that tells the bad values of all units at once.
    """
    units = list(_cells(loaded, loaded.suite.axes) if loaded.suite.axes is not None else _together(loaded))
    problems: dict[str, None] = {}
    for unit in units:
        for job in (*unit.jobs, *unit.writers):
            try:
                job.configured()
            except UsageError as error:
                problems.update(dict.fromkeys(error.message.split("; ")))
    if problems:
        raise UsageError("; ".join(problems), "mend the suite")
    return [replace(unit, reason=next(filter(None, map(fits, unit.jobs)), "")) for unit in units]


def _cells(loaded: LoadedSuite, axes: Axes) -> Iterator[Unit]:
    suite = loaded.suite
    base = _overrides(loaded, ("settings",), suite.settings)
    # The dataset's own settings need not go with the workload's format: each cell has a format of its own.
    workload = load_workload(suite.workload, [item for item in base if not item[0].startswith("dataset.")]).workload
    loaders, formats = axes.loaders or (workload.loader.name,), axes.formats or (workload.dataset.format,)
    stores, accelerators = axes.stores or tuple(suite.stores), axes.accelerators or (workload.run.num_accelerators,)
    choices = [[(key, value) for value in values] for key, values in axes.settings.items()]
    product = itertools.product(loaders, formats, stores, accelerators, *choices)
    for number, (loader, form, store, count, *chosen) in enumerate(product, 1):
        axis = {"loader.name": (loader, "loaders"), "dataset.format": (form, "formats"), "run.num_accelerators": (count, "accelerators")}
        said: list[Override] = [(key, value, loaded.where(("axes", name))) for key, (value, name) in axis.items()]
        if form in PAYLOAD_OF_FORMAT:
            said.append(("dataset.payload", PAYLOAD_OF_FORMAT[form], f"format {form}"))
        settings = [(key, value, loaded.where(("axes", "settings", key))) for key, value in chosen]
        labels = {"loader": loader, "format": form, "store": store, "accelerators": str(count), **{key: str(value) for key, value in chosen}}
        words = [f"{number:03d}", loader, form, store, f"x{count}", *(f"{key.rpartition('.')[2]}-{value}" for key, value in chosen)]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words))[:_LONGEST_NAME]
        overrides = _with_equal_budget((*base, *said, *settings), workload.loader.num_workers)
        job = Job(name, suite.workload, overrides, suite.stores[store].of(form), suite.stores[store].storage_options, labels)
        yield Unit(name, (job,), settings=labels)


def _with_equal_budget(overrides: tuple[Override, ...], num_workers: int) -> tuple[Override, ...]:
    """A loader that looks for its own number of workers (`direct`) is given the same as the others."""
    if any(key == "loader.num_workers" for key, _, _ in overrides):
        return overrides
    return (("loader.num_workers", num_workers, _EQUAL_BUDGET), *overrides)


def _together(loaded: LoadedSuite) -> Iterator[Unit]:
    """All jobs at the same time; then each alone, where that is asked for."""
    runs = tuple(_job(loaded, name, job) for name, job in loaded.suite.jobs.items() if job.kind == "run")
    writers = tuple(_job(loaded, name, job) for name, job in loaded.suite.jobs.items() if job.kind == "writer")
    names = ", ".join(job.name for job in (*runs, *writers))
    yield Unit(TOGETHER, runs, writers, settings={"jobs": names})
    if loaded.suite.alone:
        yield from (Unit(f"{ALONE}-{job.name}", (job,), settings={"jobs": job.name}) for job in runs)


def _job(loaded: LoadedSuite, name: str, spec: JobSpec) -> Job:
    base = tuple((key, value, "jobs at the same time") for key, value in _QUIET_END.items())
    own = _overrides(loaded, ("jobs", name, "settings"), spec.settings)
    everyone = tuple(item for item in _overrides(loaded, ("settings",), loaded.suite.settings) if item[0] not in spec.settings)
    said = {key for key, _, _ in (*everyone, *own)}
    overrides = (*(item for item in base if item[0] not in said), *everyone, *own)
    if spec.kind == "writer":
        fields = {f"run.{key}": getattr(spec, key) for key in ("writers", "write_rate", "write_shard_samples", "write_keep_shards")}
        overrides = (*overrides, *((key, value, loaded.where(("jobs", name))) for key, value in fields.items()))
    workload = spec.workload or loaded.suite.workload
    return Job(name, workload, overrides, spec.data_dir, spec.storage_options, {"job": name})


def _overrides(loaded: LoadedSuite, path: tuple[str, ...], settings: Mapping[str, Any]) -> tuple[Override, ...]:
    return tuple((key, value, loaded.where((*path, key))) for key, value in settings.items())
