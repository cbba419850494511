"""Following the ranks' traces while they grow: sums of each rank, read from the files in small pieces, so that nothing is added to a step.

The one incremental reader: the live line and the watching pages are both made of it. What it sums up is what `window`, `ranks` and `metrics` work out of
the whole files afterwards, in the same whole nanoseconds, so that the last state agrees with `summary.json`. What needs all of a trace at once (the
prefetch credit, and so `au_nominal`; quantiles; what of a sync is the sync's own cost) is not here.

Cost (measured on a busy machine): no descriptor is kept, and what is held is 1 KB a rank whatever the length of its trace; a piece is read and let go. A line
takes 5 to 10 us, a file that did not grow 0.1 ms. The reader pauses after every hundred lines, because a rank may share this process, and its wake-up must not
wait long for the interpreter.
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from storagebench.records import STEP_COLUMNS, TRACE_DIR, StepRecord
from storagebench.traces import MAX_LINE_BYTES, parse_step

# Upper bounds of the histogram of fetch times in seconds; the first holds the steps that did not wait at all, and one without bound follows.
FETCH_BUCKETS_S: Final = (
    0.0, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in FETCH_BUCKETS_S)
_CHUNK_BYTES: Final = 256 * 1024
_LINES_BETWEEN_PAUSES: Final = 100
_PAUSE_S: Final = 0.0002


class RankState:
    """One rank as far as its trace was read. Times in ns; steps, `window_ns` and the sums beside it are of the window (DESIGN section 2), `samples` and
    bytes of the whole run, warm-up included. `epoch` is -1 before the first; `damaged`: a line did not read, and nothing after it counts."""

    __slots__ = (
        "_before_ns", "_open_ns", "_previous_ns", "_trains", "checksum_errors", "compute_ns", "damaged", "delivered_bytes", "epoch", "failed", "fetch_buckets", "fetch_ns",
        "finished", "first_asked_ns", "host", "host_delay_ns", "idle_steps", "io_errors", "last_end_ns", "rank", "retries", "samples", "steps", "sync_ns",
        "waits_ns", "warmup_steps", "window_ns",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rank: int | None = None
        self.host = ""
        self.epoch = -1
        self.steps = self.warmup_steps = self.idle_steps = self.samples = self.delivered_bytes = 0
        self.window_ns = self.compute_ns = self.fetch_ns = self.sync_ns = self.host_delay_ns = self.waits_ns = 0
        self.retries = self.io_errors = self.checksum_errors = 0
        self.fetch_buckets = [0] * (len(_BOUNDS_NS) + 1)
        self.first_asked_ns: int | None = None
        self.last_end_ns = 0
        self.finished = self.failed = self.damaged = False
        self._trains = False
        self._open_ns: int | None = None  # where the window stands; None in an epoch whose start nobody wrote down, which has none
        self._previous_ns = self._before_ns = 0  # the end of the last step in the schedule: idle ones left out, and all

    @property
    def au_uncorrected(self) -> float | None:
        """Nominal compute time over the window so far, 0..1; None before the first measured step, where compute takes no time, and of a real training,
        whose compute is measured and not nominal."""
        return self.compute_ns / self.window_ns if self.window_ns > 0 and self.compute_ns > 0 and not self._trains else None

    def take(self, line: bytes) -> None:
        """One whole line. Raises ValueError (msgspec.DecodeError, json.JSONDecodeError) where it does not read."""
        if line[:1] == b"[":
            self._step(parse_step(line))
        else:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"a record is an object, and this is {type(record).__name__}")
            self._other(record)

    def _other(self, record: dict[str, Any]) -> None:
        match record.get("kind"):
            case "header":
                self.rank, self.host = int(record["rank"]), str(record["host"])
            case "columns":
                if record.get("columns") != list(STEP_COLUMNS):
                    raise ValueError("steps of another shape")
            case "model":
                self._trains = True
            case "epoch_start":
                self._begin(int(record["epoch"]), int(record["start_ns"]))
            case "epoch_end":
                self.retries += int(record["retries"])
                self.io_errors += int(record["errors"])
            case "footer":
                self.finished = True
            case "error":
                self.failed = self.failed or not record.get("lost_peer")  # what only followed from another's death is not its own

    def _begin(self, epoch: int, start_ns: int) -> None:
        self.epoch = epoch
        self._open_ns = self._previous_ns = self._before_ns = start_ns

    def _step(self, step: StepRecord) -> None:
        if step.kind == "null":
            return
        if step.epoch != self.epoch:
            self._begin(step.epoch, step.asked_ns)
            self._open_ns = None
        if self.first_asked_ns is None:
            self.first_asked_ns = step.asked_ns
        self.last_end_ns = step.sync_end_ns
        before_ns, self._before_ns = self._before_ns, step.release_ns
        if step.kind == "idle":
            self.idle_steps += 1
            return
        self.samples += step.samples
        self.delivered_bytes += step.record_bytes
        self.checksum_errors += step.errors
        if step.kind == "warmup":
            self.warmup_steps += 1
            self._previous_ns = step.release_ns
            self._open_ns = None if self._open_ns is None else step.sync_end_ns
            return
        self.fetch_buckets[bisect_left(_BOUNDS_NS, step.start_ns - before_ns)] += 1
        self.waits_ns += step.start_ns - before_ns
        if self._open_ns is not None:
            self._measured(step, self._open_ns)

    def _measured(self, step: StepRecord, open_ns: int) -> None:
        self.steps += 1
        self.window_ns += step.sync_end_ns - open_ns
        self.compute_ns += step.due_ns - step.start_ns
        self.fetch_ns += step.start_ns - self._previous_ns
        self.sync_ns += step.release_ns - step.host_delay_ns - step.due_ns
        self.host_delay_ns += step.host_delay_ns
        self._open_ns, self._previous_ns = step.sync_end_ns, step.release_ns


class _Tail:
    """One file and how far it was read: to the end of the last whole line, so nothing of a line that is being written is held."""

    __slots__ = ("path", "position", "state")

    def __init__(self, path: str) -> None:
        self.path = path
        self.position = 0
        self.state = RankState()

    def read(self, size: int, chunk_bytes: int, pause: Callable[[], None]) -> None:
        """Take in what whole lines there are up to this size, in chunks. A line longer than a chunk is read again in a larger one."""
        wanted = chunk_bytes
        with open(self.path, "rb") as file:
            while self.position < size and not self.state.damaged:
                file.seek(self.position)
                data = file.read(min(wanted, size - self.position))
                end = data.rfind(b"\n") + 1
                if end:
                    self._take(data[:end], pause)
                    self.position += end
                    wanted = chunk_bytes
                elif self.position + len(data) >= size:
                    return  # the line is still being written
                elif wanted >= MAX_LINE_BYTES:
                    self.state.damaged = True
                else:
                    wanted *= 2

    def _take(self, data: bytes, pause: Callable[[], None]) -> None:
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                self.state.take(line)
            except (ValueError, KeyError, TypeError, msgspec.DecodeError):
                self.state.damaged = True  # judging will say which line it is
                return
            if number % _LINES_BETWEEN_PAUSES == 0:
                pause()


def _pause() -> None:
    time.sleep(_PAUSE_S)


class Follower:
    """The ranks of a run folder, followed. One thread polls; the states are its, and change only within `poll`."""

    def __init__(self, run_dir: Path, only_rank: int | None = None, chunk_bytes: int = _CHUNK_BYTES, pause: Callable[[], None] = _pause) -> None:
        """`only_rank`: follow just this one. `pause` is called after every hundred lines."""
        self._folder = run_dir / TRACE_DIR
        self._only = None if only_rank is None else f"rank-{only_rank:05d}.jsonl"
        self._chunk_bytes = chunk_bytes
        self._pause = pause
        self._tails: dict[str, _Tail] = {}

    def poll(self) -> None:
        """Take in what has been written since the last poll. Files that cannot be read now are left for the next time."""
        for name, path, size in self._sizes():
            tail = self._tails.get(name)
            if tail is None:
                tail = self._tails[name] = _Tail(path)
            if size > tail.position and not tail.state.damaged:
                try:
                    tail.read(size, self._chunk_bytes, self._pause)
                except OSError:
                    continue

    def _sizes(self) -> list[tuple[str, str, int]]:
        """(name, path, bytes) of each trace that is followed."""
        try:
            if self._only is not None:
                path = self._folder / self._only
                return [(self._only, str(path), path.stat().st_size)]
            with os.scandir(self._folder) as entries:
                return [
                    (entry.name, entry.path, entry.stat().st_size)
                    for entry in entries
                    if entry.name.startswith("rank-") and entry.name.endswith(".jsonl")
                ]
        except OSError:
            return []

    def ranks(self) -> list[RankState]:
        """The ranks whose header was read, by number."""
        known = [tail.state for tail in self._tails.values() if tail.state.rank is not None]
        return sorted(known, key=lambda state: state.rank or 0)
