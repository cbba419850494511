"""Progress on stderr: a live line on a terminal, plain lines now and then otherwise. stdout stays the result's."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storagebench.queryrecords import query_traces
from storagebench.records import rank_trace_path
from storagebench.traces import parse_step
from storagebench.units import format_bytes, format_seconds

_LIVE_PERIOD_S = 0.5
_PLAIN_PERIOD_S = 10.0


def say(text: str) -> None:
    """A message for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


class Line:
    """One line that is rewritten on a terminal, or printed every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = time.monotonic() if not self._live else 0.0
        self._width = 0

    @property
    def period_s(self) -> float:
        return _LIVE_PERIOD_S if self._live else _PLAIN_PERIOD_S

    def show(self, text: str) -> None:
        """Show it, unless the last one is too recent."""
        now = time.monotonic()
        if now - self._last < self.period_s:
            return
        self._last = now
        if self._live:
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = max(self._width, len(text))
        else:
            say(text)

    def clear(self) -> None:
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


@contextmanager
def counting(what: str) -> Iterator[Any]:
    """A callback (done, total) that shows a share and the time left."""
    line = Line()
    begin = time.monotonic()

    def progress(done: int, total: int) -> None:
        if done and total:
            left = (time.monotonic() - begin) / done * (total - done)
            line.show(f"{what}: {done} of {total} samples ({done / total:.0%}), {format_seconds(left)} left")

    try:
        yield progress
    finally:
        line.clear()


@contextmanager
def following(run_dir: Path, planned_steps: int, compute_ns: int, world_size: int) -> Iterator[None]:
    """Follow rank 0's trace while it grows: step, AU so far, MB/s, time left. Read from the file, so that nothing is added to a step."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(run_dir, planned_steps, compute_ns, world_size, stop), name="live-line", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(run_dir: Path, planned_steps: int, compute_ns: int, world_size: int, stop: threading.Event) -> None:
    line, path = Line(), rank_trace_path(run_dir, 0)
    position, pending = 0, b""
    steps, num_bytes, first_ns, last_ns = 0, 0, 0, 0
    while not stop.wait(line.period_s / 2):
        if not path.exists():
            continue
        with open(path, "rb") as file:
            file.seek(position)
            data = file.read(1 << 24)
        position += len(data)
        rows = (pending + data).split(b"\n")
        pending = rows.pop()
        for row in rows:
            if not row.startswith((b'["step"', b'["warmup"')):
                continue
            step = parse_step(row)
            steps += 1
            num_bytes += step.record_bytes
            first_ns = first_ns or step.asked_ns
            last_ns = step.sync_end_ns
        if last_ns > first_ns:
            seconds = (last_ns - first_ns) / 1e9
            au = f"AU {steps * compute_ns / 1e9 / seconds:.3f}, " if compute_ns else ""
            left = seconds / steps * max(0, planned_steps - steps)
            rate = format_bytes(world_size * num_bytes / seconds)
            line.show(f"step {steps} of {planned_steps}, {au}about {rate}/s, {format_seconds(left)} left")
    line.clear()


@contextmanager
def following_queries(run_dir: Path, scenario: str) -> Iterator[None]:
    """Follow the newest trial's trace while it grows: samples so far and their rate. Read from the file, so that nothing is added to a query."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow_queries, args=(run_dir, scenario, stop), name="live-line", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow_queries(run_dir: Path, scenario: str, stop: threading.Event) -> None:
    line, current = Line(), Path()
    position = samples = 0
    begin = time.monotonic()
    while not stop.wait(line.period_s / 2):
        trials = query_traces(run_dir)
        if not trials:
            continue
        if trials[-1] != current:
            current, position, samples, begin = trials[-1], 0, 0, time.monotonic()
        with open(current, "rb") as file:
            file.seek(position)
            data = file.read(1 << 24)
        position += len(data)
        samples += data.count(b"\n[")
        seconds = time.monotonic() - begin
        trial = f"trial {len(trials)}, " if len(trials) > 1 else ""
        line.show(f"{trial}{scenario}: {samples} samples in {format_seconds(seconds)}, {samples / max(seconds, 1e-9):.0f} a second")
    line.clear()
