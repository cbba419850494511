"""AU and its window: pure arithmetic on one rank's step records (DESIGN section 2, reference/measurement.md section 1).

The window of an epoch runs from the end of its last warm-up step (from `loader.start` where it has none) to the end of its last step, on the real
clock. Batches that lay ready when the window opened after a warm-up were not fetched in it: they are taken out of the numerator (the prefetch
credit), as far as the queue was emptier when the loader had produced the epoch's last batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from storagebench.traces import NULL, STEP, UNKNOWN, WARMUP, Ints, Steps


@dataclass(frozen=True, slots=True)
class EpochWindow:
    """One rank and epoch. Times in ns; `queue_fall_steps` are steps that were prefetched before the window, less those that lay ready at its end (below
    0 where more lay ready then); `kept_up`: the rank never waited, although more steps were made than lay ready; `credit_steps` is what of the fall
    counts; `uncertain_steps` is what stays unknown."""

    epoch: int
    steps: int
    samples: int
    record_bytes: int
    open_ns: int
    close_ns: int
    compute_ns: int
    measured_compute_ns: int
    fetch_ns: int
    sync_ns: int
    host_delay_ns: int
    queue_fall_steps: float
    kept_up: bool
    credit_steps: float
    uncertain_steps: float

    @property
    def length_ns(self) -> int:
        return self.close_ns - self.open_ns


@dataclass(frozen=True, slots=True)
class RankWindow:
    """All epochs of one rank, added up. AU are ratios 0..1, None where nothing is emulated or measured. `paced`: the compute is a nominal one; else it was
    measured (a real training), and only `au_measured` means something."""

    epochs: tuple[EpochWindow, ...]
    paced: bool = True

    def _sum(self, name: str) -> float:
        return float(sum(getattr(epoch, name) for epoch in self.epochs))

    @property
    def steps(self) -> int:
        return int(self._sum("steps"))

    @property
    def length_ns(self) -> int:
        return int(self._sum("length_ns"))

    @property
    def kept_share(self) -> float:
        """Share of the window's steps that were also fetched in it, 1 at most: what lies ready at the end was not computed."""
        return 1.0 - max(0.0, self._sum("credit_steps")) / self.steps if self.steps else 1.0

    @property
    def au_uncorrected(self) -> float | None:
        return self._ratio(self._sum("compute_ns")) if self.paced else None

    @property
    def au_nominal(self) -> float | None:
        au = self._ratio(self._sum("compute_ns") * self.kept_share) if self.paced else None
        return None if au is None else min(1.0, au)

    @property
    def au_measured(self) -> float | None:
        return self._ratio(self._sum("measured_compute_ns"))

    @property
    def uncertainty(self) -> float | None:
        return self._sum("uncertain_steps") / self.steps if self.steps else None

    def _ratio(self, compute_ns: float) -> float | None:
        return compute_ns / self.length_ns if self.length_ns > 0 and self._sum("compute_ns") > 0 else None


def by_epoch(own: Steps) -> Iterator[tuple[int, Steps]]:
    """Each epoch with its steps, in order. `own`: a rank's steps without those of the null loader."""
    if len(own):
        edges = [0, *(1 + np.flatnonzero(np.diff(own.epoch))).tolist(), len(own)]
        for first, end in pairwise(edges):
            yield int(own.epoch[first]), own[first:end]


def own_steps(steps: Steps) -> Steps:
    """All steps but those of the null loader."""
    return steps.pick(steps.kind != NULL)


def rank_window(own: Steps, epoch_starts: Mapping[int, int], complete_epochs: set[int], prefetch: int, paced: bool = True) -> RankWindow:
    """The windows of one rank. `own`: its steps without null ones, in order; `epoch_starts` epoch -> ns of loader.start; `complete_epochs` are those
    whose last planned step is in the trace; `prefetch` is the depth that the loader was given."""
    windows = []
    for epoch, steps in by_epoch(own):
        measured = steps.pick(steps.kind == STEP)
        if len(measured) and epoch in epoch_starts:
            windows.append(_epoch_window(epoch, steps, measured, epoch_starts[epoch], epoch in complete_epochs, prefetch))
    return RankWindow(tuple(windows), paced)


def waits_and_lengths_ns(own: Steps, epoch_starts: Mapping[int, int]) -> tuple[Ints, Ints]:
    """(ns without a batch, ns of the step) of each measured step, in the schedule. `own` and `epoch_starts` as in `rank_window`."""
    before = before_ns(own, own.release_ns, epoch_starts)
    measured = own.kind == STEP
    return (own.start_ns - before)[measured], (own.release_ns - before)[measured]


def before_ns(own: Steps, ends_ns: Ints, epoch_starts: Mapping[int, int]) -> Ints:
    """The end of the step before each; of an epoch's first its loader.start (when it asked, where that is not known)."""
    ends = np.roll(ends_ns, 1)
    for first in np.flatnonzero(np.diff(own.epoch, prepend=-1)).tolist():
        ends[first] = epoch_starts.get(int(own.epoch[first]), int(own.asked_ns[first]))
    return ends


