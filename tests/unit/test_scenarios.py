"""LoadGen's arithmetic: tables of the rules, properties, and a binomial distribution summed in exact fractions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.scenarios.early_stopping import binomial_cdf, most_over, proves, queries_needed
from storagebench.scenarios.mersenne import Mersenne
from storagebench.scenarios.schedule import Plan, Scenario, Seeds, first, offline_samples, qsl_order, queries, server_queries
from storagebench.scenarios.verdict import Measured, Rules, judge, percentile_ns

SEEDS = Seeds(1, 2, 3)
PERCENTILES = (0.90, 0.95, 0.97, 0.99, 0.999)


@pytest.mark.parametrize(
    ("over", "needed"),
    [(0, (44, 90, 152, 459, 4603)), (1, (64, 130, 219, 662, 6636)), (2, (81, 165, 277, 838, 8403)), (10, (197, 398, 667, 2010, None))],
)
def test_the_table_of_the_rules(over: int, needed: tuple[int | None, ...]) -> None:
    """MLPerf inference_rules.adoc, early stopping (reference: tta-cost-kubeflow.md section 4)."""
    for percentile, count in zip(PERCENTILES, needed, strict=True):
        if count is not None:
            assert queries_needed(over, percentile) == count
            assert proves(count, over, percentile) and not proves(count - 1, over, percentile)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 300), data=st.data(), percent=st.sampled_from([1, 3, 5, 10, 50]))
def test_binomial_cdf_against_exact_fractions(n: int, data: st.DataObject, percent: int) -> None:
    t = data.draw(st.integers(0, n))
    q = Fraction(percent, 100)
    exact = sum(comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(t + 1))
    assert binomial_cdf(t, n, percent / 100) == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(queries_=st.integers(1, 100_000), percentile=st.sampled_from(PERCENTILES))
def test_most_over_is_the_inverse_of_queries_needed(queries_: int, percentile: float) -> None:
    allowed = most_over(queries_, percentile)
    assert queries_needed(allowed + 1, percentile) > queries_
    assert allowed < 0 or queries_needed(allowed, percentile) <= queries_


def test_mt19937_is_that_of_the_standard() -> None:
    """C++ [rand.predef]: the 10000th word of a default-constructed std::mt19937 (seed 5489) is 4123659995."""
    source = Mersenne(5489)
    assert [source.word() for _ in range(10_000)][-1] == 4_123_659_995
    assert Mersenne(5489 + 2**32).word() == Mersenne(5489).word()


@settings(deadline=None, max_examples=60)
@given(bound=st.integers(1, 2**32 - 1), seed=st.integers(0, 2**64 - 1))
def test_below_stays_below(bound: int, seed: int) -> None:
    assert all(0 <= Mersenne(seed).below(bound) < bound for _ in range(5))


@settings(deadline=None, max_examples=60)
@given(size=st.integers(0, 300), seed=st.integers(0, 2**64 - 1))
def test_shuffle_is_a_permutation(size: int, seed: int) -> None:
    items = list(range(size))
    Mersenne(seed).shuffle(items)
    assert sorted(items) == list(range(size))


def _plan(scenario: Scenario, **changed: object) -> Plan:
    width = 8 if scenario == "multi-stream" else 1
    return Plan(scenario, 50, width, 100, 1000.0, SEEDS)._replace(**changed)


def test_arrivals_are_poisson_and_samples_uniform() -> None:
    some = first(_plan("server"), 20_000)
    gaps = [after.due_ns - before.due_ns for before, after in pairwise(some)]
    mean = sum(gaps) / len(gaps)
    assert some[0].due_ns == 0
    assert mean == pytest.approx(1e6, rel=0.03)  # 1000 a second; the standard error is 0.7 %
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.05)  # an exponential's deviation is its mean
    counts = Counter(query.samples[0] for query in some)
    assert len(counts) == 50 and all(300 < count < 500 for count in counts.values())  # 400 each, deviation 20


@settings(deadline=None, max_examples=60)
@given(duration_s=st.floats(0, 0.5), count=st.integers(1, 300))
def test_server_queries_reach_duration_and_count(duration_s: float, count: int) -> None:
    some = list(server_queries(_plan("server", min_query_count=count), duration_s))
    assert len(some) >= count and some[-1].due_ns >= round(duration_s * 1e9)
    assert len(some) == count or some[-2].due_ns < round(duration_s * 1e9)


def test_multi_stream_takes_neighbours_and_offline_all_in_order() -> None:
    order = qsl_order(_plan("multi-stream"))
    for query in first(_plan("multi-stream"), 200):
        start = order.index(query.samples[0])
        assert query.samples == tuple(order[(start + place) % 50] for place in range(8))
    (only,) = queries(_plan("offline", samples_per_query=120, min_query_count=1))
    assert only.samples == tuple(order + order + order[:20])
    assert offline_samples(100, 1.0, 1000.0) == 1100


def _rules(scenario: Scenario, **changed: object) -> Rules:
    values: dict[str, object] = {"percentile": 0.9, "latency_limit_ns": 100, "min_duration_s": 0.0, "min_query_count": 1, **changed}
    return Rules(scenario=scenario, **values)  # type: ignore[arg-type]


def _measured(latencies: list[int], **changed: int) -> Measured:
    values = {"queries_issued": len(latencies), "last_scheduled_ns": 10**9, "last_issued_ns": 10**9, "last_done_ns": 10**9 + 1, **changed}
    return Measured(sample_latencies_ns=latencies, query_latencies_ns=latencies, **values)


def test_server_verdicts() -> None:
    met = judge(_rules("server"), _measured([50] * 63 + [101]))
    assert met.valid and met.early_stopping is not None and met.early_stopping.over_limit == 1
    few = judge(_rules("server"), _measured([50] * 62 + [101]))
    assert not few.valid and few.latency_met and few.early_stopping is not None and few.early_stopping.more_queries == 1
    at_the_limit = judge(_rules("server"), _measured([100] * 44))
    assert at_the_limit.valid
    slow = judge(_rules("server"), _measured([50] * 80 + [101] * 20))
    assert not slow.latency_met and slow.recommendations == ("Reduce target QPS to improve latency.",)
    short = judge(_rules("server", min_duration_s=1.5), _measured([50] * 64, last_issued_ns=2 * 10**9, last_done_ns=2 * 10**9))  # the schedule counts
    assert not short.valid and not short.min_duration_met


def test_single_stream_discards_and_reports_the_highest_left() -> None:
    latencies = list(range(1, 82))  # 81 queries allow t = 2: one is discarded
    found = judge(_rules("single-stream"), _measured(latencies)).early_stopping
    assert found is not None and (found.met, found.discarded, found.estimate_ns) == (True, 1, 80)
    few = judge(_rules("single-stream"), _measured(list(range(63)))).early_stopping
    assert few is not None and (few.met, few.estimate_ns, few.more_queries) == (False, None, 1)


def test_offline_is_judged_by_its_longest_latency() -> None:
    rules = _rules("offline", min_duration_s=2.0)
    assert not judge(rules, _measured([1, 10**9], queries_issued=1)).valid
    found = judge(rules, _measured([1, 2 * 10**9], queries_issued=1))
    assert found.valid and found.early_stopping is None and found.rate == 1.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=500), st.sampled_from(PERCENTILES))
def test_a_percentile_is_one_of_the_latencies_and_the_estimate_is_no_lower(latencies: list[int], percentile: float) -> None:
    found = judge(_rules("single-stream", percentile=percentile), _measured(latencies))
    assert found.latency_ns in latencies and found.latency_ns == percentile_ns(sorted(latencies), percentile)
    stopping = found.early_stopping
    assert stopping is not None and (stopping.estimate_ns is None or stopping.estimate_ns >= found.latency_ns)
