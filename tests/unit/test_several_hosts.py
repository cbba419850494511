"""A run over several hosts: their clocks are never compared, what adds up is added up, and of the rest the worst host counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from storagebench.checks.case import Case
from storagebench.checks.judge import judge_records
from storagebench.checks.mlperf_au import edition_figures
from storagebench.checks.rules_hosts import over_equal_part
from storagebench.ranks import Ranks
from storagebench.report.load import LoadedRun
from storagebench.report.series import throughput
from storagebench.report.timeline import overview, timeline
from storagebench.syncwaits import LastOfSteps
from storagebench.traces import Steps, Trace

Make = Callable[..., LoadedRun]
MS, S = 10**6, 10**9
DAY_NS = 86_400 * S
STEP_STAMPS = ("asked_ns", "ready_ns", "got_ns", "start_ns", "due_ns", "compute_end_ns", "release_ns", "sync_end_ns")
STAMPS = frozenset({"open_begin_ns", "open_end_ns", "start_ns", "end_ns", "begin_ns", "monotonic_ns"})
HOSTS = ("a", "a", "b", "c", "b")


def moved(trace: Trace, monotonic_ns: int, wall_ns: int) -> Trace:
    """The same trace as a host writes it whose clocks are so far ahead."""

    def record(row: Any) -> Any:
        shift = dict.fromkeys(STAMPS, monotonic_ns) | {"wall_ns": wall_ns}
        shift_s = wall_ns / S if row["kind"] == "clock" else 0.0
        found = {name: value + shift[name] if name in shift and value is not None else value for name, value in row.items()}
        return {**found, **({"wall_offset_s": row["wall_offset_s"] + shift_s} if row["kind"] == "clock" else {})}

    steps = Steps.of(
        structs.replace(step, **{name: getattr(step, name) + monotonic_ns for name in STEP_STAMPS if getattr(step, name) is not None})
        for step in trace.steps
    )
    return trace._replace(header=record(trace.header), steps=steps, others=tuple(map(record, trace.others)))


class World:
    """A run on hosts a, b and c, whose records can be changed before it is judged."""

    def __init__(self, loaded: LoadedRun) -> None:
        self.run = copy.deepcopy(loaded.run)
        self.ranks, self.hosts, self.writers = list(loaded.ranks.traces()), list(loaded.hosts), list[Trace]()

    def add(self, member: int, *records: dict[str, Any]) -> None:
        trace = self.hosts[member]
        self.hosts[member] = trace._replace(others=(*records, *trace.others))

    def change(self, rank: int, kind: str, **fields: Any) -> None:
        trace = self.ranks[rank]
        self.ranks[rank] = trace._replace(others=tuple({**record, **fields} if record["kind"] == kind else record for record in trace.others))

    def shift(self, host: str, monotonic_ns: int, wall_ns: int) -> None:
        for traces in (self.ranks, self.hosts, self.writers):
            traces[:] = [moved(trace, monotonic_ns, wall_ns) if trace.header["host"] == host else trace for trace in traces]

    def summary(self) -> dict[str, Any]:
        return judge_records(self.run, Ranks(self.run, self.ranks), self.hosts, self.writers)


@pytest.fixture
def world(report_make: Make) -> World:
    """Everything there is: writers on two hosts, ceilings, an exchange of clocks, devices."""
    made = World(report_make(world_size=5, hosts=HOSTS, steps=60, stall_ms=6.0, stalled=0.5, slow_rank=3, slow_ms=8.0))
    made.run["config"]["run"]["writers"] = 1
    begin_ns = made.ranks[0].of_kind("epoch_start")[0]["start_ns"]
    for number, host in enumerate(("a", "b", "c")):
        shards = [
            {"kind": "shard", "key": f"k{index}", "bytes": 10**6, "samples": 3, "begin_ns": begin_ns + index * 70 * MS, "end_ns": begin_ns + (index + 1) * 70 * MS, "cpu_s": 0.01}
            for index in range(20)
        ]  # fmt: skip
        made.writers.append(
            Trace({"kind": "header", "host": host, "writer": number}, Steps.of(()), (*shards, {"kind": "end", "end_ns": begin_ns + 2 * S}), False)
        )
    for member in (0, 1, 2):
        stamp = {"begin_ns": begin_ns - 5 * S, "monotonic_ns": begin_ns - (2 + member) * S}
        made.add(member, *({"kind": "ceiling", "when": when, "bytes_per_s": 1e9, **stamp} for when in ("before", "after")))
    for member in (1, 2, 3):
        made.add(member, {"kind": "clock", "wall_offset_s": 0.02 * member, "uncertainty_s": 0.001})
    return made


@pytest.mark.parametrize("shift_ns", [600 * S, -600 * S, 5 * DAY_NS, -5 * DAY_NS])
@pytest.mark.parametrize("host", ["b", "c"])
def test_a_host_with_another_clock_gives_the_same_summary(world: World, host: str, shift_ns: int) -> None:
    """But for what is reported of that clock, and the finding on it."""
    before = world.summary()
    world.shift(host, shift_ns - S // 3, shift_ns)
    after = world.summary()
    changed = {row["host"]: row["wall_offset_s"] - old["wall_offset_s"] for row, old in zip(after["per_host"], before["per_host"], strict=True)}
    assert changed == {label: pytest.approx(shift_ns / S if label == host else 0.0) for label in ("a", "b", "c")}
    for summary in (before, after):
        for row in summary["per_host"]:
            del row["wall_offset_s"]
        summary["findings"] = [finding for finding in summary["findings"] if finding["code"] != "CLOCK_SKEW"]
    assert after == before
    assert before["num_hosts"] == 3 and before["write_bytes_per_s"] > 0 and before["ceiling_bytes_per_s"] == 3e9


@pytest.mark.parametrize("shift_ns", [-600 * S, 5 * DAY_NS])
def test_plots_are_the_same_too(report_make: Make, shift_ns: int) -> None:
    loaded = report_make(world_size=5, hosts=HOSTS, steps=60)
    other = World(loaded)
    other.shift("b", shift_ns, 7 * shift_ns)
    far = replace(loaded, ranks=Ranks(other.run, other.ranks))
    one, two = timeline(loaded), timeline(far)
    assert one is not None and two is not None
    assert two.length_s == pytest.approx(one.length_s, abs=1e-9) and overview(two).shares == pytest.approx(overview(one).shares, abs=1e-6)
    flows = throughput(loaded), throughput(far)
    assert flows[0] is not None and flows[1] is not None
    assert flows[1].bytes_per_s == pytest.approx(flows[0].bytes_per_s, rel=1e-6)
    cases = [Case(each.run, each.summary, each.ranks, each.hosts) for each in (loaded, far)]
    assert edition_figures(cases[0], "E3") == edition_figures(cases[1], "E3")


def test_each_host_has_its_own_span_and_the_longest_counts(report_make: Make) -> None:
    """Host b ends each epoch 3 s later than a: 3 s more in the longest epoch and the wall time, on its own clock. The start is a's, whose command it was."""
    world = World(report_make(world_size=2, hosts=("a", "b"), steps=50, epochs=2, stalled=0.0))
    before = world.summary()
    ends = [record["end_ns"] for record in world.ranks[1].of_kind("epoch_end")]
    trace = world.ranks[1]
    world.ranks[1] = trace._replace(
        others=tuple({**record, "end_ns": record["end_ns"] + 3 * S} if record["kind"] == "epoch_end" else record for record in trace.others)
    )
    world.shift("b", 10**6 * S, 0)
    after = world.summary()
    assert ends and after["wall_s"] == pytest.approx(before["wall_s"] + 3)
    assert [row["duration_s"] for row in after["per_epoch"]] == pytest.approx([row["duration_s"] + 3 for row in before["per_epoch"]])
    assert after["startup_s"] == before["startup_s"] > 0
    world.shift("a", S, 0)
    assert world.summary()["startup_s"] == pytest.approx(before["startup_s"] + 1)


