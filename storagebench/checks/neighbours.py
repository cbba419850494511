"""Jobs that ran at the same time: how far their measured windows overlapped, and what the neighbours took from each. Pure, on saved runs of one host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from storagebench.checks.comparability import SavedRun
from storagebench.checks.comparison import verdict_of
from storagebench.checks.statistics import Ratio, Side, ratio_interval
from storagebench.checks.sweeps import Quartiles, is_true, quartiles, why_left_out
from storagebench.traces import Trace
from storagebench.writefigures import bytes_within

Spans = Sequence[tuple[int, int]]
# Below it, a good part of a job's own window had fewer neighbours than the suite says.
LEAST_OVERLAP: Final = 0.9


class Round(NamedTuple):
    """One round of all jobs at the same time: the run of each, and the traces of each writer."""

    runs: Mapping[str, SavedRun]
    writers: Mapping[str, Sequence[Trace]]


@dataclass(frozen=True)
class Neighbours:
    """A job beside the others, and alone. `metric` is AU, or samples/s where a run has none; `together` and `alone` are over true runs; `slowdown` is
    together / alone; `overlap` is the least share of its measured window in which all others were measured too."""

    job: str
    metric: str
    together: Quartiles | None
    alone: Quartiles | None
    slowdown: Ratio | None
    verdict: str
    overlap: float | None
    left_out: Mapping[str, str]
    exit_codes: tuple[int | None, ...]

    def as_dict(self) -> dict[str, Any]:
        plain = {name: None if (found := getattr(self, name)) is None else found._asdict() for name in ("together", "alone")}
        return {**self.__dict__, **plain, "slowdown": None if self.slowdown is None else dict(self.slowdown.__dict__)}


class Written(NamedTuple):
    """What a writer stored while all jobs were measured: stored bytes per second in each round, and what stopped it, if it did."""

    writer: str
    bytes_per_s: Quartiles | None
    error: str


def measured_spans(saved: SavedRun) -> list[tuple[int, int]]:
    """(begin, end) of the measured window of each epoch, of the rank with the longest window; CLOCK_MONOTONIC ns."""
    longest = max(saved.ranks, key=lambda rank: rank.window.length_ns, default=None)
    return [] if longest is None else [(epoch.open_ns, epoch.close_ns) for epoch in longest.window.epochs]


def common(every: Sequence[Spans]) -> list[tuple[int, int]]:
    """What lies in one span of each: pieces in order. The spans of one do not overlap.

    >>> common([[(0, 10), (20, 30)], [(5, 25)]])
    [(5, 10), (20, 25)]
    """
    found = list(every[0]) if every else []
    for spans in every[1:]:
        pieces = [(max(a, c), min(b, d)) for a, b in found for c, d in spans]
        found = sorted((begin, end) for begin, end in pieces if begin < end)
    return found


def length_ns(spans: Spans) -> int:
    return sum(end - begin for begin, end in spans)


def overlaps(runs: Mapping[str, SavedRun]) -> dict[str, float]:
    """For each job the share of its measured window in which all of them were measured, 0..1; of one without a window 0."""
    spans = {name: measured_spans(run) for name, run in runs.items()}
    shared_ns = length_ns(common(list(spans.values())))
    return {name: shared_ns / length_ns(own) if own else 0.0 for name, own in spans.items()}


def neighbours_of(jobs: Sequence[str], rounds: Sequence[Round], alone: Mapping[str, Sequence[SavedRun]]) -> list[Neighbours]:
    """Each job in the order of the suite."""
    shares = [overlaps(one.runs) for one in rounds if len(one.runs) == len(jobs)]
    return [_neighbours(job, [one.runs[job] for one in rounds if job in one.runs], alone.get(job, ()), [s[job] for s in shares]) for job in jobs]


def _neighbours(job: str, together: Sequence[SavedRun], alone: Sequence[SavedRun], shares: Sequence[float]) -> Neighbours:
    every = [*together, *alone]
    true = [run for run in every if is_true(run.summary)]
    metric = "au_nominal" if true and all((run.summary["au_nominal"] or 0.0) > 0 for run in true) else "samples_per_s"
    sides = [tuple(float(run.summary[metric]) for run in side if is_true(run.summary) and run.summary[metric]) for side in (alone, together)]
    ratio = ratio_interval(Side(sides[0]), Side(sides[1])) if all(sides) else None
    decides = ratio is not None and not ratio.weak
    return Neighbours(
        job=job,
        metric=metric,
        together=quartiles(sides[1]),
        alone=quartiles(sides[0]),
        slowdown=ratio,
        verdict=verdict_of(ratio, True) if ratio is not None and decides else "not distinguishable" if ratio is not None else "",
        overlap=min(shares, default=None),
        left_out={run.summary["run_id"]: why_left_out(run.summary) for run in every if not is_true(run.summary)},
        exit_codes=tuple(run.summary["exit_code"] for run in every),
    )


def written_of(writers: Sequence[str], rounds: Sequence[Round]) -> list[Written]:
    """Each writer in the order of the suite, over the rounds in which all jobs have a common window."""
    return [_written(name, [one for one in rounds if name in one.writers]) for name in writers]


def _written(name: str, rounds: Sequence[Round]) -> Written:
    rates, errors = [], []
    for one in rounds:
        traces = one.writers[name]
        errors += [str(row["message"]) for trace in traces for row in trace.of_kind("error")]
        spans = common([measured_spans(run) for run in one.runs.values()])
        rows = [row for trace in traces for row in trace.of_kind("shard")]
        if spans and rows:
            begin, end, num_bytes = (np.array([row[key] for row in rows], dtype=np.int64) for key in ("begin_ns", "end_ns", "bytes"))
            rates.append(bytes_within(begin, end, num_bytes, spans) / (length_ns(spans) / 1e9))
    return Written(name, quartiles(rates), errors[0] if errors else "")
