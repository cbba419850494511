"""Several ranks in one process, each in a thread of its own: they meet here first, and one of them speaks for all to the other processes.

A rank costs its thread, its batches and its trace; the dataset, the imports and the connection to the other processes are there once. What ends one
rank ends all: the others are told at their next look at the clock, or where they wait.

One thread paces all: ranks in step have one deadline, and as many threads would wake up at it, one behind the other for the interpreter, milliseconds
late. The pacer stamps the end of their computes on time and lets them go; how late each of them then asks for its batch hides behind its next compute,
as a queue before a real accelerator hides it, and counts as the host's delay from there on.
"""

from __future__ import annotations

import heapq
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.clock import SystemClock
from storagebench.world import Agreed, Place, World

# A thread that wants the interpreter wakes up after this time, over and over, until a busy one lets go. Python's 5 ms would be added to each wake-up
# of a rank while any thread computes (reference/measurement.md section 1); at 0.2 ms 64 ranks made 36,000 switches a second, twice the CPU, and AU fell.
_SWITCH_INTERVAL_S = 0.002
_STACK_BYTES = 2**20
_MOST_S_TO_END = 5.0


class PeerFailedError(Exception):
    """Another rank of this process has failed, or the run was interrupted: this one ends without a word, since that one has said why."""


class ConsumerGroup:
    """The ranks of one process. `outer` joins the processes; its place is the process's."""

    def __init__(self, outer: World, places: Sequence[Place]) -> None:
        self._outer = outer
        self.worlds = tuple(ConsumerWorld(self, place) for place in places)
        self._lock = threading.Lock()
        self._gates = [_closed_gate() for _ in places]
        self._values: list[Any] = [None] * len(places)
        self._arrived = 0
        self._result: Any = None
        self.ended = False
        self.pacer = Pacer(len(places))

    def meet(self, index: int, value: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Wait for all ranks of the process; the last one calls `combine` with their values, in order, and all get what it returns."""
        with self._lock:
            if self.ended:
                raise PeerFailedError
            self._values[index] = value
            self._arrived += 1
            is_last = self._arrived == len(self._gates)
            if is_last:
                self._arrived = 0
        if not is_last:
            self._gates[index].acquire()
            if self.ended:
                raise PeerFailedError
            return self._result
        self._result = result = combine(self._values)
        for other, gate in enumerate(self._gates):
            if other != index:
                _open(gate)
        return result

    def end(self) -> None:
        """End all ranks: those that wait for one another now, the others at their next look at the clock."""
        with self._lock:
            self.ended = True
        for gate in self._gates:
            _open(gate)
        self.pacer.end()

    # -- collectives: within the process, then between processes -------------------------------------------------------------------------------

    def barrier(self, _values: list[Any]) -> None:
        self._outer.barrier()

    def agree(self, values: list[int]) -> Agreed:
        return self._outer.agree(max(values))

    def gather(self, values: list[Any]) -> list[Any]:
        return [value for of_process in self._outer.gather(list(values)) for value in of_process]

    def count_ids(self, values: list[tuple[NDArray[np.int64], int]]) -> NDArray[Any]:
        return self._outer.count_ids(np.concatenate([ids for ids, _ in values]), values[0][1])

    def close(self) -> None:
        self._outer.close()


class Pacer:
    """Sleeps for all ranks of a process. `start` it before the first rank sleeps."""

    def __init__(self, num_sleepers: int) -> None:
        self._lock = threading.Lock()
        self._gates = [_closed_gate() for _ in range(num_sleepers)]
        self._woke_ns = [0] * num_sleepers
        self._deadlines: list[tuple[int, int]] = []  # a heap of (ns, who)
        self._sooner = _closed_gate()
        self._ended = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="pacer", daemon=True).start()

    def end(self) -> None:
        """Let all go; `sleep_until_ns` returns at once from now on."""
        with self._lock:
            self._ended = True
        for gate in (self._sooner, *self._gates):
            _open(gate)

    def sleep_until_ns(self, who: int, deadline_ns: int) -> int:
        """When the pacer saw that the deadline had passed. The caller itself may run later."""
        now_ns = time.monotonic_ns()
        if deadline_ns <= now_ns:
            return now_ns
        with self._lock:
            if self._ended:
                return now_ns
            heapq.heappush(self._deadlines, (deadline_ns, who))
            is_first = self._deadlines[0][1] == who
        if is_first:
            _open(self._sooner)
        self._gates[who].acquire()
        return self._woke_ns[who]

    def _run(self) -> None:
        SystemClock()  # sets this thread's timer
        while not self._ended:
            with self._lock:
                first_ns = self._deadlines[0][0] if self._deadlines else None
            self._sooner.acquire(timeout=-1 if first_ns is None else max(0, first_ns - time.monotonic_ns()) / 1e9)
            now_ns = time.monotonic_ns()
            due = []
            with self._lock:
                while self._deadlines and self._deadlines[0][0] <= now_ns:
                    _, who = heapq.heappop(self._deadlines)
                    self._woke_ns[who] = now_ns
                    due.append(who)
            for who in due:
                _open(self._gates[who])


def _closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


def _open(gate: threading.Lock) -> None:
    with suppress(RuntimeError):  # it is open
        gate.release()


class ConsumerWorld:
    """`World` for one rank of a group."""

    def __init__(self, group: ConsumerGroup, place: Place) -> None:
        self._group = group
        self.place = place

    def barrier(self) -> None:
        self._group.meet(self.place.rank_of_process, None, self._group.barrier)

    def agree(self, due_ns: int) -> Agreed:
        found: Agreed = self._group.meet(self.place.rank_of_process, due_ns, self._group.agree)
        return found

    def count_ids(self, ids: NDArray[np.int64], num_samples: int) -> NDArray[Any]:
        found: NDArray[Any] = self._group.meet(self.place.rank_of_process, (ids, num_samples), self._group.count_ids)
        return found

    def gather(self, value: Any) -> list[Any]:
        return list(self._group.meet(self.place.rank_of_process, value, self._group.gather))

    def close(self) -> None:
        """The group's connection is closed with the group."""


class ConsumerClock(SystemClock):
    """The real clock of one rank. Raises PeerFailedError once the group has ended."""

    def __init__(self, group: ConsumerGroup, place: Place) -> None:
        super().__init__()
        self._group = group
        self._who = place.rank_of_process

    def now_ns(self) -> int:
        if self._group.ended:
            raise PeerFailedError
        return time.monotonic_ns()

    def sleep_until_ns(self, deadline_ns: int) -> int:
        woke_ns = self._group.pacer.sleep_until_ns(self._who, deadline_ns)
        if self._group.ended:
            raise PeerFailedError
        return woke_ns


@contextmanager
def _many_threads() -> Iterator[None]:
    """Within the block this process is made for many threads that mostly sleep."""
    interval_s, stack_bytes = sys.getswitchinterval(), threading.stack_size(_STACK_BYTES)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        threading.stack_size(stack_bytes)


def run_consumers(group: ConsumerGroup, consume: Callable[[ConsumerWorld], int]) -> int:
    """Call `consume` for each rank of the group in a thread of its own; the exit code of the first one that failed, or 0.

    `consume` returns an exit code and says itself what went wrong. After a failure, or when this thread is interrupted, the others have some seconds to
    end; one that hangs in the storage is left behind (its thread ends with the process).
    """
    codes: list[int] = []
    changed = threading.Condition()

    def consumer(world: ConsumerWorld) -> None:
        code = 1
        try:
            code = consume(world)
        finally:
            if code:
                group.end()
            with changed:
                codes.append(code)
                changed.notify()

    with _many_threads():
        threads = [threading.Thread(target=consumer, args=(world,), name=f"rank-{world.place.rank}", daemon=True) for world in group.worlds]
        try:
            group.pacer.start()
            for thread in threads:
                thread.start()
            with changed:
                changed.wait_for(lambda: group.ended or len(codes) == len(threads))
        finally:
            group.end()  # the pacer too
            end_s = time.monotonic() + _MOST_S_TO_END
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end_s - time.monotonic()))
    return next((code for code in codes if code), 0)
