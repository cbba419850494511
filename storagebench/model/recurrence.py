"""The pacing recurrence over given read times: what an ideal harness would measure for the very draws of a run.

`start_j = max(end_{j-1}, ready_j)`, `end_j = start_j + c`; with several ranks all steps end with the last (reference/measurement.md section 1,
DESIGN section 2). Times are seconds; the first read begins at 0.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """`ready` and `start` [ranks, steps]; `end` [steps], which all ranks share."""

    ready: Times
    start: Times
    end: Times
    compute_s: float

    def asked(self) -> Times:
        """[steps]: a step asks for its batch when the step before has ended."""
        return np.concatenate([[0.0], self.end[:-1]])

    def au(self, warmup: int = 0) -> float:
        """Compute time over the window from the end of the warm-up steps to the end of the last, without the batches that lay ready when it opened and
        were not put back (T4: `c (S - dq) / T`, dq the mean over ranks; nothing to take out where no step waited)."""
        open_s = float(self.end[warmup - 1]) if warmup else 0.0
        credit = max(0.0, float(np.mean([self._prefetched(rank, warmup, open_s) for rank in range(len(self.ready))]))) if warmup else 0.0
        return min(1.0, self.compute_s * (len(self.end) - warmup - credit) / (float(self.end[-1]) - open_s))

    def _prefetched(self, rank: int, warmup: int, open_s: float) -> int:
        """Batches that lay ready at the start, less those that did when the last one became ready."""
        ready, asked = self.ready[rank, warmup:], self.asked()[warmup:]
        if not (ready[1:] > asked[1:]).any():
            return 0
        return int((ready < open_s).sum()) - int((asked > ready.max()).sum())


def pace(reads_s: Times, compute_s: float, depth: int, readers: int = 1) -> Schedule:
    """Steps of ranks in sync. `reads_s` [ranks, steps] is how long each read takes once it has begun, from 0; `depth` batches may be ready or in flight
    (0: a batch is read when it is asked for); `readers` of one rank, from 1, take reads in order.

    A read begins when a reader is free and the batch `depth` steps before it was taken.
    """
    ranks, steps = reads_s.shape
    ready, start, end = np.zeros((ranks, steps)), np.zeros((ranks, steps)), np.zeros(steps)
    free = [[0.0] * readers for _ in range(ranks)]
    previous_s = 0.0
    for step in range(steps):
        for rank in range(ranks):
            room_s = previous_s if depth == 0 else start[rank, step - depth] if step >= depth else 0.0
            ready[rank, step] = max(room_s, heapq.heappop(free[rank])) + reads_s[rank, step]
            heapq.heappush(free[rank], ready[rank, step])
            start[rank, step] = max(previous_s, ready[rank, step])
        previous_s = end[step] = start[:, step].max() + compute_s
    return Schedule(ready, start, end, compute_s)
