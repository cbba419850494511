"""Which samples each query asks for, and when: the sequence that LoadGen generates in performance mode from three seeds.

The QSL (query sample library) is the first `qsl_samples` samples of the dataset, shuffled. Single-stream and server draw from it uniformly with replacement;
multi-stream takes neighbours in it from a start drawn in the same way; offline goes through it again and again, in its order.
Held against the package on recorded cases, these are its choices to the last sample and nanosecond (`tests/truth/test_loadgen.py`).
Two things differ: queries come one at a time here, where LoadGen generates all it might need before it starts, so a run never ends because they ran
out; and nothing of LoadGen's modes for audits (unique, same sample, equal issue) is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, Literal, NamedTuple

from storagebench.scenarios.mersenne import Mersenne

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
SLACK: Final = 1.1  # of LoadGen's offline query over what the expected rate and the duration ask for


class Seeds(NamedTuple):
    """Seeds of the QSL's shuffle, of the choice of samples, of the arrivals."""

    qsl: int
    sample_index: int
    schedule: int


class Plan(NamedTuple):
    """What the sequence follows from. `qsl_samples`: samples in the QSL, at most the dataset's; `min_query_count` and `samples_per_query` as LoadGen has
    them in effect (1 query in offline, 1 sample in single-stream and server); `target_qps` is for server only."""

    scenario: Scenario
    qsl_samples: int
    samples_per_query: int
    min_query_count: int
    target_qps: float
    seeds: Seeds


class Query(NamedTuple):
    """One query: its number from 0, when it is due (nanoseconds after the start; 0 in all scenarios but server), its samples (ids of the dataset)."""

    number: int
    due_ns: int
    samples: tuple[int, ...]


def offline_samples(min_samples: int, min_duration_s: float, expected_qps: float | None) -> int:
    """Samples of the one offline query: what the least count asks for, or the duration at the expected rate with a tenth more.

    >>> offline_samples(24576, 600.0, None), offline_samples(24576, 600.0, 100.0)
    (24576, 66000)
    """
    return max(min_samples, int(SLACK * min_duration_s * (expected_qps or 0.0)))


def qsl_order(plan: Plan) -> list[int]:
    """The QSL: sample ids in the order in which LoadGen loads them."""
    order = list(range(plan.qsl_samples))
    Mersenne(plan.seeds.qsl).shuffle(order)
    return order


def queries(plan: Plan) -> Iterator[Query]:
    """All queries in order: without end, but one in offline."""
    loaded = qsl_order(plan)
    size, width = len(loaded), plan.samples_per_query
    if plan.scenario == "offline":
        yield Query(0, 0, tuple(loaded[place % size] for place in range(width)))
        return
    choice = _sample_choice(plan, size)
    arrivals, due_ns, number = Mersenne(plan.seeds.schedule), 0, 0
    while True:
        start = choice.below(size)
        yield Query(number, due_ns, tuple(loaded[(start + place) % size] for place in range(width)))
        number += 1
        if plan.scenario == "server":
            due_ns += arrivals.exponential_ns(plan.target_qps)


def _sample_choice(plan: Plan, size: int) -> Mersenne:
    """The generator of sample indices as it stands before the first query: LoadGen shuffles for its other modes first, in any mode."""
    choice = Mersenne(plan.seeds.sample_index)
    stride = plan.samples_per_query if plan.scenario == "multi-stream" else 1
    choice.shuffle(list(range(0, size, stride)))
    padded = list(range(size + stride - 1))  # the QSL with its first samples once more at its end, so that neighbours are there for every start
    for _ in range(0, plan.min_query_count, len(padded)):
        choice.shuffle(padded)
    return choice


def server_queries(plan: Plan, min_duration_s: float) -> Iterator[Query]:
    """The queries of a server run: until one is due at or after the duration, and there are enough of them."""
    duration_ns, previous_ns = round(min_duration_s * 1e9), 0
    for query in queries(plan):
        if previous_ns >= duration_ns and query.number >= plan.min_query_count:
            return
        previous_ns = query.due_ns
        yield query


def first(plan: Plan, count: int) -> list[Query]:
    """The first queries."""
    return list(islice(queries(plan), count))
