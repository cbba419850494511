"""Rules of MLPerf Storage over the runs of a result together: how many, how far apart in time and in figures, with which seeds (mlperf-storage.md
section 3). The runs are taken in the order in which they were made, whatever the order in which they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from storagebench.checks.case import Case, Found
from storagebench.checks.mlperf_au import edition_figures
from storagebench.checks.mlperf_rules import Check, Ground
from storagebench.checks.mlperf_tables import Edition
from storagebench.members import first_host
from storagebench.units import format_seconds


class Span(NamedTuple):
    """When a run began and ended, ns of wall time."""

    begin_ns: int
    end_ns: int


def span_of(case: Case) -> Span:
    """From the start of the command to its ranks' last step (null ones too), on the clock of the host that started it."""
    created = case.run["created"]
    to_wall_ns = created["wall_ns"] - created["monotonic_ns"]
    here = [rank for rank in case.ranks if rank.host == first_host(case.run)["host"]]
    last_ns = max((rank.last_ns for rank in here if rank.last_ns is not None), default=created["monotonic_ns"])
    return Span(case.run["command_start_ns"] + to_wall_ns, last_ns + to_wall_ns)


def in_order(cases: Sequence[Case]) -> list[Case]:
    """By their start."""
    return sorted(cases, key=lambda case: span_of(case).begin_ns)


def counted_runs(cases: Sequence[Case], edition: Edition) -> list[Case]:
    """The runs whose figures count: all, or all but the first where that is the warm-up run (R3 2.1.17)."""
    made = in_order(cases)
    return made[1:] if edition.with_warm_up and len(made) > 1 else made


def number_of_runs(ground: Ground) -> Check:
    """The five test runs of v2.0, whose warm-up run is not given; the six of v3.0, the first of which is the warm-up run."""
    wanted = ground.edition.num_runs
    what = "the warm-up run and 5 more" if ground.edition.with_warm_up else f"{wanted}"
    give = f"give {wanted} runs, all of them" if ground.edition.with_warm_up else f"give the {wanted} test runs, all of them, without the warm-up run"

    def check(cases: Sequence[Case]) -> Iterator[Found]:
        if len(cases) != wanted:
            yield Found(f"{len(cases)} run{'s' if len(cases) > 1 else ''} given, and a result is {what}", give)

    return check


def spread(ground: Ground) -> Check:
    """Results replicate within so much (R2 6.7): best minus worst samples/s, as the engine counts them, over their mean."""
    bound = ground.edition.spread or 0.0

    def check(cases: Sequence[Case]) -> Iterator[Found]:
        made = counted_runs(cases, ground.edition)
        figures = [edition_figures(case, ground.edition.engine) for case in made]
        rates = [each.samples_per_s for each in figures if each is not None]
        if len(rates) < max(2, len(made)):
            yield Found(f"{len(rates)} of {len(made)} runs have a rate, and a spread needs at least 2", f"give {ground.edition.num_runs} runs")
            return
        mean = sum(rates) / len(rates)
        if mean <= 0:
            yield Found("the engine counts no samples in epochs of two steps", "use a larger dataset")
        elif (max(rates) - min(rates)) / mean > bound:
            apart = (max(rates) - min(rates)) / mean
            yield Found(
                f"the best and the worst run are {apart:.1%} apart, over {bound:.0%}", "find what disturbs the runs, and make all of them again"
            )

    return check


def seeds(ground: Ground) -> Check:
    """The seed of the order changes with each run (R2 6.6), so that no cache can hold the last one's."""

    def check(cases: Sequence[Case]) -> Iterator[Found]:
        values: list[Any] = [case.run["config"]["run"]["seed"] for case in in_order(cases)]
        if len(values) < 2:
            yield Found(
                "1 run is given, and whether its seed is another than that of the others is not known", f"give {ground.edition.num_runs} runs"
            )
        elif len(set(values)) < len(values):
            yield Found(f"the runs have seeds {', '.join(map(str, values))}, and each run needs another", "give each run its own --seed")

    return check


def consecutive(ground: Ground) -> Check:
    """Between the end of a run and the start of the next lies less than a run (R2 6.8, R3 2.1.18), so that none can have been left out."""

    def check(cases: Sequence[Case]) -> Iterator[Found]:
        for first, second in pairwise(in_order(cases)):
            one, other = span_of(first), span_of(second)
            gap_ns, shorter_ns = other.begin_ns - one.end_ns, min(one.end_ns - one.begin_ns, other.end_ns - other.begin_ns)
            names = f"runs {first.run['run_id']} and {second.run['run_id']}"
            if gap_ns < 0:
                yield Found(f"{names} overlap by {format_seconds(-gap_ns / 1e9)}", "make one run after the other")
            elif gap_ns >= shorter_ns:
                yield Found(
                    f"{format_seconds(gap_ns / 1e9)} lie between {names}, and a run takes {format_seconds(shorter_ns / 1e9)}",
                    "make the runs one after the other, and give all of them",
                )

    return check
