"""The same simulation as a recurrence on arrays, for thousands of accelerators: what `eventsim` does in events, in slices of time over all of them.

Each accelerator has one read that it asks for next, at a time that is known as soon as the step that makes room for it is. A slice takes all reads
that are asked for before its end, sorts them by time, and passes them through the lines: one that serves first come, first served is a recurrence
over the sorted reads, `end_i = max(t_i, end_{i-1}) + d_i`, which is a running maximum of `t_i - sum of the d before` (Lindley, 1952). Then steps
that have all they need end, and make room for what is asked for next.

What is asked for in a later slice never goes before an earlier one. Within a slice an accelerator asks once, for as many reads as it has readers;
should it ask again before the slice ends, that comes behind the others, which is the one thing that differs from the events. Slices are an eighth
of a step, so that this moves AU by less than 0.005 (tests/unit/test_simulation.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storagebench.model.draws import Draws
from storagebench.model.system import LINES, Floats, Job, System
from storagebench.model.tally import Span, Tally

Ints = NDArray[np.int64]
_SLICES_OF_A_STEP: Final = 8


class _Lines:
    """Lines of one kind with `rate`; `of[accelerator]` says which is whose, None where there is one only."""

    def __init__(self, rate: float, span: Span, of: Ints | None = None) -> None:
        self.rate, self._span, self._of = rate, span, of
        count = 1 if of is None else int(of.max()) + 1
        self._free_s, self.busy_s = np.zeros(count), np.zeros(count)

    def serve(self, who: Ints, times_s: Floats, units: Floats) -> tuple[Floats, Floats]:
        """(when each is through, how long it is worked on) of reads that are sorted by time; those of 0 units do not wait."""
        lasts_s = units / self.rate
        if not np.isfinite(self.rate):
            return times_s, lasts_s
        if self._of is None:
            before_s = np.cumsum(lasts_s) - lasts_s
            waits = times_s - before_s
            waits[0] = max(waits[0], self._free_s[0])
            ends_s = np.maximum.accumulate(waits) + before_s + lasts_s
            self._free_s[0] = ends_s[-1]
            self.busy_s[0] += self._within(ends_s, lasts_s).sum()
        else:
            ends_s = self._serve_groups(self._of[who], times_s, lasts_s)
        return np.where(lasts_s > 0, ends_s, times_s), lasts_s

    def _serve_groups(self, line: Ints, times_s: Floats, lasts_s: Floats) -> Floats:
        """All lines at once: sorted by line, and lifted apart so that no running maximum reaches over to the next."""
        order = np.argsort(line, kind="stable")
        group, lasts = line[order], lasts_s[order]
        first = np.flatnonzero(np.diff(group, prepend=-1))
        sums = np.cumsum(lasts) - lasts
        before_s = sums - np.repeat(sums[first], np.diff(np.append(first, len(group))))
        waits = times_s[order] - before_s
        waits[first] = np.maximum(waits[first], self._free_s[group[first]])
        lift = group * (2.0 * (np.abs(waits).max() + 1.0))
        ends = np.maximum.accumulate(waits + lift) - lift + before_s + lasts
        self._free_s[group[np.append(first[1:], len(group)) - 1]] = ends[np.append(first[1:], len(group)) - 1]
        self.busy_s += np.bincount(group, self._within(ends, lasts), len(self.busy_s))
        return np.asarray(ends[np.argsort(order, kind="stable")])

    def _within(self, ends_s: Floats, lasts_s: Floats) -> Floats:
        """Seconds of their work within the span."""
        return np.asarray(np.maximum(np.minimum(ends_s, self._span.close_s) - np.maximum(ends_s - lasts_s, self._span.open_s), 0.0))


class _Team:
    """The accelerators of one job, in columns: `next_s` is when each asks for its next read, infinite until that is known."""

    def __init__(self, job: Job, draws: Draws, first: int, span: Span) -> None:
        count, depth = job.accelerators, job.prefetch_batches
        self.job, self._span, self._draws = job, span, draws
        self.who = np.arange(first, first + count)
        self._in_step = job.in_step and count > 1
        self._batch, self._read = np.zeros(count, np.int64), np.zeros(count, np.int64)  # which batch of the rank, which read of it
        self._asked = np.zeros(count, np.int64)  # reads so far
        self._free_s = np.zeros((count, job.readers))
        self._room_s, self._done_s = np.zeros(count), np.zeros(count)
        self._ready_s = np.zeros((count, depth + 1))  # of the batches that have been read and not taken, by their number modulo this
        self._start_s = np.zeros((count, depth + 1))  # of the steps before
        self._end_s = np.zeros(count)
        self._step = 0  # in step: the next one of all
        self.next_s = np.zeros(count)
        self.compute_s = self.store_bytes = self.store_requests = 0.0

    def ask(self, end_s: float) -> tuple[Ints, Floats]:
        """Which ranks ask for a read before that time, and when. A rank stands there for each reader that is free then, as far as its batch has
        reads left."""
        ranks = np.flatnonzero(self.next_s < end_s)
        times_s = self.next_s[ranks]
        if self.job.reads_per_batch == 1 or self.job.readers == 1:
            return ranks, times_s
        free = (self._free_s[ranks] <= times_s[:, None]).sum(axis=1)
        reads = np.maximum(np.minimum(free, self.job.reads_per_batch - self._read[ranks]), 1)
        return np.repeat(ranks, reads), np.repeat(times_s, reads)

    def draw(self, ranks: Ints, times_s: Floats) -> _Asked:
        """The reads that these ranks ask for, at these times."""
        reads = self._draws.of_ranks(ranks, self._asked[ranks] + _places(ranks))
        self._asked += np.bincount(ranks, minlength=len(self._asked))
        counted = (times_s >= self._span.open_s) & (times_s < self._span.close_s)
        self.store_bytes += float(reads.store_bytes[counted].sum())
        self.store_requests += float(reads.store_requests[counted].sum())
        cpu_s = np.full(len(ranks), self.job.cpu_s_per_batch / self.job.reads_per_batch)
        return _Asked(self, ranks, reads.link_bytes, reads.store_bytes, reads.store_requests, reads.latencies_s, cpu_s)

    def answered(self, ranks: Ints, done_s: Floats) -> None:
        """The reads of these ranks are done then."""
        places = _places(ranks)
        for place in range(int(places.max()) + 1):
            some = places == place
            self._answer(ranks[some], done_s[some])

    def _answer(self, ranks: Ints, done_s: Floats) -> None:
        """One read of each of these."""
        reader = self._free_s[ranks].argmin(axis=1) if self.job.readers > 1 else np.zeros(len(ranks), np.int64)
        self._free_s[ranks, reader] = done_s
        self._done_s[ranks] = np.maximum(self._done_s[ranks], done_s)
        self._read[ranks] += 1
        whole = ranks[self._read[ranks] == self.job.reads_per_batch]
        if len(whole):
            self._take(whole)
        known = self._room_s[ranks] < np.inf
        self.next_s[ranks] = np.where(known, np.maximum(self._room_s[ranks], self._free_s[ranks].min(axis=1)), np.inf)

    def _take(self, ranks: Ints) -> None:
        """All reads of a batch of these ranks have been asked for, so that it is known when it is ready."""
        slots = self._ready_s.shape[1]
        batch = self._batch[ranks]
        self._ready_s[ranks, batch % slots] = self._done_s[ranks]
        self._batch[ranks] += 1
        self._read[ranks], self._done_s[ranks] = 0, 0.0
        if not self._in_step:
            start_s = np.maximum(self._end_s[ranks], self._ready_s[ranks, batch % slots])
            self._started(ranks, batch % slots, start_s, start_s + self.job.compute_s)
            self._room_s[ranks] = self._room(ranks)
            return
        self._room_s[ranks] = np.inf
        everyone = np.arange(len(self._batch))
        while self._batch.min() > self._step:  # a step ends when all have read what they need for it
            slot = np.full(len(everyone), self._step % slots)
            start_s = np.maximum(self._end_s, self._ready_s[everyone, slot])
            self._started(everyone, slot, start_s, np.full(len(everyone), start_s.max() + self.job.compute_s))
            self._step += 1
        blocked = everyone[(self._room_s == np.inf) & (self._batch - max(self.job.prefetch_batches, 1) < self._step)]
        self._room_s[blocked] = self._room(blocked)
        self.next_s[blocked] = np.maximum(self._room_s[blocked], self._free_s[blocked].min(axis=1))

    def _started(self, ranks: Ints, slot: Ints, start_s: Floats, end_s: Floats) -> None:
        self._start_s[ranks, slot] = start_s
        self._end_s[ranks] = end_s
        over_s = np.minimum(start_s + self.job.compute_s, self._span.close_s)
        self.compute_s += np.maximum(over_s - np.maximum(start_s, self._span.open_s), 0.0).sum()

    def _room(self, ranks: Ints) -> Floats:
        """When there is room for the next batch of these: when the one that is `prefetch_batches` before it was taken, or the step before ended."""
        depth = self.job.prefetch_batches
        if depth == 0:
            return self._end_s[ranks]
        before = self._batch[ranks] - depth
        return np.where(before >= 0, self._start_s[ranks, before % (depth + 1)], 0.0)


def _places(ranks: Ints) -> Ints:
    """Of each: how many of the same rank stand right before it.

    >>> _places(np.array([0, 2, 2, 2, 5]))
    array([0, 0, 1, 2, 0])
    """
    first = np.flatnonzero(np.diff(ranks, prepend=-1))
    return np.arange(len(ranks)) - np.repeat(first, np.diff(np.append(first, len(ranks))))


@dataclass(frozen=True)
class _Asked:
    """The reads of one team in a slice."""

    team: _Team
    ranks: Ints
    link_bytes: Floats
    store_bytes: Floats
    store_requests: Floats
    latencies_s: Floats
    cpu_s: Floats


def run_fleet(system: System, span: Span, seed: int) -> Tally:
    """Simulate until the span closes."""
    teams, first = [], 0
    for index, job in enumerate(system.jobs):
        teams.append(_Team(job, Draws(job, system, (seed, index)), first, span))
        first += job.accelerators
    lines = _lines(system, span)
    slice_s = min(job.compute_s for job in system.jobs) / _SLICES_OF_A_STEP
    while (now_s := min(float(team.next_s.min()) for team in teams)) < span.close_s:
        _slice(teams, lines, now_s + slice_s)
    return Tally(
        compute_s=[team.compute_s for team in teams],
        lines_s={name: float(some.busy_s.max()) for name, some in lines.items()},
        store_bytes=sum(team.store_bytes for team in teams),
        store_requests=sum(team.store_requests for team in teams),
    )


def _lines(system: System, span: Span) -> dict[str, _Lines]:
    """By kind, in the order of `LINES`."""
    host_of: list[Ints] = []
    hosts = 0
    for job in system.jobs:
        host_of.append(hosts + np.arange(job.accelerators) // (system.hosts.accelerators or job.accelerators))
        hosts += system.hosts_of(job)
    host = np.concatenate(host_of)
    uplink = host // (system.hosts.per_uplink or hosts)
    store, of_host = system.store, system.hosts
    made = (
        _Lines(store.bytes_per_s, span), _Lines(store.requests_per_s, span), _Lines(of_host.uplink_bytes_per_s, span, uplink),
        _Lines(of_host.link_bytes_per_s, span, host), _Lines(of_host.cores, span, host),
    )  # fmt: skip
    return dict(zip(LINES, made, strict=True))


def _slice(teams: list[_Team], lines: dict[str, _Lines], end_s: float) -> None:
    """All reads that are asked for before this time."""
    asked, times = [], []
    for team in teams:
        ranks, times_s = team.ask(end_s)
        if len(ranks):
            asked.append(team.draw(ranks, times_s))
            times.append(times_s)
    times_s = np.concatenate(times)
    order = np.argsort(times_s, kind="stable")
    done_s = np.empty(len(order))
    done_s[order] = _done_s(asked, lines, times_s[order], order)
    low = 0
    for some in asked:
        some.team.answered(some.ranks, done_s[low : low + len(some.ranks)])
        low += len(some.ranks)


def _done_s(asked: list[_Asked], lines: dict[str, _Lines], times_s: Floats, order: Ints) -> Floats:
    """When these reads, sorted by time, are done: `eventsim._Path.done_s` on columns."""

    def column(name: str) -> Floats:
        return np.concatenate([getattr(some, name) for some in asked])[order]

    who = np.concatenate([some.team.who[some.ranks] for some in asked])[order]
    link_bytes, store_bytes, store_requests, cpu_s = (column(name) for name in ("link_bytes", "store_bytes", "store_requests", "cpu_s"))
    units = {"store bandwidth": store_bytes, "store requests": store_requests, "uplink": link_bytes, "host link": link_bytes}
    ends = [lines[name].serve(who, times_s, some) for name, some in units.items()]
    groups = max(some.latencies_s.shape[1] for some in asked)
    latencies_s = np.concatenate([some.latencies_s[:, np.arange(groups) * some.latencies_s.shape[1] // groups] for some in asked])[order]
    done_s = times_s
    for group in range(groups):
        left = 1 - (group + 1) / groups
        through_s = np.max([end_s - lasts_s * left for end_s, lasts_s in ends], axis=0)
        done_s = np.maximum(done_s, through_s + latencies_s[:, group])
    if cpu_s.any():
        end_s, lasts_s = lines["client CPU"].serve(who, times_s, cpu_s)
        done_s = np.maximum(done_s, end_s - lasts_s) + cpu_s
    return done_s
