"""A sweep's bench on this host: which jobs fit here, their datasets, and a unit's runs in processes of their own, beside writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from storagebench import host
from storagebench.build import generate
from storagebench.errors import InterruptedRunError, StorageBenchError
from storagebench.experiments.sweep import Ended, Refused
from storagebench.experiments.sweepfolder import WRITERS_DIR
from storagebench.experiments.units_of_suite import Job, Unit
from storagebench.jobs import Asked, Following, run_at_once
from storagebench.manifest import load_dataset
from storagebench.records import RUN_FILE, SCHEMA_VERSION, as_plain, create_run_dir, read_run, write_json
from storagebench.registry import format_info, loader_info, misfit, refuse_missing
from storagebench.storage import open_store, parse_url
from storagebench.writers import Writers, refuse_unfit, remove_written

_REMOVED_FILE: Final = "removed.json"


def fits(job: Job) -> str:
    """Why this job cannot be run here, or "": its adapters do not go together, or something that it needs is not installed. Touches no storage.

    Where the job's format is not known (a job of `jobs`, whose dataset says it), only what is installed counts.
    """
    workload = job.configured().workload
    info = loader_info(workload.loader.name)
    try:
        if job.data_dir.removeprefix("shaped+").startswith("memory:"):
            return "a dataset in memory:// lives in one process, and each run of a suite has a process of its own"
        if "format" in job.labels:
            kind = parse_url(job.data_dir, job.storage_options).kind if job.data_dir else ""
            if not kind:
                return f"no data dir is given for format {job.labels['format']} on {job.labels['store']}"
            problem = misfit(workload.loader.name, workload.dataset.format, kind, workload.run.cache == "direct")
            if problem is not None:
                return problem.message
            form = format_info(workload.dataset.format)
            refuse_missing(f"format {workload.dataset.format}", form.needs, form.extra)
        refuse_missing(f"loader {workload.loader.name}", info.needs, info.extra)
    except StorageBenchError as error:
        return error.message
    return ""


def make_datasets(units: Sequence[Unit], progress: Callable[[str], Any]) -> dict[str, Refused]:
    """Generate what is not there, each place once; of the units whose dataset could not be made why. `progress(data dir)` is a block with a callback."""
    failed: dict[str, Refused] = {}
    places: dict[tuple[str, str], Refused | None] = {}
    for unit in units:
        for job in (*unit.jobs, *unit.writers):
            place = (job.data_dir, job.configured().workload.dataset.model_dump_json())
            if place not in places:
                places[place] = _make(job, progress)
            problem = places[place]
            if problem is not None:
                failed.setdefault(unit.name, problem)
    return failed


def _make(job: Job, progress: Callable[[str], Any]) -> Refused | None:
    try:
        store = open_store(job.data_dir, dict(job.storage_options))
        try:
            with progress(job.data_dir) as callback:
                generate(job.configured().workload, store, progress=callback)
        finally:
            store.close()
    except InterruptedRunError:
        raise
    except StorageBenchError as error:
        return Refused(error.message, error.hint, error.exit_code)
    return None


class SweepBench:
    """Runs units into the folder of a sweep."""

    def __init__(self, folder: Path, ceiling: bool, debug: bool, following: Following | None) -> None:
        self._folder, self._ceiling, self._debug, self._following = folder, ceiling, debug, following

    def run_unit(self, unit: Unit, round_: int, run_ids: Sequence[str]) -> Refused | Sequence[Ended]:
        """All jobs of the unit at the same time, and its writers meanwhile. Raises an interrupt only."""
        try:
            return run_at_once(
                [self._asked(job, run_id) for job, run_id in zip(unit.jobs, run_ids, strict=True)],
                self._following,
                lambda: self._writing(unit.writers, run_ids[0]),
            )
        except InterruptedRunError:
            raise
        except StorageBenchError as error:  # of a writer that could not begin
            return Refused(error.message, error.hint, error.exit_code)

    def _asked(self, job: Job, run_id: str) -> Asked:
        return Asked(job.workload, job.overrides, job.data_dir, job.storage_options, self._folder, run_id, self._ceiling, self._debug)

    @contextmanager
    def _writing(self, jobs: Sequence[Job], run_id: str) -> Iterator[None]:
        """The writers of all writer jobs write within the block; then exactly what they listed is deleted."""
        begun: list[tuple[Writers, Path]] = []
        try:
            for job in jobs:
                folder = _writer_folder(self._folder, job, run_id)
                begun.append((Writers(folder, read_run(folder)["config"]["run"]["writers"], 0), folder))
                begun[-1][0].__enter__()
            yield
        finally:
            for writers, folder in reversed(begun):
                writers.__exit__(None, None, None)
                remove(folder)


def _writer_folder(folder: Path, job: Job, run_id: str) -> Path:
    """What a writer's process builds itself from. Raises as opening its dataset does, and UsageError where it could not write such shards."""
    spec = parse_url(job.data_dir, job.storage_options)
    workload = job.configured().workload
    store = open_store(job.data_dir, dict(job.storage_options))
    try:
        refuse_unfit(workload, load_dataset(store), f"{run_id}-{job.name}")
    finally:
        store.close()
    made = create_run_dir(folder / WRITERS_DIR, f"{run_id}-{job.name}")
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": made.name,
        "config": workload.model_dump(),
        "store": as_plain(spec),
        "hosts": [{"host": host.label()}],
    }
    write_json(made / RUN_FILE, record)
    return made


def remove(folder: Path) -> Mapping[str, Any]:
    """Delete what the writers of this folder listed, and note that it was done. Only while none of them is alive."""
    found = remove_written(folder, read_run(folder))
    write_json(folder / _REMOVED_FILE, found)
    return found


def remove_left_over(folder: Path) -> int:
    """Delete what writers of a sweep that was killed left behind; how many keys."""
    left = [path for path in sorted((folder / WRITERS_DIR).glob("*")) if (path / RUN_FILE).is_file() and not (path / _REMOVED_FILE).exists()]
    return sum(int(remove(path)["keys"]) for path in left)
