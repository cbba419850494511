"""AU on a fake clock: every expectation is worked out by hand, and met exactly. The engine, the trace and the metrics are the real ones."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storagebench.accelerator import EmulatedAccelerator
from storagebench.checks.judge import judge_records
from storagebench.clock import FakeClock
from storagebench.engine import Engine, EngineJob
from storagebench.members import alone
from storagebench.protocols import Batch, LoaderCounters
from storagebench.ranks import Ranks
from storagebench.records import TraceWriter
from storagebench.sampling import EpochPlan
from storagebench.traces import TraceFiles
from storagebench.world import Agreed, Place

C_NS = 100_000_000
C = 0.1


class ScriptedLoader:
    """Batch k of an epoch is ready `fetch[k]` after it was asked (no prefetch), or at `start + ready[k]` where ready times are given."""

    def __init__(
        self, clock: FakeClock, fetch_ns: Sequence[Sequence[int]], batch: int = 4, ready_ns: Sequence[int] | None = None, last: int = 0
    ) -> None:
        self.clock, self.fetch_ns, self.batch, self.ready_ns, self.last = clock, fetch_ns, batch, ready_ns, last

    def plan(self, epoch: int) -> EpochPlan:
        count = len(self.fetch_ns[epoch])
        sizes = [self.batch] * count
        if self.last:
            sizes[-1] = self.last
        return EpochPlan(tuple(sizes), np.arange(sum(sizes)), 0)

    def start(self, epoch: int) -> None:
        self.epoch, self.step, self.sample, self.begin_ns = epoch, 0, 0, self.clock.now_ns()

    def next(self) -> Batch | None:
        if self.ready_ns is None:
            self.clock.advance_ns(self.fetch_ns[self.epoch][self.step])
            ready = self.clock.now_ns()
        else:
            ready = self.begin_ns + self.ready_ns[self.step]
            self.clock.advance_ns(max(0, ready - self.clock.now_ns()))
        size = self.plan(self.epoch).sizes[self.step]
        ids = np.arange(self.sample, self.sample + size)
        self.step, self.sample = self.step + 1, self.sample + size
        return Batch(ids, record_bytes=1000 * size, handover_bytes=1000 * size, ready_ns=ready)

    def drain(self) -> None: ...

    def counters(self) -> LoaderCounters:
        return LoaderCounters()

    def effective(self) -> Mapping[str, Any]:
        return {"decode": "none"}

    def close(self) -> None: ...


class NoCache:
    def prepare(self, epoch: int) -> Mapping[str, Any]:
        return {}

    def device_bytes(self) -> int | None:
        return None


@dataclass
class FakeWorlds:
    """Ranks as threads, each with a clock of its own: they meet in the collectives only, so the outcome does not depend on scheduling."""

    size: int
    barrier: threading.Barrier = field(init=False)
    values: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size)
        self.values = [None] * self.size

    def rank(self, rank: int) -> FakeWorld:
        return FakeWorld(self, Place(rank, self.size, rank, "host"))


@dataclass
class FakeWorld:
    worlds: FakeWorlds
    place: Place

    def gather(self, value: Any) -> list[Any]:
        self.worlds.values[self.place.rank] = value
        self.worlds.barrier.wait(10)
        everything = list(self.worlds.values)
        self.worlds.barrier.wait(10)
        return everything

    def barrier(self) -> None:
        self.gather(None)

    def agree(self, due_ns: int) -> Agreed:
        latest_ns = max(self.gather(due_ns))
        return Agreed(latest_ns, latest_ns)

    def count_ids(self, ids: np.ndarray, num_samples: int) -> np.ndarray:
        return np.bincount(np.concatenate(self.gather(ids)), minlength=num_samples)

    def close(self) -> None: ...


def run(tmp_path: Path, loaders: Sequence[Any], clocks: Sequence[FakeClock], *, warmup: int = 1, sync: str = "step", epochs: int = 1, prefetch: int = 1,
        max_steps: int | None = None) -> dict[str, Any]:  # fmt: skip
    worlds = FakeWorlds(len(loaders))
    job = EngineJob(
        epochs=epochs,
        batch_size=4,
        compute_ns=C_NS,
        warmup_steps=warmup,
        sync=sync,
        max_steps=max_steps,
        duration_ns=None,
        null_duration_ns=0,
        expected_crc32c=np.zeros(1000, np.uint32),
        shard_of=str,
    )
    failures: list[BaseException] = []

    def rank_main(rank: int) -> None:
        trace = TraceWriter(tmp_path / f"rank-{rank:05d}.jsonl")
        trace.write({"kind": "header", "rank": rank, "host": "host"})
        try:
            accelerator = EmulatedAccelerator(clocks[rank], job.compute_ns)
            Engine(job, worlds.rank(rank), clocks[rank], trace, NoCache(), accelerator).run(loaders[rank], None)
        except BaseException as error:
            failures.append(error)
            worlds.barrier.abort()
        trace.close()

    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(len(loaders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    record = run_json(len(loaders), epochs, prefetch, max_steps)
    return judge_records(record, Ranks(record, TraceFiles([tmp_path / f"rank-{rank:05d}.jsonl" for rank in range(len(loaders))])), [])


def run_json(world_size: int, epochs: int, prefetch: int, max_steps: int | None) -> dict[str, Any]:
    settings = {"cache": "as-is", "decode": "none", "remainder": "drop", "max_steps": max_steps, "duration_s": None}
    return {
        "run_id": "r", "accelerator": "x", "command_start_ns": 0,
        "config": {"name": "w", "loader": {"name": "scripted", "num_workers": 1, "prefetch_batches": prefetch}, "train": {"batch_size": 4, "epochs": epochs, "au_threshold": 0.9}, "run": settings},
        "plan": {"compute_time_s": C, "world_size": world_size, "prefetch_batches": prefetch},
        "dataset": {"format": "npz", "digest": "d", "record_bytes": 0, "stored_bytes": 0, "origin": {}},
        "store": {"kind": "memory"}, "hosts": [{"host": "host", "memory_bytes": 1, "usable_cores": 2}], "members": alone("host", 1, world_size, 1),
    }  # fmt: skip


def one(tmp_path: Path, fetch: Sequence[Sequence[int]], *, overshoot_ns: int = 0, warmup: int = 1, **more: Any) -> dict[str, Any]:
    clock = FakeClock(start_ns=7_000, overshoot_ns=overshoot_ns)
    loader = ScriptedLoader(clock, fetch, ready_ns=more.pop("ready_ns", None), last=more.pop("last", 0))
    return run(tmp_path, [loader], [clock], warmup=warmup, epochs=len(fetch), **more)


def exactly(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


def test_compute_bound_is_exactly_one(tmp_path: Path) -> None:
    s = one(tmp_path, [[0] * 10])
    assert (s["au_nominal"], s["au_uncorrected"], s["fetch_s"], s["measured_steps"]) == (1.0, 1.0, 0.0, 9)
    assert s["samples_per_s"] == exactly(4 / C)


def test_storage_bound_without_prefetch_is_c_over_c_plus_r(tmp_path: Path) -> None:
    s = one(tmp_path, [[3 * C_NS] * 11])
    assert s["au_nominal"] == exactly(1 / 4)
    assert s["fetch_s"] == exactly(10 * 3 * C)
    assert s["compute_s"] == exactly(10 * C)
    assert s["window_s"] == exactly(40 * C)
    assert s["delivered_bytes_per_s"] == exactly(10 * 4000 / (40 * C))


def test_one_stalled_batch_of_ten_c_costs_exactly_ten_c(tmp_path: Path) -> None:
    fetch = [0] * 21
    fetch[10] = 10 * C_NS
    s = one(tmp_path, [fetch])
    assert s["au_nominal"] == exactly(20 / 30)
    assert s["fetch_s"] == exactly(10 * C)
    assert s["fetch_quantiles_s"] == {"p50": 0.0, "p90": 0.0, "p99": exactly(10 * C), "max": exactly(10 * C)}


@pytest.mark.parametrize(("warmup", "au"), [(1, 1.0), (0, 10 / 60), (3, 1.0)])
def test_warm_up_steps_are_outside_of_the_window(tmp_path: Path, warmup: int, au: float) -> None:
    s = one(tmp_path, [[50 * C_NS] + [0] * 9], warmup=warmup)
    assert s["au_nominal"] == exactly(au)
    assert s["measured_steps"] == 10 - warmup
    assert s["samples"] == 40  # totals are of the whole run


def test_the_start_of_a_later_epoch_is_in_the_window(tmp_path: Path) -> None:
    s = one(tmp_path, [[50 * C_NS] + [0] * 4, [3 * C_NS] + [0] * 4])
    assert s["au_nominal"] == exactly(9 / 12)
    assert s["measured_steps"] == 9


def test_stalled_time_is_never_caught_up_and_a_late_wake_up_is_never_work(tmp_path: Path) -> None:
    """A millisecond of oversleep neither lengthens the window nor the work; only the measured variant, for comparison, counts it."""
    s = one(tmp_path, [[0] * 10], overshoot_ns=1_000_000, ready_ns=[0] * 10, prefetch=10)
    assert (s["au_nominal"], s["host_delay_s"]) == (1.0, 0.0)
    assert s["au_measured"] == exactly(1.01)


def test_a_stall_of_the_host_lowers_au_and_is_named(tmp_path: Path) -> None:
    s = one(tmp_path, [[0] * 11], overshoot_ns=25_000_000)
    assert s["au_nominal"] == exactly(100 / 125)
    assert s["host_delay_s"] == exactly(10 * 0.025)
    assert "HOST_LIMITED" in [finding["code"] for finding in s["findings"]]


def test_synced_ranks_all_wait_for_the_slowest(tmp_path: Path) -> None:
    """Rank 1 stalls 2c in one step of ten: both need 12c for 10 steps; rank 0 spends the 2c in sync, rank 1 in fetch."""
    fetch = [0] * 11
    clocks = [FakeClock(), FakeClock()]
    slow = list(fetch)
    slow[5] = 2 * C_NS
    s = run(tmp_path, [ScriptedLoader(clocks[0], [fetch]), ScriptedLoader(clocks[1], [slow])], clocks)
    assert s["au_nominal"] == exactly(10 / 12)
    assert [row["fetch_s"] for row in s["per_rank"]] == [0.0, exactly(2 * C)]
    assert [row["sync_s"] for row in s["per_rank"]] == [exactly(2 * C), 0.0]
    assert s["sync_wait_s"] == exactly(C)  # the mean over ranks
    assert s["sync_cost_s"] == 0.0


def test_uneven_ranks_without_sync_each_have_their_own_au(tmp_path: Path) -> None:
    clocks = [FakeClock(), FakeClock()]
    loaders = [ScriptedLoader(clocks[0], [[0] * 11]), ScriptedLoader(clocks[1], [[C_NS] * 11])]
    s = run(tmp_path, loaders, clocks, sync="none")
    assert [row["au_nominal"] for row in s["per_rank"]] == [1.0, exactly(0.5)]
    assert s["au_nominal"] == exactly(0.75)
    assert s["samples_per_s"] == exactly(2 * 40 / (20 * C))  # all samples over the longest rank's window


def test_a_short_batch_computes_its_share(tmp_path: Path) -> None:
    s = one(tmp_path, [[C_NS] * 3], last=1)
    assert s["compute_s"] == exactly(C + C / 4)
    assert s["au_nominal"] == exactly(1.25 / 3.25)


def test_prefetched_batches_are_taken_out(tmp_path: Path) -> None:
    """17 batches are ready at the start and one more every 2c: truth 0.5. 100 steps after the warm-up take 2c * 84 + c - c (reference T4)."""
    ready = [0] * 17 + [2 * C_NS * (k + 1) for k in range(84)]
    s = one(tmp_path, [[0] * 101], ready_ns=ready, prefetch=16)
    assert s["au_uncorrected"] == exactly(100 / 168)
    assert s["au_nominal"] == exactly(84 / 168)
    assert s["au_uncertainty"] == exactly(1 / 100)
    assert s["samples_per_s"] == exactly(84 * 4 / (168 * C))


def test_a_loader_that_keeps_up_is_not_corrected(tmp_path: Path) -> None:
    ready = [C_NS * max(0, k - 4) for k in range(101)]
    s = one(tmp_path, [[0] * 101], ready_ns=ready, prefetch=4)
    assert (s["au_nominal"], s["au_uncorrected"], s["au_uncertainty"]) == (1.0, 1.0, 0.0)


def test_max_steps_counts_the_warm_up(tmp_path: Path) -> None:
    s = one(tmp_path, [[0] * 10], max_steps=4)
    assert (s["measured_steps"], s["warmup_steps"], s["samples"], s["missing_samples"]) == (3, 1, 16, 0)


def test_the_parts_of_the_window_add_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    clocks = [FakeClock(overshoot_ns=60_000), FakeClock(overshoot_ns=90_000)]
    loaders = [ScriptedLoader(clock, [rng.integers(0, 3 * C_NS, 30).tolist(), rng.integers(0, 3 * C_NS, 30).tolist()]) for clock in clocks]
    s = run(tmp_path, loaders, clocks, epochs=2)
    for row in s["per_rank"]:
        parts = row["fetch_s"] + row["compute_s"] + row["sync_s"] + row["host_delay_s"]
        assert parts == pytest.approx(row["window_s"], rel=1e-3)
