"""Run folders -> runs in memory, judged. Reads only; the verb that wants `summary.json` on disk writes it with `checks.judge.write_summary`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storagebench.checks.judge import is_run_dir, judge_records, read_records
from storagebench.checks.queries import judge_query_run
from storagebench.diagnosis.ladder import Diagnosis
from storagebench.diagnosis.saved import DIAGNOSIS_FILE, judged, load
from storagebench.errors import UsageError
from storagebench.experiments.searchresult import Found, found_in
from storagebench.experiments.searchstate import is_search
from storagebench.hostfiles import HostRecords
from storagebench.queryrecords import is_query_run
from storagebench.ranks import Ranks
from storagebench.records import read_run


@dataclass(frozen=True)
class LoadedRun:
    """A saved run: its folder, `run.json`, its summary made anew, what that took of the ranks' traces, and the hosts'. Plots read the
    traces again, through `ranks`."""

    run_dir: Path
    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    ranks: Ranks
    hosts: tuple[HostRecords, ...]


@dataclass(frozen=True)
class LoadedQueries:
    """A saved query run: its folder and its summary made anew."""

    run_dir: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class LoadedDiagnosis:
    """A saved diagnosis: its folder, what it was called and made with, and what it says, judged anew."""

    folder: Path
    name: str
    command: tuple[str, ...]
    found: Diagnosis


def load_runs(paths: Iterable[str | Path]) -> list[LoadedRun]:
    """The runs at these paths, in order, each once. A folder of run folders stands for all of them, by name.

    Raises UsageError where a path is no run folder and holds none, is a query run, or is of another schema; DatasetError where a run is damaged.
    """
    found = _all_run_dirs(paths)
    asked = [run_dir for run_dir in found if is_query_run(read_run(run_dir))]
    if asked:
        raise UsageError(
            f"{asked[0]} is a run of `storagebench query`, which has no accelerator and no AU",
            "give runs of `storagebench run`; query runs go through `storagebench report` and `storagebench check`",
        )
    return [_load(run_dir) for run_dir in found]


def load_runs_and_queries(paths: Iterable[str | Path]) -> tuple[list[LoadedRun], list[LoadedQueries]]:
    """The same with query runs apart, for verbs that take both."""
    found = [(run_dir, is_query_run(read_run(run_dir))) for run_dir in _all_run_dirs(paths)]
    runs = [_load(run_dir) for run_dir, is_query in found if not is_query]
    return runs, [LoadedQueries(run_dir, judge_query_run(run_dir)) for run_dir, is_query in found if is_query]


def _all_run_dirs(paths: Iterable[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for run_dir in _run_dirs(path):
            found.setdefault(run_dir.resolve(), run_dir)
    return list(found.values())


def load_diagnoses(paths: Iterable[str | Path]) -> list[LoadedDiagnosis]:
    """The diagnoses at these paths, in order, each once; of a results folder those of its diagnosis folders. There may be none.

    Raises DatasetError where one is damaged or of another schema.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for folder in _at_or_below(path, _is_diagnosis):
            found.setdefault(folder.resolve(), folder)
    return [_load_diagnosis(folder) for folder in found.values()]


def load_all(paths: Iterable[str | Path]) -> tuple[list[LoadedRun], list[LoadedDiagnosis], list[LoadedQueries]]:
    """Runs, diagnoses and query runs. A folder of diagnoses or searches alone needs no run, and the runs of a search are told by `load_searches`; else as `load_runs`."""
    folders = [Path(path) for path in paths]
    with_runs = [
        folder for folder in folders if not is_search(folder) and (_at_or_below(folder, is_run_dir) or not _at_or_below(folder, _is_made_of_runs))
    ]
    runs, asked = load_runs_and_queries(with_runs)
    return runs, load_diagnoses(folders), asked


def load_searches(paths: Iterable[str | Path]) -> list[Found]:
    """The searches at these paths, in order, each once; of a results folder those of its search folders. There may be none.

    Raises DatasetError where one is damaged or of another schema.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for folder in _at_or_below(path, is_search):
            found.setdefault(folder.resolve(), folder)
    return [found_in(folder) for folder in found.values()]


def holds_search(paths: Iterable[str | Path]) -> bool:
    """Whether `load_searches` would find one."""
    return any(_at_or_below(Path(path), is_search) for path in paths)


def _at_or_below(path: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The folder itself, or its direct children by name. Never deeper: the rungs of a diagnosis lie there, and they are no results."""
    if wanted(path):
        return [path]
    return sorted(child for child in path.iterdir() if wanted(child)) if path.is_dir() else []


def _is_diagnosis(path: Path) -> bool:
    return (path / DIAGNOSIS_FILE).is_file()


def _is_made_of_runs(path: Path) -> bool:
    return _is_diagnosis(path) or is_search(path)


def _run_dirs(path: Path) -> list[Path]:
    below = _at_or_below(path, is_run_dir)
    if not below:
        what = "holds no run" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}: no run.json is there", "give the folder that `storagebench run` printed, or a --results-dir")
    return below


def _load_diagnosis(folder: Path) -> LoadedDiagnosis:
    record = load(folder)
    assert record is not None
    found = judged(record)
    return LoadedDiagnosis(folder, str(record.get("name", folder.name)), tuple(map(str, record.get("command", ()))), found)


def _load(run_dir: Path) -> LoadedRun:
    run, ranks, hosts, writers = read_records(run_dir)
    return LoadedRun(run_dir, run, judge_records(run, ranks, hosts, writers), ranks, tuple(hosts))
