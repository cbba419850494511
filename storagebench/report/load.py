"""Run folders -> runs in memory, judged. Reads only; the verb that wants `summary.json` on disk writes it with `checks.judge.write_summary`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storagebench.checks.judge import is_run_dir, judge_records, read_records
from storagebench.errors import UsageError
from storagebench.records import Trace


@dataclass(frozen=True)
class LoadedRun:
    """A saved run: its folder, `run.json`, its summary made anew, and the traces that the plots are drawn from."""

    run_dir: Path
    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    ranks: tuple[Trace, ...]
    hosts: tuple[Trace, ...]


def load_runs(paths: Iterable[str | Path]) -> list[LoadedRun]:
    """The runs at these paths, in order, each once. A folder of run folders stands for all of them, by name.

    Raises UsageError where a path is no run folder and holds none, or is of another schema; DatasetError where a run is damaged.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for run_dir in _run_dirs(path):
            found.setdefault(run_dir.resolve(), run_dir)
    return [_load(run_dir) for run_dir in found.values()]


def _run_dirs(path: Path) -> list[Path]:
    if is_run_dir(path):
        return [path]
    below = sorted(child for child in path.iterdir() if is_run_dir(child)) if path.is_dir() else []
    if not below:
        what = "holds no run" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}: no run.json is there", "give the folder that `storagebench run` printed, or a --results-dir")
    return below


def _load(run_dir: Path) -> LoadedRun:
    run, ranks, hosts = read_records(run_dir)
    return LoadedRun(run_dir, run, judge_records(run, ranks, hosts), tuple(ranks), tuple(hosts))
