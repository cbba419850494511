"""Ranks on several hosts agree on a release: known answers with clocks that differ, and latencies that must not add up."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.world import Agreed, HostsAgreement

MS = 1_000_000
HOUR = 3600 * 10**9


class Network:
    """A collective among hosts in simulated time: it ends `latency_ns` after the last one has joined, and rank r sees it `skew_ns[r]` later still."""

    def __init__(self, offsets_ns: Sequence[int], latency_ns: int, skews_ns: Sequence[int]) -> None:
        self.size = len(offsets_ns)
        self.now_ns = [0] * self.size  # true time of each rank
        self._offsets_ns, self._latency_ns, self._skews_ns = offsets_ns, latency_ns, skews_ns
        self._barrier = threading.Barrier(self.size)
        self._values: list[Sequence[int]] = [()] * self.size

    def clock(self, rank: int) -> int:
        """What the clock of the rank's host shows now."""
        return self.now_ns[rank] + self._offsets_ns[rank]

    def largest(self, rank: int, values: Sequence[int]) -> list[int]:
        self._values[rank] = values
        self._barrier.wait(10)
        answer = [max(column) for column in zip(*self._values, strict=True)]
        ends_ns = max(self.now_ns) + self._latency_ns
        self._barrier.wait(10)
        self.now_ns[rank] = ends_ns + self._skews_ns[rank]
        self._barrier.wait(10)
        return answer


def releases(network: Network, ready_ns: Sequence[Sequence[int]], compute_ns: int) -> tuple[list[list[int]], list[list[int]]]:
    """Steps of all ranks: rank r has its batch for step k at true time ready_ns[r][k] after the step began; (true times of the releases, common times)."""
    found: list[list[Agreed]] = [[] for _ in range(network.size)]

    def rank_main(rank: int) -> None:
        agreement = HostsAgreement(lambda values: network.largest(rank, values), lambda: network.clock(rank))
        agreement.agree(network.clock(rank))
        for wait_ns in ready_ns[rank]:
            network.now_ns[rank] += wait_ns
            agreed = agreement.agree(network.clock(rank) + compute_ns)
            found[rank].append(agreed)
            network.now_ns[rank] = max(network.now_ns[rank], agreed.release_ns - network.clock(rank) + network.now_ns[rank])  # it sleeps until then

    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(network.size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    offsets = [network.clock(rank) - network.now_ns[rank] for rank in range(network.size)]
    return [[each.release_ns - offset for each in agreed] for agreed, offset in zip(found, offsets, strict=True)], [
        [each.common_ns for each in agreed] for agreed in found
    ]


@pytest.mark.parametrize("offsets", [(0, 0), (0, 5 * HOUR), (10**18, 3)])
def test_a_latency_shorter_than_the_compute_costs_nothing(offsets: tuple[int, int]) -> None:
    """20 ms of compute, collectives of 3 ms: with data always there, a step takes 20 ms and not 23 or 26, whatever the clocks show."""
    network = Network(offsets, latency_ns=3 * MS, skews_ns=(0, 0))
    released, common = releases(network, [[0] * 20] * 2, compute_ns=20 * MS)
    assert released[0] == released[1] == [3 * MS * 2 + 20 * MS * (step + 1) for step in range(20)]
    assert common[0] == common[1]


def test_the_last_one_is_waited_for_to_the_nanosecond() -> None:
    """One rank gets its batch 7 ms late in every step: 27 ms a step on both."""
    network = Network((0, -HOUR), latency_ns=2 * MS, skews_ns=(0, 0))
    released, _ = releases(network, [[0] * 20, [7 * MS] * 20], compute_ns=20 * MS)
    assert released[0] == released[1]
    assert [later - sooner for sooner, later in zip(released[0], released[0][1:], strict=False)] == [27 * MS] * 19


def test_a_latency_that_outlasts_the_compute_is_in_the_way() -> None:
    """2 ms of compute cannot hide two collectives of 3 ms."""
    network = Network((0, 0), latency_ns=3 * MS, skews_ns=(0, 0))
    released, _ = releases(network, [[0] * 20] * 2, compute_ns=2 * MS)
    lengths = [later - sooner for sooner, later in zip(released[0], released[0][1:], strict=False)]
    assert min(lengths) > 2 * MS


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(-(2**60), 2**60), min_size=2, max_size=4),
    st.integers(0, 4 * MS),
    st.data(),
)
def test_all_agree_and_nobody_goes_on_before_the_last_is_due(offsets: list[int], latency_ns: int, data: st.DataObject) -> None:
    """Whatever the clocks and latencies: decisions have one number, the releases lie within the skew of one another, none before the last due."""
    size, steps, compute_ns = len(offsets), 4, 30 * MS
    skews = data.draw(st.lists(st.integers(0, MS), min_size=size, max_size=size))
    waits = data.draw(st.lists(st.lists(st.integers(0, 20 * MS), min_size=steps, max_size=steps), min_size=size, max_size=size))
    released, common = releases(Network(offsets, latency_ns, skews), waits, compute_ns)
    assert all(each == common[0] for each in common)
    ends = [2 * latency_ns + max(skews) + skew for skew in skews]  # of the first agreement, two collectives
    for step in range(steps):
        due = [ends[rank] + waits[rank][step] + compute_ns for rank in range(size)]
        now = [each[step] for each in released]
        assert max(now) - min(now) <= max(skews)
        assert max(due) <= max(now) <= max(due) + max(skews)
        ends = now