def test_the_least_cold_host_makes_the_cache_state(report_make: Make) -> None:
    world = World(report_make(world_size=3, hosts=("a", "a", "b"), steps=40, served=0.0))
    assert world.summary()["cached_fraction_served"] == 0.0
    stored = world.ranks[2].of_kind("epoch_end")[0]["storage_bytes"]
    world.change(2, "epoch_end", device_read_bytes=stored // 4)
    world.change(2, "cache", cached_fraction_before=0.5)
    summary = world.summary()
    assert summary["cached_fraction_served"] == pytest.approx(0.75, abs=1e-6) and summary["cached_fraction_before"] == 0.5
    assert summary["device_read_bytes"] == 2 * (2 * stored + stored // 4)
    world.run["config"]["run"]["cache"] = "warm"
    assert world.summary()["cached_fraction_served"] == 0.0
    world.change(2, "epoch_end", device_read_bytes=None)
    assert [world.summary()[name] for name in ("cached_fraction_served", "device_read_bytes", "read_amplification")] == [None] * 3


def test_bytes_of_our_servers_add_up_over_hosts_and_not_over_ranks(report_make: Make) -> None:
    world = World(report_make(world_size=3, hosts=("a", "a", "b"), storage="s3", steps=40, epochs=1))
    for rank, num_bytes in enumerate((900, 1000, None)):
        world.change(rank, "epoch_end", server_device_bytes=num_bytes)
    assert world.summary()["device_read_bytes"] == 1000
    world.change(2, "epoch_end", server_device_bytes=50)
    assert world.summary()["device_read_bytes"] == 1050


def test_cores_add_up(report_make: Make) -> None:
    """Hosts of 2 and 6 cores; each used 1.6 of its own in 16 s, and others 0.3."""
    world = World(report_make(world_size=2, hosts=("a", "b"), steps=40, epochs=1))
    world.run["hosts"][1]["usable_cores"] = 6
    one = World(report_make(world_size=2, steps=40, epochs=1)).summary()
    limits = world.summary()["limits"]
    assert limits["cores"] == 8 and limits["cpu_samples_per_s"] == pytest.approx(4 * one["limits"]["cpu_samples_per_s"])
    assert (limits["cores_used"], limits["cores_of_others"]) == (pytest.approx(0.2), pytest.approx(0.0375))
    del world.run["hosts"][1]["usable_cores"]
    assert world.summary()["limits"]["cores"] is None


def test_members_of_one_host_count_it_once_and_their_memory_each(report_make: Make) -> None:
    world = World(report_make(world_size=3, hosts=("a", "b", "a"), steps=20, epochs=1))
    grown = [{**record, "cpu_user_s": record["monotonic_ns"] / S} if record["kind"] == "host" else record for record in world.hosts[0].others]
    for member in (0, 2):
        world.hosts[member] = world.hosts[member]._replace(others=tuple(grown))
    summary = world.summary()
    a, b = summary["per_host"]
    assert (a["host"], a["ranks"], a["cpu_busy_s"], a["peak_rss_bytes"]) == ("a", 2, pytest.approx(2.0), 1_400_000_000)
    assert (b["host"], b["ranks"], b["peak_rss_bytes"], summary["peak_rss_bytes"]) == ("b", 1, 700_000_000, 2_100_000_000)
    world.hosts.pop(2)
    assert world.summary()["peak_rss_bytes"] is None and world.summary()["per_host"][1]["peak_rss_bytes"] == 700_000_000


def test_the_end_that_counts_is_the_first_members(report_make: Make) -> None:
    """Where it wrote none, the others say what they saw."""
    world = World(report_make(world_size=2, hosts=("a", "b"), steps=20, epochs=1))
    end = {"kind": "end", "exit_code": 5, "failed_rank": None, "failure": "stopped by member 0"}
    world.hosts[1] = world.hosts[1]._replace(others=(*world.hosts[1].others[:-1], end))
    world.hosts.reverse()
    assert (world.summary()["status"], world.summary()["exit_code"]) == ("complete", 0)
    world.hosts.pop()  # member 0's
    summary = world.summary()
    assert (summary["status"], summary["exit_code"], summary["failure"], summary["num_hosts"]) == ("incomplete", 5, "stopped by member 0", 2)


def test_the_clock_of_the_shortest_round_trip_counts(report_make: Make) -> None:
    world = World(report_make(world_size=2, hosts=("a", "b"), steps=20, epochs=1))
    assert [(row["wall_offset_s"], row["wall_offset_uncertainty_s"]) for row in world.summary()["per_host"]] == [(0.0, 0.0), (None, None)]
    world.add(1, *({"kind": "clock", "wall_offset_s": offset, "uncertainty_s": unsure} for offset, unsure in ((4.0, 0.9), (5.0, 0.1), (6.0, 0.5))))
    assert [(row["wall_offset_s"], row["wall_offset_uncertainty_s"]) for row in world.summary()["per_host"]] == [(0.0, 0.0), (5.0, 0.1)]


# -- whom the others waited for ----------------------------------------------------------------------------------------------------------------------------


def test_the_rank_that_comes_last_is_the_cause_of_the_wait(report_make: Make) -> None:
    """Without stalls rank 2 takes 4 ms more in each step: each of the two others waits 4 ms for it, two thirds of that in the mean of the three."""
    summary = World(report_make(world_size=3, hosts=("a", "a", "b"), steps=100, epochs=1, stalled=0.0, slow_rank=2, slow_ms=4.0)).summary()
    assert summary["sync_wait_s"] == pytest.approx(99 * 0.004 * 2 / 3, rel=1e-6)
    assert [row["sync_wait_caused_s"] for row in summary["per_rank"]] == pytest.approx([0, 0, summary["sync_wait_s"]])
    assert [row["sync_wait_caused_s"] for row in summary["per_host"]] == pytest.approx([0, summary["sync_wait_s"]])


def test_what_is_caused_is_all_of_the_wait(world: World) -> None:
    summary = world.summary()
    assert sum(row["sync_wait_caused_s"] for row in summary["per_rank"]) <= summary["sync_wait_s"] * (1 + 1e-9)
    assert sum(row["sync_wait_caused_s"] for row in summary["per_rank"]) >= 0.9 * summary["sync_wait_s"] > 0
    assert max(summary["per_rank"], key=lambda row: row["sync_wait_caused_s"])["rank"] == 3


def test_releases_on_clocks_of_their_own_keep_the_last_rank_last() -> None:
    """As `GlooWorld` does it over hosts: the end of a collective is seen by each rank a little apart, on clocks that have nothing in common; the longest of
    the durations from there until each is due counts from there everywhere. A rank that comes later than they see that end apart is found to be the last
    in every step, and the wait of the others is right to within that."""
    rng = np.random.default_rng(7)
    steps, apart_ns, clocks = 2000, 300_000, np.array([0, 0, -5 * DAY_NS, 5 * DAY_NS])[:, None]
    due = rng.integers(0, 20 * MS, (4, steps))
    seen = rng.integers(0, apart_ns, (4, steps))
    longest = (due - seen).max(axis=0)
    own_due, own_release = due + clocks, seen + clocks + longest
    waits = own_release - own_due
    found = LastOfSteps()
    for rank in range(4):
        found.take(rank, np.zeros(steps, np.int64), np.arange(steps), waits[rank])
    ordered = np.sort(due, axis=0)
    clear = ordered[-1] - ordered[-2] > apart_ns
    assert clear.mean() > 0.9 and (waits.argmin(axis=0) == due.argmax(axis=0))[clear].all() and (waits.min(axis=0) == 0).all()
    true = np.zeros(4)
    np.add.at(true, due.argmax(axis=0), (due.max(axis=0) - due).sum(axis=0))
    assert found.caused(4) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_two_that_come_last_together_are_nobodys_fault_in_any_order(order: Sequence[int]) -> None:
    """Rank 0 misses a step that the others have; of the last step two share the least wait."""
    keys = [[0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    values = [[5, 9, 4], [1, 9, 8, 4], [7, 2, 3, 6]]
    found = LastOfSteps()
    for rank in order:
        found.take(rank, np.zeros(len(keys[rank]), np.int64), np.array(keys[rank]), np.array(values[rank]))
    assert found.total() == 1 + 2 + 3 + 4
    assert found.caused(3).tolist() == [0, (5 - 1) + (7 - 1), (9 - 2) * 2 + (8 - 3)]


@pytest.mark.parametrize(("steps", "at_most"), [(50, 30), (200, 3)])
@pytest.mark.parametrize("num_ranks", [2, 3, 4, 8])
def test_ranks_that_are_alike_are_no_stragglers_by_chance(num_ranks: int, steps: int, at_most: int) -> None:
    """1000 runs whose ranks all wait by the same law, an exponential one: the largest share of the wait that one rank has."""
    rng = np.random.default_rng(num_ranks)
    found = 0
    for _ in range(1000):
        due = rng.exponential(1e6, (num_ranks, steps)).astype(np.int64)
        last = LastOfSteps()
        for rank in range(num_ranks):
            last.take(rank, np.zeros(steps, np.int64), np.arange(steps), due.max(axis=0) - due[rank])
        caused = last.caused(num_ranks)
        found += caused.max() / caused.sum() >= over_equal_part(1 / num_ranks)
    assert found <= at_most
