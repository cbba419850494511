"""Progress on stderr: a live line on a terminal, plain lines now and then otherwise. stdout stays the result's."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storagebench.follow import Follower, RankState
from storagebench.queryrecords import query_traces
from storagebench.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from storagebench.watch import Watch

_LIVE_PERIOD_S = 0.5
_PLAIN_PERIOD_S = 10.0
_WATCH_PERIOD_S = 1.0
_REST = 9  # times as long as reading took: with thousands of ranks it stays under a tenth of a core


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
def following(run_dir: Path, plan: Mapping[str, Any], watch: Watch | None = None) -> Iterator[None]:
    """Follow the traces while they grow, for the live line (of rank 0: step, AU so far, MB/s, time left) and for who watches from outside. Read from the
    files, so that nothing is added to a step. After the block, however it ends, the final state is there to be watched."""
    stop = threading.Event()
    if watch is not None:
        watch.begin(run_dir)
    reader: Follower | Watch = Follower(run_dir, only_rank=0) if watch is None else watch
    thread = threading.Thread(target=_follow, args=(reader, plan, stop), name="live-line", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if watch is not None:
            watch.finish()


def _follow(reader: Follower | Watch, plan: Mapping[str, Any], stop: threading.Event) -> None:
    line = Line()
    period_s = line.period_s / 2 if isinstance(reader, Follower) else min(line.period_s / 2, _WATCH_PERIOD_S)
    rest_s = period_s
    while not stop.wait(rest_s):
        begin = time.monotonic()
        reader.poll()
        rest_s = max(period_s, _REST * (time.monotonic() - begin))
        ranks = reader.ranks()
        if ranks and ranks[0].rank == 0 and ranks[0].first_asked_ns is not None:
            line.show(_line_text(ranks[0], plan))
    line.clear()


def _line_text(state: RankState, plan: Mapping[str, Any]) -> str:
    steps = state.steps + state.warmup_steps + state.idle_steps
    seconds = max(state.last_end_ns - (state.first_asked_ns or 0), 1) / 1e9
    au = "" if state.au_uncorrected is None else f"AU {state.au_uncorrected:.3f}, "
    left = seconds / max(steps, 1) * max(0, plan["planned_steps"] - steps)
    rate = format_bytes(plan["world_size"] * state.delivered_bytes / seconds)
    return f"step {steps} of {plan['planned_steps']}, {au}about {rate}/s, {format_seconds(left)} left"


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
