"""Ranks that share a process: they meet in order, are paced on time, end together, and count the process once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storagebench.build import generate
from storagebench.configfile import load_workload
from storagebench.consumers import ConsumerClock, ConsumerGroup, ConsumerWorld, Pacer, PeerFailedError, run_consumers
from storagebench.errors import UsageError
from storagebench.loaders.direct import DirectRun
from storagebench.plan import make_plan, refuse_unshared
from storagebench.protocols import LoadJob
from storagebench.storage import open_store
from storagebench.world import Agreed, Place, Seats, SingleWorld

_MOST_S = 20


def places(count: int) -> list[Place]:
    """Of ranks that share the one process of a run."""
    return Seats((("h", count),), count).process(0, 0)[1]


class OuterWorld:
    """Two other processes beside this one, with one rank each, that answer at once."""

    place = Place(1, 3)

    def __init__(self) -> None:
        self.calls: list[str] = []

    def barrier(self) -> None:
        self.calls.append("barrier")

    def agree(self, due_ns: int) -> Agreed:
        self.calls.append("agree")
        return Agreed(max(due_ns, 50), 7)

    def gather(self, value: Any) -> list[Any]:
        return [["first"], value, ["last"]]

    def count_ids(self, ids: Any, num_samples: int) -> Any:
        return np.bincount(ids, minlength=num_samples) + 1

    def close(self) -> None:
        self.calls.append("close")


def together(group: ConsumerGroup, work: Any) -> list[Any]:
    """What `work(world)` returned for each rank."""
    found: dict[int, Any] = {}

    def consume(world: ConsumerWorld) -> int:
        found[world.place.rank_of_process] = work(world)
        return 0

    assert run_consumers(group, consume) == 0
    return [found[index] for index in sorted(found)]


@pytest.mark.parametrize(
    ("world_size", "per_process", "ranks"), [(6, 4, [[0, 1, 2, 3], [4, 5]]), (4, 4, [[0, 1, 2, 3]]), (3, 1, [[0], [1], [2]]), (2, 8, [[0, 1]])]
)
def test_places_of_each_process(world_size: int, per_process: int, ranks: list[list[int]]) -> None:
    seats = Seats((("h", world_size),), per_process)
    assert seats.num_processes == seats.processes_of(0) == len(ranks)
    every = [seats.process(0, index) for index in range(seats.num_processes)]
    assert [[place.rank for place in places] for _, places in every] == ranks
    assert [(process.rank, process.world_size) for process, _ in every] == [(index, len(ranks)) for index in range(len(ranks))]
    places = [place for _, some in every for place in some]
    assert [place.rank_of_host for place in places] == list(range(world_size))
    assert {(place.world_size, place.num_hosts, place.host) for place in places} == {(world_size, 1, "h")}
    assert [place.rank_of_process for place in places] == [index for some in ranks for index in range(len(some))]


def test_places_over_uneven_hosts_and_several_commands_on_one() -> None:
    """Commands with 5 and 2 ranks on one host, one with 1 on another, 3 more on the first: three hosts would be wrong, and so would be a rank that is given twice."""
    seats = Seats((("a", 5), ("a", 2), ("b", 1), ("a", 3)), per_process=2)
    every = [seats.process(member, index) for member in range(4) for index in range(seats.processes_of(member))]
    assert [process.rank for process, _ in every] == list(range(7)) and seats.num_processes == 7
    places = [place for _, some in every for place in some]
    assert [place.rank for place in places] == list(range(11)) and {place.world_size for place in places} == {11}
    assert [(place.host, place.rank_of_host) for place in places] == [*(("a", n) for n in range(7)), ("b", 0), *(("a", n) for n in range(7, 10))]
    assert {(place.host, place.host_number, place.num_hosts) for place in places} == {("a", 0, 2), ("b", 1, 2)}
    assert [process.rank_of_host for process, _ in every] == [0, 1, 2, 3, 0, 4, 5]


def test_collectives_span_threads_and_processes() -> None:
    outer = OuterWorld()
    group = ConsumerGroup(outer, Seats((("h", 9),), 4).process(0, 1)[1])

    def work(world: ConsumerWorld) -> Any:
        largest = [world.agree(value + world.place.rank_of_process) for value in (10, 90)]
        world.barrier()
        counts = world.count_ids(np.array([world.place.rank_of_process, 0]), 6)
        return largest, world.gather(world.place.rank), counts.tolist()

    answers = together(group, work)
    assert answers == [([(50, 7), (93, 7)], ["first", 4, 5, 6, 7, "last"], [6, 2, 2, 2, 1, 1])] * 4
    assert outer.calls == ["agree", "agree", "barrier"]  # one for all


def test_ranks_meet_over_and_over_in_any_order() -> None:
    group = ConsumerGroup(SingleWorld(), places(16))
    sums = together(group, lambda world: [world.gather((world.place.rank, turn)) for turn in range(50)])
    assert all(answer == [[(rank, turn) for rank in range(16)] for turn in range(50)] for answer in sums)


def test_the_pacer_lets_each_go_at_its_own_deadline() -> None:
    """Stamps are never before the deadline, and of ranks with one deadline they are the same; a deadline that is sooner is not overslept."""
    group = ConsumerGroup(SingleWorld(), places(8))

    def work(world: ConsumerWorld) -> list[tuple[int, int]]:
        clock = ConsumerClock(group, world.place)
        begin_ns = world.agree(time.monotonic_ns()).release_ns + 100_000_000  # all have started, also on a busy machine
        own = [begin_ns + (10 + 3 * ((world.place.rank * 5) % 8)) * 1_000_000, begin_ns + 60_000_000]
        return [(deadline_ns, clock.sleep_until_ns(deadline_ns)) for deadline_ns in own]

    answers = together(group, work)
    assert all(woke_ns >= deadline_ns for answer in answers for deadline_ns, woke_ns in answer)
    firsts = [answer[0] for answer in answers]
    assert [woke for _, woke in sorted(firsts)] == sorted(woke for _, woke in firsts)


def test_a_deadline_that_has_passed_costs_no_sleep() -> None:
    pacer = Pacer(1)  # not started: nobody would wake a sleeper
    now_ns = time.monotonic_ns()
    assert pacer.sleep_until_ns(0, now_ns) >= now_ns


@pytest.mark.parametrize("where", ["meet", "sleep", "poll"])
def test_one_failure_ends_all_wherever_they_wait(where: str) -> None:
    group = ConsumerGroup(SingleWorld(), places(6))
    told: list[int] = []

    def consume(world: ConsumerWorld) -> int:
        clock = ConsumerClock(group, world.place)
        if world.place.rank == 4:
            return 3
        try:
            while True:
                if where == "meet":
                    world.barrier()
                elif where == "sleep":
                    clock.sleep_until_ns(clock.now_ns() + 3600 * 10**9)
                else:
                    clock.now_ns()
        except PeerFailedError:
            told.append(world.place.rank)
            return 5

    answer: list[int] = []
    thread = threading.Thread(target=lambda: answer.append(run_consumers(group, consume)), daemon=True)
    thread.start()
    thread.join(_MOST_S)
    assert answer == [3]  # the code of the one that failed, not of those that ended because of it
    assert sorted(told) == [0, 1, 2, 3, 5]


def test_a_failure_in_the_collective_between_processes_ends_all() -> None:
    class Broken(OuterWorld):
        def agree(self, due_ns: int) -> Agreed:
            raise RuntimeError("Connection closed by peer")

    group = ConsumerGroup(Broken(), places(3))
    seen: list[str] = []

    def consume(world: ConsumerWorld) -> int:
        try:
            world.agree(1)
        except (RuntimeError, PeerFailedError) as error:
            seen.append(type(error).__name__)
            return 5
        return 0

    assert run_consumers(group, consume) == 5
    assert sorted(seen) == ["PeerFailedError", "PeerFailedError", "RuntimeError"]


def test_one_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storagebench.consumers._MOST_S_TO_END", 0.2)
    group = ConsumerGroup(SingleWorld(), places(2))
    hanging = threading.Event()

    def consume(world: ConsumerWorld) -> int:
        if world.place.rank == 1:
            return 4
        hanging.wait(_MOST_S)
        return 0

    answer: list[int] = []
    thread = threading.Thread(target=lambda: answer.append(run_consumers(group, consume)), daemon=True)
    thread.start()
    thread.join(_MOST_S / 2)
    hanging.set()
    assert answer == [4]


def test_only_one_rank_of_a_process_reports_the_process(tmp_path: Path) -> None:
    dataset = generate(load_workload("quick", [("dataset.num_samples", 64, "test")]).workload, open_store(str(tmp_path)))
    store = open_store(str(tmp_path))
    counters = []
    for rank in range(2):
        run = DirectRun(LoadJob(store.spec, dataset, rank, 2, 4, num_workers=1, counts_process=rank == 0))
        run.counters()
        run.start(0)
        while run.next() is not None:
            pass
        counters.append(run.counters())
        run.close()
    first, second = counters
    assert first.rchar_bytes is not None and first.rchar_bytes > 0
    assert (second.rchar_bytes, second.device_read_bytes) == (0, 0)
    assert (
        first.storage_bytes == second.storage_bytes == dataset.stored_bytes // 2 or first.storage_bytes + second.storage_bytes == dataset.stored_bytes
    )  # type: ignore[operator]


def test_processes_and_memory_of_a_plan() -> None:
    def plan(share: int, loader: str = "direct") -> Any:
        settings = [
            ("run.num_accelerators", 10, "t"),
            ("run.accelerators_per_process", share, "t"),
            ("loader.name", loader, "t"),
            ("run.compute_time_s", 0.1, "t"),
        ]
        return make_plan(load_workload("quick", settings).workload, 10)

    assert [plan(share).num_processes for share in (1, 4, 10, 64)] == [10, 3, 1, 1]
    assert plan(10).memory_bytes < plan(4).memory_bytes < plan(1).memory_bytes / 2
    assert plan(10).descriptors > plan(1).descriptors
    with pytest.raises(UsageError, match="--accelerators-per-process is 4, and loader files takes a process for each accelerator"):
        plan(4, "files")


def test_the_loaders_that_share_a_process_are_named_in_the_hint() -> None:
    workload = load_workload("quick", [("run.accelerators_per_process", 2, "t"), ("loader.name", "files", "t")]).workload
    with pytest.raises(UsageError) as raised:
        refuse_unshared(workload)
    assert "null or direct" in raised.value.hint
