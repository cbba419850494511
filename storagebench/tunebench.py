"""A tuning's bench on this host: its space, what does not fit into the budget, and each trial as a run in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from storagebench import host
from storagebench.clock import Clock
from storagebench.configfile import Configured, load_workload, parse_scalar, unknown_key
from storagebench.errors import RunInvalidError, StorageBenchError, UsageError, did_you_mean
from storagebench.experiments.ladder import LEAST_STEPS, MANY_EPOCHS
from storagebench.experiments.space import DATA_DIR, STORAGE, Dimension, Point, asked_dimension, concurrency_of_s3, space_of
from storagebench.experiments.sweep import Refused
from storagebench.experiments.tune import Measured
from storagebench.experiments.units_of_suite import Override
from storagebench.jobs import Asked, Following, run_at_once, run_command
from storagebench.manifest import Dataset, load_dataset
from storagebench.plan import make_plan, refuse_if_too_large
from storagebench.registry import loader_info, misfit
from storagebench.report.load import load_runs
from storagebench.storage import open_store, parse_url
from storagebench.storage.s3_config import DEFAULT_CONCURRENCY
from storagebench.trainname import refuse_training

# Above it the accelerators cannot be kept busier in any way that two runs would show.
BUSY: Final = 0.995


class Objective(NamedTuple):
    """What is made as large as can be. `unpaced`: with compute time 0, so that the figure is the most that the loader gives; `why` says why this one."""

    metric: str
    unpaced: bool
    why: str


def objective_of(compute_s: float, au: float | None) -> Objective:
    """AU, where there is one and it can grow."""
    if compute_s <= 0 or au is None:
        return Objective("samples_per_s", True, "without compute time there is no AU")
    if au >= BUSY:
        return Objective(
            "samples_per_s", True, f"the defaults keep the accelerators busy (AU {au:.3f}), so what they give without compute time is tuned"
        )
    return Objective("au_nominal", False, f"the defaults reach AU {au:.3f}")


@dataclass(frozen=True)
class TuneRequest:
    """What the user asked for: the workload with the overrides of the command line, where the data lies (the first data dir is the default's), and the
    length of a trial."""

    workload: str
    overrides: tuple[Override, ...]
    data_dirs: tuple[str, ...]
    storage_options: Mapping[str, str]
    trial_s: float
    max_workers: int

    def configured(self, settings: Sequence[Override] = ()) -> Configured:
        return load_workload(self.workload, [*self.overrides, *settings])

    def command(self, point: Point, default: Point) -> list[str]:
        """The words of the run with this point's settings, as the user asked for it otherwise."""
        settings, data_dir, options = self.at(point, default)
        return run_command(self.workload, [*self.overrides, *settings], data_dir, options)

    def at(self, point: Point, default: Point) -> tuple[list[Override], str, dict[str, str]]:
        """(settings, data dir, storage options) of a point. The default is the request as it is, with all that it leaves open (such as a depth that a
        probe finds); any other point fixes all that was turned."""
        if dict(point) == dict(default):
            return [], self.data_dirs[0], dict(self.storage_options)
        settings = [(key, value, "tune") for key, value in point.items() if key != DATA_DIR and not key.startswith(STORAGE)]
        options = {key.removeprefix(STORAGE): str(value) for key, value in point.items() if key.startswith(STORAGE) and value != default[key]}
        return settings, str(point.get(DATA_DIR, self.data_dirs[0])), {**self.storage_options, **options}


def make_space(asked: TuneRequest, tries: Sequence[str]) -> list[Dimension]:
    """All dimensions: what this loader and storage have, and what the user names (`KEY=V1,V2`). Raises UsageError for a bad one, or where none is left."""
    workload = asked.configured().workload
    info, kind = loader_info(workload.loader.name), parse_url(asked.data_dirs[0], asked.storage_options).kind
    space = {one.key: one for one in space_of(workload, info, kind, asked.max_workers, asked.data_dirs)}
    if kind == "s3" and not info.own_io:
        one = concurrency_of_s3(int(asked.storage_options.get("concurrency", DEFAULT_CONCURRENCY)))
        space[one.key] = one
    for text in tries:
        key, separator, values = text.partition("=")
        if not separator or not values:
            raise UsageError(f"--try {text!r} has no values", "write it as --try section.field=V1,V2 or --try storage.OPTION=V1,V2")
        one = _tried(asked, key, [parse_scalar(value) for value in values.split(",")])
        space[one.key] = one
    found = [one for one in space.values() if len(one.values) > 1]
    if not found:
        raise UsageError(f"loader {workload.loader.name} has nothing to turn here", "name what to turn with --try section.field=V1,V2")
    return found


def _tried(asked: TuneRequest, key: str, values: Sequence[Any]) -> Dimension:
    if key.startswith(STORAGE):
        name = key.removeprefix(STORAGE)
        if name not in asked.storage_options:
            raise UsageError(f"--try {key} has no default", f"say it with --storage-option {name}=VALUE")
        return asked_dimension(key, [str(value) for value in values], asked.storage_options[name])
    parts = tuple(key.split("."))
    problem = unknown_key(parts) or ("" if len(parts) > 1 else did_you_mean(key, ["loader.num_workers"]))
    if problem:
        raise UsageError(f"--try {key}: {problem}", "name a field of a section, such as loader.shuffle_buffer")
    if parts[0] == "dataset":
        raise UsageError(f"--try {key} is made into a dataset", "generate one for each value, and give several --data-dir")

    def read(settings: Sequence[Override]) -> Any:
        return asked.configured(settings).workload.model_dump()[parts[0]][parts[1]]

    return asked_dimension(key, [read([(key, value, "--try")]) for value in values], read([]))


def _content(dataset: Dataset) -> str:
    return f"{dataset.num_samples} samples of {dataset.payload}, {dataset.record_bytes} record bytes"


class TuneBench:
    """Measures points into a folder."""

    def __init__(self, asked: TuneRequest, default: Point, folder: Path, clock: Clock, debug: bool, following: Following | None) -> None:
        self._asked, self._default, self._folder, self._clock, self._debug, self._following = asked, default, folder, clock, debug, following
        self._datasets: dict[str, Dataset] = {}
        self.objective = Objective("au_nominal", False, "")

    def check(self) -> None:
        """Raises what keeps the defaults from being run, before anything is: no dataset, adapters that do not go together, data dirs that hold different samples."""
        workload = self._asked.configured().workload
        refuse_training(workload.run.accelerator, "tune", "turns settings by AU or by the rate without compute")
        datasets = [self._dataset(place, self._asked.storage_options) for place in self._asked.data_dirs]
        for place, dataset in zip(self._asked.data_dirs, datasets, strict=True):
            kind = parse_url(place, self._asked.storage_options).kind
            problem = misfit(workload.loader.name, dataset.format, kind, workload.run.cache == "direct")
            if problem is not None:
                raise problem
            if _content(dataset) != _content(datasets[0]):
                raise UsageError(
                    f"{place} holds {_content(dataset)}, and {self._asked.data_dirs[0]} {_content(datasets[0])}",
                    "give data dirs with the same samples in shards of other sizes",
                )
        why = self.refuses(self._default)
        if why:
            raise UsageError(why, "ask for less, or raise --memory-limit")

    def refuses(self, point: Point) -> str:
        """Why this point does not fit: its values, or the memory that it would need."""
        settings, data_dir, options = self._asked.at(point, self._default)
        try:
            workload = self._asked.configured(settings).workload
            plan = make_plan(workload, workload.run.num_accelerators, self._dataset(data_dir, options))
            refuse_if_too_large(plan, host.free(), workload.run.memory_limit_fraction)
        except UsageError as error:
            return error.message
        return ""

    def _dataset(self, data_dir: str, options: Mapping[str, str]) -> Dataset:
        if data_dir not in self._datasets:
            store = open_store(data_dir, dict(options))
            try:
                self._datasets[data_dir] = load_dataset(store)
            finally:
                store.close()
        return self._datasets[data_dir]

    def choose_objective(self) -> tuple[Objective, float]:
        """Run the defaults once as they are asked for, and the seconds that it took. Raises what keeps them from giving a figure."""
        compute_s = self._asked.configured().workload.compute_time_of_step_s()
        if compute_s <= 0:
            return objective_of(compute_s, None), 0.0
        found = self.measure(0, "look", self._default)
        if found.value is None:
            raise RunInvalidError(
                f"the defaults give no figure to tune: {found.why}",
                "use a longer --trial-duration, or make `storagebench run` work with the same options first",
            )
        return objective_of(compute_s, found.value), found.seconds

    def measure(self, number: int, phase: str, point: Point) -> Measured:
        """One trial. Raises only an interrupt."""
        begin_ns = self._clock.now_ns()
        run_id = self._new_id(f"{number:03d}-{phase}")
        settings, data_dir, options = self._asked.at(point, self._default)
        overrides = [*self._asked.overrides, *settings, *self._trial_settings()]
        outcome = run_at_once([Asked(self._asked.workload, overrides, data_dir, options, self._folder, run_id, debug=self._debug)], self._following)
        value, why = self._value_of(outcome, run_id)
        return Measured(value, (self._clock.now_ns() - begin_ns) / 1e9, run_id, why)

    def _value_of(self, outcome: Any, run_id: str) -> tuple[float | None, str]:
        if isinstance(outcome, Refused):
            return None, outcome.message
        if outcome[0].message:
            return None, outcome[0].message
        try:
            summary = load_runs([self._folder / run_id])[0].summary
        except StorageBenchError as error:
            return None, error.message
        errors = [finding["message"] for finding in summary["findings"] if finding["severity"] == "error"]
        value = summary[self.objective.metric]
        if errors or summary["status"] != "complete":
            return None, f"{summary['status']}: {'; '.join(errors) or summary['failure']}"
        return (None, f"the run has no {self.objective.metric} above 0") if not value else (float(value), "")

    def _trial_settings(self) -> list[Override]:
        """A trial's length: the asked seconds, and 25 steps at least where it is paced. What serves the run's own summary is left out."""
        compute_s = 0.0 if self.objective.unpaced else self._asked.configured().workload.compute_time_of_step_s()
        settings: dict[str, Any] = {
            "run.duration_s": max(self._asked.trial_s, LEAST_STEPS * compute_s),
            "run.max_steps": None,
            "run.null_duration_s": 0.0,
            "run.headroom_duration_s": 0.0,
            "train.epochs": MANY_EPOCHS,
        }
        if self.objective.unpaced:
            settings["run.compute_time_s"] = 0.0
        return [(key, value, "tune") for key, value in settings.items()]

    def _new_id(self, name: str) -> str:
        """A trial that a kill cut off left its folder: the next one has another name."""
        again = 0
        while (self._folder / (run_id := f"{name}-again{again}" if again else name)).exists():
            again += 1
        return run_id
