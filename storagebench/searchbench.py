"""The search's bench: what was asked and where to begin (from a raw read of this host), and one run of so many accelerators through the session.

Where a launcher started several commands, member 0 leads the search, and the others follow it from run to run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from storagebench import host
from storagebench.checks.judge import judge
from storagebench.clock import SystemClock
from storagebench.cluster.crew import Alone, Crew
from storagebench.cluster.membership import share
from storagebench.configfile import changed
from storagebench.errors import DatasetError, InterruptedRunError, StorageBenchError, UsageError
from storagebench.experiments.search import Rules
from storagebench.experiments.searching import Summary, plural
from storagebench.experiments.searchstate import is_search, load_search, save_search
from storagebench.experiments.signtest import boundary
from storagebench.manifest import Dataset, load_dataset
from storagebench.plan import make_plan
from storagebench.preparation import prepare
from storagebench.probe.ceiling import ceiling_group, run_headroom
from storagebench.rankmain import shard_paths
from storagebench.records import as_plain, read_run
from storagebench.registry import loader_info, misfit, missing_modules
from storagebench.request import Request, store_spec, with_depth
from storagebench.session import take_part
from storagebench.storage import open_spec, parse_url
from storagebench.trainname import refuse_training
from storagebench.units import format_rate

GUESS_S: Final = 1.0
# The first guess is no more than so many for a core: what many accelerators cost this host is not known before some have run.
MOST_FOR_A_CORE: Final = 8
SHARE: Final = "run.accelerators_per_process"
COUNT: Final = "run.num_accelerators"


@dataclass(frozen=True)
class Limits:
    """What the user said of the search itself."""

    most_accelerators: int
    confirmations: int
    confidence: float
    most_runs: int


def share_of(request: Request, accelerators: int) -> int:
    """Accelerators that share a process: as the user says; else, where the loader allows it, so many that there is a process for each core (without torch:
    all in one), since more processes than cores only wait for one another."""
    run = request.configured.workload.run
    if SHARE in request.configured.provenance or not loader_info(request.configured.workload.loader.name).shares_process:
        return run.accelerators_per_process
    return -(-accelerators // _most_processes())


def _most_processes() -> int:
    return 1 if missing_modules(("torch",)) else len(os.sched_getaffinity(0))


def _sharing(request: Request) -> str:
    if SHARE in request.configured.provenance:
        return f"accelerators per process: {request.configured.workload.run.accelerators_per_process}, as given"
    if not loader_info(request.configured.workload.loader.name).shares_process:
        return f"each accelerator has a process: loader {request.configured.workload.loader.name} needs that"
    processes = _most_processes()
    return f"accelerators share {processes} process{'es, as many as there are cores' if processes > 1 else ''} (--accelerators-per-process says otherwise)"


Following = Callable[[Path, Mapping[str, Any]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Runs:
    """Runs of this request with other numbers of accelerators, shared out over the crew. `request.results_dir` is the search's own folder. `depth` is what was
    found of the loader's settings when the search began, the same for all runs; `following` shows the progress of a run."""

    request: Request
    depth: Mapping[str, int]
    following: Following
    say: Callable[[str], None]
    crew: Crew = field(default_factory=Alone)

    def run(self, accelerators: int, run_id: str) -> Summary:
        """At member 0, which leads: the summary of a run, also of one that failed (unless others take part, who have then left). Raises UsageError where it
        does not fit, other errors where it could not begin, and InterruptedRunError."""
        self.crew.exchange([accelerators, run_id])
        run_dir = prepare(self._request(accelerators, run_id), self.crew)
        try:
            with self.following(run_dir, read_run(run_dir)["plan"]):
                summary = take_part(run_dir, self.crew, self.request.debug)
        except InterruptedRunError:
            raise
        except StorageBenchError as error:
            if self.crew.num_members > 1:
                raise
            self.say(f"error: run {run_id}: {error.message}\nhint: {error.hint}")
            return judge(run_dir)
        assert summary is not None
        return summary

    def end(self) -> None:
        """At member 0: there are no more runs."""
        self.crew.exchange(None)

    def follow(self) -> None:
        """At the other members: take part in each run until there are no more."""
        while (order := self.crew.exchange(None)[0]) is not None:
            try:
                run_dir = prepare(self._request(*order), self.crew)
            except UsageError:
                continue  # so many do not fit, which member 0 writes down
            take_part(run_dir, self.crew, self.request.debug)

    def _request(self, accelerators: int, run_id: str) -> Request:
        job, members = self.request, self.crew.num_members
        mine, most = share(accelerators, members, self.crew.member), share(accelerators, members, 0)
        settings = {**self.depth, COUNT: max(mine, 1), SHARE: share_of(job, most)}
        configured = changed(job.configured, settings, "search")
        return replace(job, configured=configured, run_id=run_id, command_start_ns=SystemClock().now_ns(), ranks=mine)


