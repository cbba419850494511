"""What the kernel counted of a thread, a process, a command and its host: CPU seconds, and time spent waiting for a core. Counters only grow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NOT_BUSY = (3, 4)  # of the row `cpu` in /proc/stat: idle and iowait
_GUESTS = 8  # from here on the columns are parts of user and nice


class Usage(NamedTuple):
    """Of this process and thread, in seconds so far. `run_delay_s`: how long this thread was ready to run and no core was free (None where the kernel
    does not count it)."""

    cpu_s: float
    run_delay_s: float | None


class HostUsage(NamedTuple):
    """Of this host: a stamp (monotonic seconds), core seconds in use by anybody so far, stolen ones among them, and by the processes of the run's
    commands (their descendants, dead ones through their parents). None where it is not known."""

    at_s: float
    busy_s: float | None
    command_s: float | None


def read_usage() -> Usage:
    """The counters now. Takes some 10 us: never on the path of a step."""
    times = os.times()
    return Usage(times.user + times.system, run_delay_s())


def read_host_usage(command_pids: Sequence[int]) -> HostUsage:
    """The counters now, of all commands of the run on this host. Takes some milliseconds, so only while nothing is measured."""
    return HostUsage(time.monotonic(), _host_busy_s(), _trees_cpu_s(command_pids))


def grown(after: float | None, before: float | None) -> float | None:
    """Seconds that a counter grew by; None where it is not known."""
    return None if after is None or before is None else round(after - before, 6)


class _Schedstat:
    """A thread's counters of the scheduler, kept open: to open and close them each time gives the interpreter away twice more. They go with the thread."""

    def __init__(self) -> None:
        self.pid, self.fd = os.getpid(), -1
        with suppress(OSError):
            self.fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


_of_thread = threading.local()


def run_delay_s() -> float | None:
    """Seconds so far in which this thread was ready to run and no core was free; None where the kernel does not count them. Takes some 2 us."""
    counters = getattr(_of_thread, "counters", None)
    if counters is None or counters.pid != os.getpid():  # a new thread, or a forked process, in which the parent's are open
        counters = _of_thread.counters = _Schedstat()
    try:
        return int(os.pread(counters.fd, 64, 0).split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


class Watch:
    """What this thread has used since the watch was made: wall and CPU seconds, and seconds without a core."""

    __slots__ = ("_cpu_s", "_delay_s", "_wall_s")

    def __init__(self) -> None:
        self._wall_s, self._cpu_s, self._delay_s = time.perf_counter(), time.thread_time(), run_delay_s()

    def wall_s(self) -> float:
        return time.perf_counter() - self._wall_s

    def cpu_s(self) -> float:
        return time.thread_time() - self._cpu_s

    def delay_s(self) -> float:
        """0 where the kernel does not count it."""
        now_s = run_delay_s()
        return 0.0 if now_s is None or self._delay_s is None else now_s - self._delay_s


def _host_busy_s() -> float | None:
    try:
        with open("/proc/stat", "rb") as file:
            ticks = [int(value) for value in file.readline().split()[1:]]
    except (OSError, ValueError):
        return None
    return sum(value for column, value in enumerate(ticks[:_GUESTS]) if column not in _NOT_BUSY) / _TICKS_PER_S


def _trees_cpu_s(pids: Sequence[int]) -> float | None:
    """CPU seconds of these processes and all below them, each counted once; None where one of them is not to be seen (in a container of its own, say)."""
    try:
        roots = [psutil.Process(pid) for pid in pids]
        processes = {each.pid: each for root in roots for each in (root, *root.children(recursive=True))}
    except psutil.Error:
        return None
    total_s = 0.0
    for process in processes.values():
        with suppress(psutil.Error):  # it ended meanwhile, and its parent has its time
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s
