"""All that judging needs of the ranks' traces, taken out of one trace at a time: memory grows with the ranks, and by 16 bytes a measured step.

What is held of all ranks at once: their records that are no steps, some sums of each rank and epoch, and, since quantiles are exact, how long each
measured step waited and took. The steps themselves are let go; what draws them reads single traces again (`Ranks.traces`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.syncwaits import LastOfSteps, LeastOfSteps
from storagebench.traces import IDLE, NULL, STEP, WARMUP, Floats, Ints, Steps, Trace
from storagebench.trainname import is_training
from storagebench.window import RankWindow, before_ns, by_epoch, own_steps, rank_window, spans_of_clock_ns, waits_and_lengths_ns


@dataclass(frozen=True, slots=True)
class RankEpoch:
    """One rank's steps of one epoch; idle ones count as steps only. Times in ns. `begin_ns` is loader.start (when the first step asked, where that is not known), `first_end_ns` is when the compute of the first step with work ended,
    `later_compute_ns` the measured compute of those after it, `first_wait_ns` how long the first one, where it is measured, waited since loader.start
    (0 where that is not known), `stall_ns` how long all of its steps with work waited for their batch."""

    epoch: int
    begin_ns: int
    steps: int
    work_steps: int
    samples: int
    first_end_ns: int | None
    later_compute_ns: int
    first_wait_ns: int
    stall_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank. Sums are over its steps with work (warm-up and measured). `window` is the rank's own, before `in_step`; `clock_ns` the ns of its measured steps on
    the real clock; `gap` (number, expected number) of the first step whose number does not follow; `empty` (how many, number of the first) steps that
    count samples and no bytes; `last_ns` the end of the last step, null ones too; `copy_s` of the measured steps."""

    header: Mapping[str, Any]
    others: tuple[Mapping[str, Any], ...]
    truncated: bool
    num_steps: int
    window: RankWindow
    epochs: tuple[RankEpoch, ...]
    au_null: float | None
    null_ns: int
    null_begin_ns: int | None
    warmup_steps: int
    idle_steps: int
    samples: int
    record_bytes: int
    handover_bytes: int
    verified: int
    errors: int
    bad_samples: tuple[tuple[int, str], ...]
    spans_s: Mapping[str, float]
    prep_cpu_s: float
    run_delay_s: float
    copy_s: float
    clock_ns: int
    first_got_ns: int | None
    last_step: int | None
    last_ns: int | None
    gap: tuple[int, int] | None
    empty: tuple[int, int] | None

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        return [record for record in self.others if record["kind"] == kind]

    @property
    def name(self) -> str:
        return f"rank {self.header.get('rank')}"

    @property
    def host(self) -> Any:
        return self.header.get("host")


class Ranks:
    """All ranks that have a header, in the order of their traces.

    `waits_ns` and `lengths_ns`: how long each measured step waited for its batch, and how long it took, in the schedule: sorted. `last_in_sync` of
    the measured steps, and `least_work_sync_ns` of the warm-up too: what the sync itself cost, and who came last. `mean_lengths_s`: the measured steps in order, without
    the first of an epoch, mean over the ranks, as far as the shortest one goes. `computes_ns`: of a training, how long the compute of each measured step with a full
    batch took, sorted; else empty. `traces` reads the ranks' traces again, as long as they are there.
    """

    def __init__(self, run: Mapping[str, Any], traces: Sequence[Trace]) -> None:
        self._traces = traces
        self._with_header: list[int] = []
        self._ranks: list[Rank] = []
        self.last_in_sync, self.least_work_sync_ns = LastOfSteps(), LeastOfSteps()
        self._sum_ns: Ints | None = None
        self._computes: list[Ints] = []
        waits: list[Ints] = []
        lengths: list[Ints] = []
        for index in range(len(traces)):  # not by an iterator: it would hold one trace while the next is read
            for kept, found in zip((waits, lengths), self._take(run, index), strict=True):
                kept.append(found)
        self.waits_ns, self.lengths_ns = _sorted(waits), _sorted(lengths)
        self.computes_ns = _sorted(self._computes)

    def _take(self, run: Mapping[str, Any], index: int) -> tuple[Ints, Ints]:
        trace = self._traces[index]
        if not trace.header:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._with_header.append(index)
        starts = epoch_starts(trace.others)
        own = own_steps(trace.steps)
        trains = is_training(run["config"]["run"].get("accelerator", ""))
        self._ranks.append(_rank(trace, own, starts, run["plan"]["prefetch_batches"], not trains))
        if trains:
            full = (own.kind == STEP) & (own.samples == run["config"]["train"]["batch_size"])
            self._computes.append((own.compute_end_ns - own.start_ns)[full])
        sync_ns = own.release_ns - own.host_delay_ns - own.due_ns
        measured, work = own.kind == STEP, own.kind != IDLE
        self.last_in_sync.take(len(self._ranks) - 1, own.epoch[measured], own.step[measured], sync_ns[measured])
        self.least_work_sync_ns.take(own.epoch[work], own.step[work], sync_ns[work])
        later_ns = _later_lengths_ns(own)
        if self._sum_ns is None:
            self._sum_ns = later_ns
        else:
            shortest = min(len(self._sum_ns), len(later_ns))
            self._sum_ns = self._sum_ns[:shortest] + later_ns[:shortest]
        return waits_and_lengths_ns(own, starts)

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, index: int) -> Rank:
        return self._ranks[index]

    def __iter__(self) -> Iterator[Rank]:
        return iter(self._ranks)

    @property
    def mean_lengths_s(self) -> Floats:
        return np.zeros(0) if self._sum_ns is None else np.asarray(self._sum_ns / len(self) / 1e9)

    def trace(self, index: int) -> Trace:
        """The trace of the rank at this index. Of a rank that went on meanwhile, as far as it was judged."""
        trace = self._traces[self._with_header[index]]
        return trace._replace(steps=trace.steps[: self._ranks[index].num_steps])

    def traces(self) -> Iterator[Trace]:
        """The trace of each rank, one after another."""
        return map(self.trace, range(len(self)))