def begun(request: Request, limits: Limits, say: Callable[[str], None]) -> tuple[dict[str, Any], bool]:
    """What this search was asked, and whether it was begun before: from its folder, or written there after a first guess was made.

    Raises UsageError for a request that cannot be searched, or that differs from what its folder says; DatasetError where the dataset is another one.
    """
    _refuse(request, limits)
    dataset = _dataset(request)
    _refuse_unfit(request, dataset)
    settings = _settings(request, limits)
    folder = request.results_dir
    if is_search(folder):
        saved = load_search(folder)
        _refuse_other(folder, saved, settings, dataset)
        for name, version in host.versions().items():
            if saved["versions"].get(name) != version:
                say(f"note: {name} was {saved['versions'].get(name)} when this search began, and is {version} now")
        return saved, True
    guess = _guess(request, dataset, limits)
    say(f"begins at {plural(guess['start'])}: {guess['why']}")
    say(_sharing(request))
    workload = request.configured.workload
    rules = Rules(workload.train.au_threshold, limits.confidence, limits.confirmations, limits.most_accelerators, limits.most_runs, guess["start"])
    found = with_depth(request.configured, store_spec(request, dataset), dataset).workload.loader
    depth = {"loader.io_depth": found.io_depth, "loader.num_workers": found.num_workers} if found != workload.loader else {}
    asked = {
        "command": list(request.command),
        "workload": workload.name,
        "loader": workload.loader.name,
        "store": _url(request),
        "rules": as_plain(rules),
        "guess": guess,
        "depth": depth,
        "settings": settings,
        "dataset": dataset.describe(),
        "versions": host.versions(),
        "host": host.facts(None),
    }
    save_search(folder, asked)
    return load_search(folder), False


def _refuse(request: Request, limits: Limits) -> None:
    workload = request.configured.workload
    refuse_training(workload.run.accelerator, "search", "goes by AU at a nominal compute time")
    if workload.compute_time_of_step_s() <= 0:
        raise UsageError("a search needs a compute time above 0: without one there is no AU", "give --accelerator or --compute-time")
    if workload.train.au_threshold <= 0:
        raise UsageError(
            f"--au-threshold is {workload.train.au_threshold:g}, which any number of accelerators meets", "give one above 0, such as 0.9"
        )
    if not 0.5 < limits.confidence < 1:
        raise UsageError(f"--confidence is {limits.confidence:g}, and must be above 0.5 and below 1", "such as 0.95")
    boundary(limits.confidence, limits.confirmations)  # raises where so few runs cannot say it


def _refuse_unfit(request: Request, dataset: Dataset) -> None:
    """What no number of accelerators could change: a loader that does not read this, or too few samples for one step of one accelerator."""
    workload = request.configured.workload
    problem = misfit(workload.loader.name, dataset.format, store_spec(request).kind, workload.run.cache == "direct")
    if problem is not None:
        raise problem
    make_plan(changed(request.configured, {COUNT: 1}, "search").workload, 1, dataset)