def spans_of_clock_ns(own: Steps, epoch_starts: Mapping[int, int]) -> tuple[NDArray[np.bool_], Ints]:
    """Which steps are measured (in epochs whose start is known), and the ns of each of them on the real clock; they add up to the window of a rank
    whose warm-up ends before its first measured step."""
    known = np.isin(own.epoch, np.array(list(epoch_starts), dtype=np.int64))
    measured = (own.kind == STEP) & known
    return measured, (own.sync_end_ns - before_ns(own, own.sync_end_ns, epoch_starts))[measured]


def in_step(windows: Sequence[RankWindow]) -> list[RankWindow]:
    """The windows of ranks that a sync keeps in step: each gets the mean of their queues' falls, unless none ever waited. They consume at one pace, and
    which of them has its batch a little before the others changes from step to step, so only the batches of all together tell whether the queues were
    fuller at the start: a rank that was always the first never waits, and its queue rises by what another's falls."""
    if len(windows) < 2 or len({tuple(epoch.epoch for epoch in window.epochs) for window in windows}) > 1:
        return list(windows)
    shared = [
        0.0 if all(epoch.kept_up for epoch in epochs) else sum(epoch.queue_fall_steps for epoch in epochs) / len(windows)
        for epochs in zip(*(window.epochs for window in windows), strict=True)
    ]
    return [
        replace(window, epochs=tuple(replace(epoch, credit_steps=credit) for epoch, credit in zip(window.epochs, shared, strict=True)))
        for window in windows
    ]


def _epoch_window(epoch: int, steps: Steps, measured: Steps, start_ns: int, complete: bool, prefetch: int) -> EpochWindow:
    warm = np.flatnonzero(steps.kind == WARMUP)
    open_ns = int(steps.sync_end_ns[warm[-1]]) if len(warm) else start_ns
    previous_ns = int(steps.release_ns[warm[-1]]) if len(warm) else start_ns
    start, due, release, host = measured.start_ns, measured.due_ns, measured.release_ns, measured.host_delay_ns
    fall, uncertain = _queue_fall(measured, open_ns, complete, prefetch) if len(warm) else (0.0, 0.0)
    kept_up = len(measured) > prefetch and not (start[1:] > release[:-1]).any()
    return EpochWindow(
        epoch=epoch,
        steps=len(measured),
        samples=int(measured.samples.sum()),
        record_bytes=int(measured.record_bytes.sum()),
        open_ns=open_ns,
        close_ns=int(measured.sync_end_ns[-1]),
        compute_ns=int((due - start).sum()),
        measured_compute_ns=int((measured.compute_end_ns - start).sum()),
        fetch_ns=int((start[1:] - release[:-1]).sum()) + int(start[0]) - previous_ns,
        sync_ns=int((release - host - due).sum()),
        host_delay_ns=int(host.sum()),
        queue_fall_steps=fall,
        kept_up=bool(kept_up),
        credit_steps=0.0 if kept_up else fall,
        uncertain_steps=0.0 if kept_up else uncertain,
    )


def _queue_fall(measured: Steps, open_ns: int, complete: bool, prefetch: int) -> tuple[float, float]:
    """(steps prefetched before the window, less those put back, steps that stay uncertain) of a window that opened after a warm-up."""
    ready_ns = measured.ready_ns
    if not (ready_ns == UNKNOWN).any():
        if ready_ns.max() < open_ns:
            return 0.0, float(len(measured))  # all was ready before: the window says nothing about the loader
        at_start = int((ready_ns < open_ns).sum())
        # Batches that lay ready, not yet asked for, when the epoch's last batch became ready.
        at_end = int((measured.asked_ns > ready_ns.max()).sum()) if complete else int(measured.queue_level[-1])
        if at_end != UNKNOWN:
            return float(at_start - at_end), 1.0 if at_start > at_end else 0.0
    return _fall_between_stalls(measured, open_ns, prefetch)


def _fall_between_stalls(measured: Steps, open_ns: int, prefetch: int) -> tuple[float, float]:
    """For queues that nobody sees: at a stalled step the queue is empty, so between two of them all that was used was fetched. The window's AU is
    scaled to the one between the first and the last stall, once a full queue was consumed; where that is under half the steps, it is only bounded."""
    stalled = 1 + np.flatnonzero(measured.start_ns[1:] > measured.release_ns[:-1])
    late = stalled[stalled >= prefetch]
    if len(late) < 2 or late[-1] - late[0] < len(measured) / 2:
        return 0.0, float(min(prefetch, len(measured)))
    first, last = int(late[0]), int(late[-1])
    steps, length_ns = last - first, int(measured.release_ns[last]) - int(measured.release_ns[first])
    whole_ns = int(measured.sync_end_ns[-1]) - open_ns
    return max(0.0, len(measured) - steps * whole_ns / length_ns), 0.0
