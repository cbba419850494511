"""AU and its window: pure arithmetic on one rank's step records (DESIGN section 2, reference/measurement.md section 1).

The window of an epoch runs from the end of its last warm-up step (from `loader.start` where it has none) to the end of its last step, on the real
clock. Batches that lay ready when the window opened after a warm-up were not fetched in it: they are taken out of the numerator (the prefetch
credit), as far as the queue was emptier when the loader had produced the epoch's last batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from storagebench.records import StepRecord, Trace


@dataclass(frozen=True)
class EpochWindow:
    """One rank and epoch. Times in ns; `credit_steps` are steps that were prefetched before the window, less those that lay ready at its end (below 0
    where more lay ready then); `uncertain_steps` is what stays unknown."""

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
    credit_steps: float
    uncertain_steps: float

    @property
    def length_ns(self) -> int:
        return self.close_ns - self.open_ns


@dataclass(frozen=True)
class RankWindow:
    """All epochs of one rank, added up. AU are ratios 0..1, None where nothing is emulated or measured."""

    epochs: tuple[EpochWindow, ...]

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
        return self._ratio(self._sum("compute_ns"))

    @property
    def au_nominal(self) -> float | None:
        au = self._ratio(self._sum("compute_ns") * self.kept_share)
        return None if au is None else min(1.0, au)

    @property
    def au_measured(self) -> float | None:
        return self._ratio(self._sum("measured_compute_ns"))

    @property
    def uncertainty(self) -> float | None:
        return self._sum("uncertain_steps") / self.steps if self.steps else None

    def _ratio(self, compute_ns: float) -> float | None:
        return compute_ns / self.length_ns if self.length_ns > 0 and self._sum("compute_ns") > 0 else None


def rank_window(steps: Sequence[StepRecord], epoch_starts: dict[int, int], complete_epochs: set[int], prefetch: int) -> RankWindow:
    """The windows of one rank. `steps` without null records, in order; `epoch_starts` epoch -> ns of loader.start; `complete_epochs` are those whose
    last planned step is in the trace; `prefetch` is the depth that the loader was given."""
    windows = []
    for epoch, group in groupby(steps, key=lambda step: step.epoch):
        records = list(group)
        measured = [step for step in records if step.kind == "step"]
        if measured and epoch in epoch_starts:
            windows.append(_epoch_window(epoch, records, measured, epoch_starts[epoch], epoch in complete_epochs, prefetch))
    return RankWindow(tuple(windows))


def waits_and_steps_s(trace: Trace) -> list[tuple[float, float]]:
    """(seconds without a batch, seconds of the step) of each measured step, in the schedule."""
    starts = {record["epoch"]: record["start_ns"] for record in trace.of_kind("epoch_start")}
    rows, epoch, previous_ns = [], -1, 0
    for step in trace.steps:
        if step.kind == "null":
            continue
        if step.epoch != epoch:
            epoch, previous_ns = step.epoch, starts.get(step.epoch, step.asked_ns)
        if step.kind == "step":
            rows.append(((step.start_ns - previous_ns) / 1e9, (step.release_ns - previous_ns) / 1e9))
        previous_ns = step.release_ns
    return rows


def in_step(windows: Sequence[RankWindow]) -> list[RankWindow]:
    """The windows of ranks that a sync keeps in step: each gets the mean of their credits. They consume at one pace, and which of them has its batch a
    little before the others changes from step to step, so only the batches of all together tell whether the queues were fuller at the start."""
    if len(windows) < 2 or len({tuple(epoch.epoch for epoch in window.epochs) for window in windows}) > 1:
        return list(windows)
    shared = [sum(epoch.credit_steps for epoch in epochs) / len(windows) for epochs in zip(*(window.epochs for window in windows), strict=True)]
    return [RankWindow(tuple(replace(epoch, credit_steps=credit) for epoch, credit in zip(window.epochs, shared, strict=True))) for window in windows]


def _epoch_window(epoch: int, records: list[StepRecord], measured: list[StepRecord], start_ns: int, complete: bool, prefetch: int) -> EpochWindow:
    warm = [step for step in records if step.kind == "warmup"]
    open_ns = warm[-1].sync_end_ns if warm else start_ns
    previous_ns = warm[-1].release_ns if warm else start_ns
    fetch_ns = sync_ns = 0
    for step in measured:
        fetch_ns += step.start_ns - previous_ns
        sync_ns += step.release_ns - step.host_delay_ns - step.due_ns
        previous_ns = step.release_ns
    credit, uncertain = _credit(measured, open_ns, complete, prefetch) if warm else (0.0, 0.0)
    return EpochWindow(
        epoch=epoch,
        steps=len(measured),
        samples=sum(step.samples for step in measured),
        record_bytes=sum(step.record_bytes for step in measured),
        open_ns=open_ns,
        close_ns=measured[-1].sync_end_ns,
        compute_ns=sum(step.due_ns - step.start_ns for step in measured),
        measured_compute_ns=sum(step.compute_end_ns - step.start_ns for step in measured),
        fetch_ns=fetch_ns,
        sync_ns=sync_ns,
        host_delay_ns=sum(step.host_delay_ns for step in measured),
        credit_steps=credit,
        uncertain_steps=uncertain,
    )


def _credit(measured: list[StepRecord], open_ns: int, complete: bool, prefetch: int) -> tuple[float, float]:
    """(steps prefetched before the window, less those put back, steps that stay uncertain) of a window that opened after a warm-up."""
    stalled = [index for index, step in enumerate(measured) if index and step.start_ns > measured[index - 1].release_ns]
    if not stalled and len(measured) > prefetch:
        return 0.0, 0.0  # never waited, although more steps were made than lay ready: the loader kept up
    if all(step.ready_ns is not None for step in measured):
        ready_ns = [step.ready_ns for step in measured if step.ready_ns is not None]
        if max(ready_ns) < open_ns:
            return 0.0, float(len(measured))  # all was ready before: the window says nothing about the loader
        at_start = sum(1 for ready in ready_ns if ready < open_ns)
        at_end = _ready_when_production_ended(measured, ready_ns) if complete else measured[-1].queue_level
        if at_end is not None:
            return float(at_start - at_end), 1.0 if at_start > at_end else 0.0
    return _credit_between_stalls(measured, stalled, open_ns, prefetch)


def _ready_when_production_ended(measured: list[StepRecord], ready_ns: list[int]) -> int:
    """Batches that lay ready, not yet asked for, when the epoch's last batch became ready."""
    last_ns = max(ready_ns)
    return sum(1 for step in measured if step.asked_ns > last_ns)


def _credit_between_stalls(measured: list[StepRecord], stalled: list[int], open_ns: int, prefetch: int) -> tuple[float, float]:
    """For queues that nobody sees: at a stalled step the queue is empty, so between two of them all that was used was fetched. The window's AU is
    scaled to the one between the first and the last stall, once a full queue was consumed; where that is under half the steps, it is only bounded."""
    late = [index for index in stalled if index >= prefetch]
    if len(late) < 2 or late[-1] - late[0] < len(measured) / 2:
        return 0.0, float(min(prefetch, len(measured)))
    first, last = measured[late[0]], measured[late[-1]]
    steps, length_ns = late[-1] - late[0], last.release_ns - first.release_ns
    whole_ns = measured[-1].sync_end_ns - open_ns
    return max(0.0, len(measured) - steps * whole_ns / length_ns), 0.0