def _settings(request: Request, limits: Limits) -> dict[str, Any]:
    """All that makes a run of this search what it is, flat: config keys but those that the search sets itself, and the options of the command."""
    config = request.configured.workload.model_dump(mode="json")  # as search.json gives it back: compared with it when the search goes on
    flat = {f"{section}.{key}": value for section, fields in config.items() if isinstance(fields, dict) for key, value in fields.items()}
    flat |= {key: value for key, value in config.items() if not isinstance(value, dict)}
    searched = {COUNT, *([] if SHARE in request.configured.provenance else [SHARE])}
    return {
        **{key: value for key, value in flat.items() if key not in searched},
        "data dir": _url(request),
        "storage options": dict(request.storage_options),
        "ceiling": request.ceiling,
        "begin at": request.configured.workload.run.num_accelerators if COUNT in request.configured.provenance else None,
        "max accelerators": limits.most_accelerators,
        "confirmations": limits.confirmations,
        "confidence": limits.confidence,
        "max runs": limits.most_runs,
    }


def _url(request: Request) -> str:
    """Where the dataset lies, the same from any working directory."""
    spec = parse_url(request.data_dir)
    return f"shaped+{spec.root}" if spec.kind == "shaped" else spec.root


def _refuse_other(folder: Path, saved: Mapping[str, Any], asked: Mapping[str, Any], dataset: Dataset) -> None:
    before = saved["settings"]
    differences = [f"{key} was {before.get(key)!r} and is {asked.get(key)!r}" for key in {**before, **asked} if before.get(key) != asked.get(key)]
    if differences:
        raise UsageError(
            f"the search in {folder} was begun with other settings: {'; '.join(differences)}",
            "give the settings that it was begun with, or choose another --search-id",
        )
    if saved["dataset"]["digest"] != dataset.digest():
        raise DatasetError(
            f"the dataset at {asked['data dir']} is another one than when the search in {folder} began: digest {dataset.digest()[:12]} instead of "
            f"{saved['dataset']['digest'][:12]}",
            "choose another --search-id for this dataset",
        )


def _dataset(request: Request) -> Dataset:
    store = open_spec(store_spec(request))
    try:
        return load_dataset(store)
    finally:
        store.close()


def _guess(request: Request, dataset: Dataset, limits: Limits) -> dict[str, Any]:
    """Where to begin: at --num-accelerators where it is given; else at as many accelerators as the storage, read raw by many readers for a second, could
    keep at the threshold; at 1 where it cannot be read so."""
    workload = request.configured.workload
    if COUNT in request.configured.provenance:
        return {"start": workload.run.num_accelerators, "why": "--num-accelerators", "bytes_per_s": None, "demand_bytes_per_s": None}
    stored = dataset.stored_bytes / dataset.num_samples
    demand = stored * workload.train.batch_size / workload.compute_time_of_step_s()
    if workload.loader.name == "null":
        return {"start": 1, "why": "loader null reads nothing", "bytes_per_s": None, "demand_bytes_per_s": demand}
    if workload.run.cache == "as-is":
        why = "a raw read would change the cache, which --cache as-is leaves as it is"
        return {"start": 1, "why": why, "bytes_per_s": None, "demand_bytes_per_s": demand}
    try:
        rate = _raw_rate(request, dataset)
    except InterruptedRunError:
        raise
    except StorageBenchError as error:
        return {"start": 1, "why": f"the storage could not be read raw ({error.message})", "bytes_per_s": None, "demand_bytes_per_s": demand}
    fits = int(rate / (workload.train.au_threshold * demand))
    most = MOST_FOR_A_CORE * len(os.sched_getaffinity(0))
    why = f"the storage gives {format_rate(rate)} to many readers, and one accelerator at AU {workload.train.au_threshold:g} takes " + format_rate(
        workload.train.au_threshold * demand
    )
    return {"start": max(1, min(fits, most, limits.most_accelerators)), "why": why, "bytes_per_s": rate, "demand_bytes_per_s": demand}


def _raw_rate(request: Request, dataset: Dataset) -> float:
    """Bytes per second of raw reads as the run's, in its cache state, by several times its readers. Raises StorageError, DatasetError."""
    workload, spec = request.configured.workload, store_spec(request, dataset)
    group = ceiling_group(dataset, loader_info(workload.loader.name).unit_of(dataset.format), workload.loader.shuffle, workload.run.cache, spec)
    paths, _ = shard_paths(spec, dataset)
    readers = max(workload.loader.num_workers, 1)
    return float(run_headroom(spec, dataset, group, readers, paths, workload.run.cache == "warm", GUESS_S)["bytes_per_s"])
