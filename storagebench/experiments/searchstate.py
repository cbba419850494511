"""A search on disk, so that it can be killed at any time and goes on: `search.json` has what was asked (written whole, before the first run),
`search.jsonl` a line for each number that was tried (appended and synced before it is tried). How a run came out stands in its run folder beside them,
and is read from there: a run whose command did not live to its end counts as interrupted, and is made again under another run id.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from storagebench.checks.judge import judge, write_summary
from storagebench.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, DatasetError, StorageError, UsageError
from storagebench.experiments.search import Ask, Rules, Trial
from storagebench.experiments.searching import Summary, trial_of
from storagebench.records import RUN_FILE, SUMMARY_FILE, host_traces, write_json
from storagebench.traces import read_trace

SEARCH_FILE: Final = "search.json"
LOG_FILE: Final = "search.jsonl"
SCHEMA_VERSION: Final = 1


class Tried(NamedTuple):
    """A number that was tried: its run id (whose folder there is, unless it was refused), the trial, and the run's summary. `counts` is False for a run
    that could not be used and that a later command tried once more."""

    run_id: str
    trial: Trial
    summary: Summary | None
    counts: bool = True


def load_search(folder: Path) -> dict[str, Any]:
    """`search.json`. Raises UsageError where there is none, DatasetError where it does not read or is of another schema."""
    path = folder / SEARCH_FILE
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        version = found["schema_version"]
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no search: {SEARCH_FILE} is missing", "give the folder that `storagebench search` made") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error})", "search again under another --search-id") from None
    if version != SCHEMA_VERSION:
        raise DatasetError(f"{path} has schema {version}, and this storagebench reads {SCHEMA_VERSION}", "use the version that wrote it")
    return found


def is_search(folder: Path) -> bool:
    return (folder / SEARCH_FILE).is_file()


def save_search(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write what was asked, whole. Raises StorageError where the place refuses, UsageError where something else has this name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {folder}: {error.strerror}", "choose a --results-dir that is writable") from None
    if (folder / RUN_FILE).exists():
        raise UsageError(f"{folder} is a run folder", "choose another --search-id")
    write_json(folder / SEARCH_FILE, {"schema_version": SCHEMA_VERSION, **asked})


def rules_of(asked: Mapping[str, Any]) -> Rules:
    """The rules of a saved search. Raises DatasetError where they are not there."""
    try:
        return Rules(**asked["rules"])
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{SEARCH_FILE} has no rules of a search ({error})", "search again under another --search-id") from None


def tried(folder: Path, rules: Rules) -> list[Tried]:
    """What was tried so far, in order, without interrupted runs. Raises DatasetError where the log or a run is damaged."""
    found: list[Tried] = []
    refused = {line["run_id"]: line["why"] for line in _lines(folder) if line["kind"] == "refused"}
    for line in _lines(folder):
        if line["kind"] == "resumed":
            found = _set_aside(found)
        if line["kind"] != "begin":
            continue
        run_id, ask = line["run_id"], Ask(line["accelerators"], line["purpose"])
        if run_id in refused:
            found.append(Tried(run_id, Trial(*ask, "refused", why=refused[run_id]), None))
            continue
        summary = _summary_of(folder / run_id)
        if summary is not None:
            found.append(Tried(run_id, trial_of(summary, ask, rules.threshold), summary))
    return found


def interrupted(folder: Path, rules: Rules) -> list[str]:
    """Run ids that were begun and did not come to their end."""
    known = {one.run_id for one in tried(folder, rules)}
    return [line["run_id"] for line in _lines(folder) if line["kind"] == "begin" and line["run_id"] not in known]


def _set_aside(found: Sequence[Tried]) -> list[Tried]:
    """What ended an earlier command is tried anew by the next one: its last runs, which could not be used, count no more."""
    last = len(found)
    while last and found[last - 1].trial.outcome == "unusable":
        last -= 1
    return [*found[:last], *(one._replace(counts=False) for one in found[last:])]


def _summary_of(run_dir: Path) -> Summary | None:
    """The summary of a run whose command came to its end; None for an interrupted one."""
    if not (run_dir / RUN_FILE).is_file():
        return None
    ends = [record for path in host_traces(run_dir) for record in read_trace(path).of_kind("end")]
    if not ends or ends[0]["exit_code"] in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        return None
    try:
        summary: Summary = json.loads((run_dir / SUMMARY_FILE).read_bytes())
    except FileNotFoundError:  # killed while it was judged
        return _judged(run_dir)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{run_dir / SUMMARY_FILE} cannot be read ({error})", f"delete it: `storagebench report {run_dir}` makes it anew"
        ) from None
    return summary


def _judged(run_dir: Path) -> Summary:
    try:
        return write_summary(run_dir)
    except StorageError:  # an archive may be read-only
        return judge(run_dir)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The log's records; a last line without its end was being written when the command was killed, and counts for nothing."""
    try:
        rows = (folder / LOG_FILE).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for number, row in enumerate(rows, 1):
        try:
            line: dict[str, Any] = json.loads(row)
            line["kind"], line.get("run_id", "")
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{folder / LOG_FILE}:{number} cannot be read ({error})", "search again under another --search-id") from None
        yield line


class SearchLog:
    """The log of a search that runs; implements `searching.Log`. Only one command at a time has it (a lock that dies with its holder)."""

    def __init__(self, folder: Path, rules: Rules, fd: int) -> None:
        self._folder, self._fd = folder, fd
        self._tried = tried(folder, rules)
        self._begun = sum(line["kind"] == "begin" for line in _lines(folder))
        self._asks: dict[str, Ask] = {}

    @property
    def history(self) -> list[Trial]:
        return [one.trial for one in self._tried if one.counts]

    def resume(self) -> None:
        """Another command goes on."""
        self._append({"kind": "resumed"})
        self._tried = _set_aside(self._tried)

    def begin(self, ask: Ask) -> str:
        self._begun += 1
        run_id = f"run-{self._begun:04d}-n{ask.accelerators}"
        self._append({"kind": "begin", "run_id": run_id, "accelerators": ask.accelerators, "purpose": ask.purpose})
        self._asks[run_id] = ask
        return run_id

    def refuse(self, run_id: str, why: str) -> None:
        self._append({"kind": "refused", "run_id": run_id, "why": why})
        self._tried.append(Tried(run_id, Trial(*self._asks[run_id], "refused", why=why), None))

    def end(self, run_id: str, trial: Trial) -> None:
        self._tried.append(Tried(run_id, trial, None))  # its folder says the same

    def _append(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        try:
            written = os.write(self._fd, data)
            os.fsync(self._fd)
        except OSError as error:
            raise StorageError(f"cannot write {self._folder / LOG_FILE}: {error.strerror}", "free space where --results-dir points to") from None
        if written != len(data):
            raise StorageError(f"{self._folder / LOG_FILE} took {written} of {len(data)} bytes", "free space where --results-dir points to")


@contextmanager
def open_log(folder: Path, rules: Rules) -> Iterator[SearchLog]:
    """The log of a saved search, to append to. Raises UsageError where another command has it open, DatasetError, StorageError."""
    path = folder / LOG_FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}", "choose a --results-dir that is writable") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"the search in {folder} is running already", "wait for it, or choose another --search-id") from None
        os.ftruncate(fd, path.read_bytes().rfind(b"\n") + 1)  # what a killed command did not write to its end
        yield SearchLog(folder, rules, fd)
    finally:
        os.close(fd)
