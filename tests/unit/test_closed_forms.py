"""Closed forms by hand-worked numbers, against the table of reference/measurement.md, against the recurrence, and what must be monotone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storagebench.model.closed_forms import exponential, exponential_in_step, knee_s, knee_share, no_prefetch, null_storage, pipelined
from storagebench.model.recurrence import pace

seconds = st.floats(1e-3, 10.0)
sizes = st.floats(1e3, 1e9)
counts = st.integers(1, 16)
INFINITE = math.inf


def exactly(value: float) -> object:
    return pytest.approx(value, abs=1e-12)


def test_a1_reads_and_computes_in_turn() -> None:
    assert no_prefetch(0.1, 1e6, 1e7) == exactly(0.5)
    assert no_prefetch(0.05, 32768, 819200, latency_s=0.01) == exactly(0.5)
    assert no_prefetch(0.1, 1e6, 1e7, ranks=4) == exactly(0.2)
    assert no_prefetch(0.1, 1e6, INFINITE) == 1.0


def test_a2_is_bound_by_bandwidth_or_by_requests_in_flight() -> None:
    assert pipelined(0.02, 1e6, 25e6) == exactly(0.5)
    assert pipelined(0.02, 1e6, 25e6, ranks=2, requests=9) == exactly(0.25)
    assert pipelined(0.02, 1e6, 200e6, latency_s=0.055, requests=2) == exactly(2 / 3)
    assert pipelined(0.02, 1e6, 1e9) == 1.0


@pytest.mark.parametrize(("compute_s", "au"), [(2.0, 0.9366), (1.0, 0.7311), (0.5, 0.4519)])
def test_a3_is_the_reference(compute_s: float, au: float) -> None:
    assert exponential(compute_s, 1.0) == pytest.approx(au, abs=5e-5)


def test_a4_is_a3_for_one_rank_and_the_reference_for_more() -> None:
    assert exponential_in_step(0.3, 0.2, 1) == exactly(exponential(0.3, 0.2))
    values = [exponential_in_step(4.0, 1.0, ranks) for ranks in (1, 8, 64)]
    assert values == sorted(values, reverse=True)
    compute_s = 4.0  # E[max(c, slowest of 2 reads)] by hand: c + 2 r q - r q^2 / 2, q = exp(-c / r)
    q = math.exp(-compute_s)
    assert exponential_in_step(compute_s, 1.0, 2) == exactly(compute_s / (compute_s + 2 * q - q * q / 2))


def test_a6_and_a7() -> None:
    assert null_storage(0.01, 0.0) == 1.0
    assert null_storage(0.009, 0.001) == exactly(0.9)
    assert knee_s(1e6, 25e6, 0.02, ranks=2, requests=2) == exactly(0.08)
    assert knee_s(1e6, 100e6, 0.09, ranks=2, requests=2) == exactly(0.05)
    assert (knee_share(0.05, 0.05), knee_share(0.025, 0.05)) == (1.0, exactly(0.5))


@given(seconds, sizes, sizes, st.floats(0, 1), counts, counts, st.floats(1, 4))
def test_closed_forms_are_ratios_and_monotone(c: float, b: float, bandwidth: float, latency: float, n: int, w: int, more: float) -> None:
    for base, faster, slower_compute, more_ranks in (
        (
            no_prefetch(c, b, bandwidth, latency, n), no_prefetch(c, b, bandwidth * more, latency, n),
            no_prefetch(c * more, b, bandwidth, latency, n), no_prefetch(c, b, bandwidth, latency, n + 1),
        ),
        (
            pipelined(c, b, bandwidth, latency, n, w), pipelined(c, b, bandwidth * more, latency, n, w),
            pipelined(c * more, b, bandwidth, latency, n, w), pipelined(c, b, bandwidth, latency, n + 1, w),
        ),
    ):  # fmt: skip
        assert 0 < base <= 1
        assert faster >= base - 1e-12
        assert slower_compute >= base - 1e-12
        assert more_ranks <= base + 1e-12
    assert pipelined(c, b, bandwidth, latency, n, w + 1) >= pipelined(c, b, bandwidth, latency, n, w) - 1e-12
    assert pipelined(c, b, bandwidth, latency, n, w) >= no_prefetch(c, b, bandwidth, latency, n) - 1e-12
    assert exponential_in_step(c * more, latency + 1e-3, n) >= exponential_in_step(c, latency + 1e-3, n) - 1e-12
    assert exponential_in_step(c, latency + 1e-3, n + 1) <= exponential_in_step(c, latency + 1e-3, n) + 1e-12


def test_the_recurrence_by_hand() -> None:
    """Reads of 3, 1, 5 s and 2 s of compute. Depth 0: in turn. Depth 1: read k + 1 begins when batch k is taken. Depth 2: one more ahead."""
    reads = np.array([[3.0, 1.0, 5.0]])
    assert pace(reads, 2.0, 0).end.tolist() == [5.0, 8.0, 15.0]
    assert pace(reads, 2.0, 1).end.tolist() == [5.0, 7.0, 12.0]
    assert pace(reads, 2.0, 2).end.tolist() == [5.0, 7.0, 11.0]
    assert pace(reads, 2.0, 2, readers=2).end.tolist() == [5.0, 7.0, 10.0]
    assert pace(reads, 2.0, 0).au() == exactly(6 / 15)
    two = pace(np.array([[3.0, 1.0, 5.0], [1.0, 4.0, 0.0]]), 2.0, 0)
    assert two.end.tolist() == [5.0, 11.0, 18.0]
    assert two.au() == exactly(6 / 18)


def test_batches_that_lay_ready_are_taken_out() -> None:
    """17 batches ready at the start and one more every 2c (T4): truth 0.5, 100 / 168 uncorrected."""
    reads = np.array([[0.0] * 17 + [2.0] * 84])
    assert pace(reads, 1.0, depth=101).au(warmup=1) == pytest.approx(0.5, abs=0.006)
    assert pace(reads, 1.0, depth=101).au(warmup=1) != pytest.approx(100 / 168, abs=0.006)


@pytest.mark.parametrize(("depth", "au"), [(1, 0.7715), (2, 0.866), (3, 0.912), (5, 0.956), (9, 0.984)])
def test_deeper_queues_are_the_references(depth: int, au: float) -> None:
    """Exponential reads with r = 0.9c, finite buffer K = depth - 1."""
    reads = np.random.default_rng(3).exponential(0.9, (1, 100_000))
    assert pace(reads, 1.0, depth).au() == pytest.approx(au, abs=0.004)


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_a3_and_a4_are_the_limits_of_long_runs(ranks: int) -> None:
    reads = np.random.default_rng(4).exponential(0.8, (ranks, 40_000))
    together = 1.0 / np.maximum(1.0, reads.max(axis=0)).mean()  # each step's reads begin at once
    assert together == pytest.approx(exponential_in_step(1.0, 0.8, ranks), abs=0.004)
    early = pace(reads, 1.0, 1).au()
    assert early == pytest.approx(together, abs=0.004) if ranks == 1 else early > together + 0.01


@given(
    st.lists(st.lists(st.floats(0, 5), min_size=12, max_size=12), min_size=1, max_size=3), st.floats(0.01, 5), st.integers(0, 5), st.integers(1, 4)
)
def test_the_recurrence_is_monotone(draws: list[list[float]], c: float, depth: int, readers: int) -> None:
    reads = np.array(draws)
    base = pace(reads, c, depth, readers)
    assert (base.start >= base.ready).all() and (base.start >= base.asked()).all()
    assert (pace(reads, c, depth + 1, readers).end <= base.end + 1e-9).all()
    assert (pace(reads, c, depth, readers + 1).end <= base.end + 1e-9).all()
    assert (pace(reads / 2, c, depth, readers).end <= base.end + 1e-9).all()
    assert pace(reads, 2 * c, depth, readers).au() >= base.au() - 1e-9
    assert (pace(reads[:1], c, depth, readers).end <= base.end + 1e-9).all()