def epoch_starts(records: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Epoch -> ns of loader.start."""
    return {record["epoch"]: record["start_ns"] for record in records if record["kind"] == "epoch_start"}


def quantiles(sorted_ns: Ints) -> dict[str, float] | None:
    """p50, p90, p99 (nearest rank, never interpolated past a measured value) and max of ascending ns, in seconds; None of nothing."""
    count = len(sorted_ns)
    if not count:
        return None
    picks = {f"p{level}": int(sorted_ns[max(0, -(-level * count // 100) - 1)]) / 1e9 for level in (50, 90, 99)}
    return {**picks, "max": int(sorted_ns[-1]) / 1e9}


def _sorted(parts: list[Ints]) -> Ints:
    """All in one, sorted. The parts are let go."""
    joined = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    parts.clear()
    joined.sort()
    return joined


def _rank(trace: Trace, own: Steps, starts: Mapping[int, int], prefetch: int, paced: bool) -> Rank:
    steps = trace.steps
    work = own.pick(own.kind != IDLE) if (own.kind == IDLE).any() else own
    epochs = tuple(_rank_epoch(epoch, every, starts.get(epoch)) for epoch, every in by_epoch(own))
    made: dict[int, int] = defaultdict(int)
    for each in epochs:
        made[each.epoch] += each.steps
    complete = {record["epoch"] for record in trace.of_kind("epoch_start") if made[record["epoch"]] == record["steps"]}
    gaps = np.flatnonzero(own.step != np.arange(len(own)))
    empty = work.step[(work.samples != 0) & (work.record_bytes == 0)]
    clock = spans_of_clock_ns(own, starts)[1]
    null = steps.pick(steps.kind == NULL)
    au_null, null_ns = _null(null)
    return Rank(
        header=trace.header,
        others=trace.others,
        truncated=trace.truncated,
        num_steps=len(steps),
        window=rank_window(own, starts, complete, prefetch, paced),
        epochs=epochs,
        au_null=au_null,
        null_ns=null_ns,
        null_begin_ns=int(null.asked_ns[0]) if len(null) else None,
        warmup_steps=int((own.kind == WARMUP).sum()),
        idle_steps=len(own) - len(work),
        samples=int(work.samples.sum()),
        record_bytes=int(work.record_bytes.sum()),
        handover_bytes=int(work.handover_bytes.sum()),
        verified=int(work.verified.sum()),
        errors=int(work.errors.sum()),
        bad_samples=tuple(bad for several in work.bad_samples.tolist() if several for bad in several),
        spans_s={name: float(np.nansum(column)) for name, column in work.spans_s.items() if not np.isnan(column).all()},
        prep_cpu_s=float(work.prep_cpu_s.sum()),
        run_delay_s=float(work.run_delay_s.sum()),
        copy_s=float(own.copy_s[own.kind == STEP].sum()),
        clock_ns=int(clock.sum()),
        first_got_ns=int(work.got_ns[0]) if len(work) else None,
        last_step=int(own.step[-1]) if len(own) else None,
        last_ns=int(steps.sync_end_ns[-1]) if len(steps) else None,
        gap=(int(own.step[gaps[0]]), int(gaps[0])) if len(gaps) else None,
        empty=(len(empty), int(empty[0])) if len(empty) else None,
    )


def _rank_epoch(epoch: int, every: Steps, start_ns: int | None) -> RankEpoch:
    work = np.flatnonzero(every.kind != IDLE)
    first = int(work[0]) if len(work) else None
    computed_ns = (every.compute_end_ns - every.start_ns)[work]
    waited = first is not None and start_ns is not None and every.kind[first] == STEP
    return RankEpoch(
        epoch=epoch,
        begin_ns=int(every.asked_ns[0]) if start_ns is None else start_ns,
        steps=len(every),
        work_steps=len(work),
        samples=int(every.samples[work].sum()),
        first_end_ns=None if first is None else int(every.compute_end_ns[first]),
        later_compute_ns=int(computed_ns[1:].sum()),
        first_wait_ns=int(every.start_ns[first]) - start_ns if waited and first is not None and start_ns is not None else 0,
        stall_ns=int((every.start_ns - before_ns(every, every.release_ns, {} if start_ns is None else {epoch: start_ns}))[work].sum()),
        end_ns=int(every.sync_end_ns.max()),
    )


def _null(null: Steps) -> tuple[float | None, int]:
    """(AU of the null loader's steps, the first one left out; ns that all of them took)."""
    if not len(null):
        return None, 0
    length_ns = int(null.sync_end_ns[-1]) - int(null.sync_end_ns[0])
    # Both ends of the window are wake-ups: their jitter, some microseconds, can make the ratio a little more than 1.
    au = min(1.0, int((null.due_ns - null.start_ns)[1:].sum()) / length_ns) if len(null) > 1 and length_ns > 0 else None
    return au, int(null.sync_end_ns[-1]) - int(null.asked_ns[0])


def _later_lengths_ns(own: Steps) -> Ints:
    """ns of each measured step in the schedule, the first of an epoch left out."""
    same: NDArray[np.bool_] = np.diff(own.epoch) == 0
    return np.asarray(np.diff(own.release_ns)[same & (own.kind[1:] == STEP)])
