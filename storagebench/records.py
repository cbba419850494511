"""The run folder on disk: its records, the schema version, and append-only writing. `traces` reads what is written here.

Judging never needs the bench: this module imports no loader, dataset, storage, world or torch. A trace is one JSON value a line; each record
reaches the kernel by one write() before the next step, so a SIGKILL loses at most the step in flight.

Schema 3. A step is an array, the values of `STEP_COLUMNS` in order: a third of the bytes of an object, and a tenth of the time to make and to read.
The columns are named in each file, by a record of kind `columns` before the first step. Every other record is an object with a `kind`: header,
dataset (as the rank read it), opened (the loader), cache, epoch_start, epoch_end, error, footer, and of a real training model (what is trained, where),
trained (an epoch's samples and mean loss, null where it is no finite number) and eval (the accuracy after an epoch on all ranks' shares of the held-out
split, and a checksum of the weights); in host files, one for each member (`members`): header
(with `member` and the label of its `host`), host (a sample each second), ceiling (the storage probed raw), headroom (the storage asked for more than the
run did), written (what writers wrote was deleted), clock (`wall_offset_s` of this member's wall clock to member 0's, `uncertainty_s` half the round trip),
lost (in member 0's: `member`, its `host` and `ranks`, `why`), end (member 0's counts for the run; it may have `failed_host`); in files of
writers: header, start, writing (the keys of a shard that is begun), shard (it is stored), error, end. Stamps are CLOCK_MONOTONIC nanoseconds of that host.
`run.json` has `launcher` ("" where the run was started by hand), `hosts` (first that of rank 0, each with its facts and versions) and `members`.
Schema 1 (never released) had steps as objects, schema 2 (never released) one host, at the top of `run.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from storagebench.errors import DatasetError, StorageError, UsageError

SCHEMA_VERSION = 3
RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"
TRACE_DIR = "trace"


class StepRecord(msgspec.Struct, array_like=True):
    """One step of one rank. Times are nanoseconds of CLOCK_MONOTONIC. `kind`: null (of the null loader), warmup, step (measured) or idle.

    The schedule: `start_ns` = max(end of the step before, ready), `due_ns` = start + compute, `release_ns` = the scheduled end after sync, later than
    the ranks' latest due only by a host stall. The real clock: `asked_ns`, `ready_ns`, `got_ns`, `compute_end_ns`, `sync_end_ns`. `spans_s` is wall
    time of the stages over all workers, `prep_cpu_s` the CPU time of those after the fetch, `run_delay_s` how long workers at it were without a core;
    `copy_s` how long the batch took onto a real device (before `start_ns`).
    """

    kind: str
    epoch: int
    step: int
    asked_ns: int
    ready_ns: int | None
    got_ns: int
    start_ns: int
    due_ns: int
    compute_end_ns: int
    release_ns: int
    sync_end_ns: int
    host_delay_ns: int
    queue_level: int | None
    samples: int
    record_bytes: int
    handover_bytes: int
    storage_bytes: int | None = None
    retries: int = 0
    errors: int = 0
    verified: int = 0
    spans_s: Mapping[str, float] = msgspec.field(default_factory=dict)
    prep_cpu_s: float = 0.0
    run_delay_s: float = 0.0
    ids_hash: int = 0
    checksum: int | None = None
    bad_samples: tuple[tuple[int, str], ...] = ()
    copy_s: float = 0.0


STEP_COLUMNS = StepRecord.__struct_fields__


def _plain(value: Any) -> Any:
    """A numpy scalar (which a loader's spans may be) as a plain number."""
    return value.item()


_encode_into = msgspec.json.Encoder(enc_hook=_plain).encode_into


def step_line(record: StepRecord) -> bytearray:
    """The line of a step. Raises AttributeError for a value that JSON has nothing for."""
    line = bytearray()
    _encode_into(record, line)
    line += b"\n"
    return line


class TraceWriter:
    """Appends records to one file, created exclusively: one write() a record, never rewritten. Raises StorageError when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _cannot("create the trace", path, error) from None

    def step(self, record: StepRecord) -> None:
        if not self._named:
            self.write({"kind": "columns", "columns": STEP_COLUMNS})
            self._named = True
        self._append(step_line(record))

    def write(self, record: Mapping[str, Any]) -> None:
        # Not msgspec: the text of an error may have what is no UTF-8 (a path, say), and json escapes it.
        self._append(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def row(self, values: msgspec.Struct) -> None:
        """A record that is an array (`array_like`). Safe to call from several threads: one write() a record."""
        line = bytearray()
        _encode_into(values, line)
        line += b"\n"
        self._append(line)

    def _append(self, line: bytes | bytearray) -> None:
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            raise _cannot("write the trace", self._path, error) from None
        if written != len(line):
            raise StorageError(f"the trace {self._path} took {written} of {len(line)} bytes", "free space where --results-dir points to")

    def sync(self) -> None:
        """Make what is written durable. Takes a millisecond or more: never on the step path."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.fdatasync(self._fd)
            os.close(self._fd)
            self._fd = -1


def _cannot(action: str, path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot {action} {path}: {error.strerror}", "choose a --results-dir that exists, is writable and has space")


def create_run_dir(results_dir: Path, run_id: str) -> Path:
    """A new run folder. UsageError if this run id exists, StorageError if the place refuses."""
    run_dir = results_dir / run_id
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        run_dir.mkdir()
        (run_dir / TRACE_DIR).mkdir()
    except FileExistsError:
        raise UsageError(f"run {run_id!r} exists in {results_dir}", "choose another --run-id; runs are never overwritten") from None
    except OSError as error:
        raise _cannot("create the run folder", run_dir, error) from None
    return run_dir


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole: temporary name, fsync, rename, fsync of the folder. Keys stay in order, so the same value gives the same bytes."""
    write_whole(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole and durable, or not at all."""
    temp = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        with open(temp, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise _cannot("write", path, error) from None


def read_run(run_dir: Path) -> dict[str, Any]:
    """`run.json`. Raises UsageError where this is no run folder or is of another schema."""
    path = run_dir / RUN_FILE
    try:
        run: dict[str, Any] = json.loads(path.read_bytes())
        version = run["schema_version"]
    except FileNotFoundError:
        raise UsageError(f"{run_dir} is no run folder: {RUN_FILE} is missing", "give the folder that `storagebench run` printed") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error})", "the run folder is damaged") from None
    if version != SCHEMA_VERSION:
        raise UsageError(f"{path} has schema {version}, and this storagebench reads {SCHEMA_VERSION}", "use the version that wrote it")
    return run


def rank_traces(run_dir: Path) -> list[Path]:
    return sorted((run_dir / TRACE_DIR).glob("rank-*.jsonl"))


def host_traces(run_dir: Path) -> list[Path]:
    return sorted((run_dir / TRACE_DIR).glob("host-*.jsonl"))


def host_trace_path(run_dir: Path, member: int) -> Path:
    return run_dir / TRACE_DIR / f"host-{member:05d}.jsonl"


def writer_traces(run_dir: Path) -> list[Path]:
    return sorted((run_dir / TRACE_DIR).glob("writer-*.jsonl"))


def writer_trace_path(run_dir: Path, writer: int) -> Path:
    return run_dir / TRACE_DIR / f"writer-{writer:05d}.jsonl"


def rank_trace_path(run_dir: Path, rank: int) -> Path:
    return run_dir / TRACE_DIR / f"rank-{rank:05d}.jsonl"


def config_digest(config: Mapping[str, Any]) -> str:
    """Hex digest of a run's config as it stands in `run.json`: each rank writes down the one that it started with."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def as_plain(value: Any) -> Any:
    """A frozen dataclass as plain data for JSON."""
    return asdict(value)
