"""Where data lie: parts of hosts, which of them a storage holds, and who reads what of a partitioned dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.build import generate
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import PARTITION_OPTION, Dataset, load_dataset
from storagebench.placement import assign_parts, refuse_misplaced, shares_of_parts, spans_of_hosts, spans_of_ranks, split_shards
from storagebench.plan import make_plan, plan_epoch, plan_job
from storagebench.protocols import LoadJob, StoreSpec
from storagebench.sampling import plan_own_samples, plan_own_units
from storagebench.storage.posix import PosixStore
from storagebench.workload import Workload

# Samples of each host, and its ranks; hosts are taken by the ranks in any order, as members are.
worlds = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3)), min_size=1, max_size=4)


def ranks_of(hosts: list[tuple[int, int]], shuffled: bool) -> tuple[tuple[int, int], ...]:
    """The span of each rank."""
    begins = np.cumsum([0, *(count for count, _ in hosts)]).tolist()
    spans = [(begins[host], begins[host + 1]) for host, (_, ranks) in enumerate(hosts) for _ in range(ranks)]
    return tuple(spans[::2] + spans[1::2] if shuffled else spans)


@given(worlds, st.integers(1, 9), st.integers(0, 2), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_by_sample_each_rank_reads_its_hosts_samples_only(
    hosts: list[tuple[int, int]], batch: int, epoch: int, shuffle: bool, keep: bool, mixed: bool
) -> None:
    spans, total = ranks_of(hosts, mixed), sum(count for count, _ in hosts)
    plans = [plan_own_samples(3, epoch, total, spans, rank, batch, shuffle, keep) for rank in range(len(spans))]
    for (plan, ids), (first, stop) in zip(plans, spans, strict=True):
        assert ((ids >= first) & (ids < stop)).all() and len(ids) == plan.num_samples
    delivered = np.concatenate([ids for _, ids in plans])
    assert len(np.unique(delivered)) == len(delivered)  # each at most once
    assert len({len(plan.sizes) for plan, _ in plans}) == 1
    assert {plan.dropped_samples for plan, _ in plans} == {total - len(delivered)}
    if keep:
        assert len(delivered) == total
        assert all(size <= batch for plan, _ in plans for size in plan.sizes)
    else:
        assert all(size == batch for plan, _ in plans for size in plan.sizes)
        poorest = min(count // (ranks * batch) for count, ranks in hosts)
        assert len(plans[0][0].sizes) == poorest


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 3)), min_size=1, max_size=4),
    st.integers(1, 8),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_by_unit_each_rank_reads_its_hosts_units_only(
    hosts: list[tuple[list[int], int]], batch: int, epoch: int, shuffle: bool, keep: bool, mixed: bool
) -> None:
    sizes = np.array([size for units, _ in hosts for size in units], np.int64)
    firsts = np.cumsum(sizes) - sizes
    spans = ranks_of([(len(units), ranks) for units, ranks in hosts], mixed)
    plans = [plan_own_units(5, epoch, firsts, sizes, spans, rank, batch, shuffle, keep) for rank in range(len(spans))]
    for (plan, units), (first, stop) in zip(plans, spans, strict=True):
        assert ((units >= first) & (units < stop)).all()
        assert plan.num_samples <= len(plan.planned) == int(sizes[units].sum())
    assert sorted(np.concatenate([units for _, units in plans]).tolist()) == list(range(len(sizes)))
    assert len({len(plan.sizes) for plan, _ in plans}) == 1
    total = sum(plan.num_samples for plan, _ in plans)
    assert {plan.dropped_samples for plan, _ in plans} == {int(sizes.sum()) - total}
    assert not keep or total == int(sizes.sum())


def test_one_host_that_holds_everything_plans_as_if_it_were_whole() -> None:
    dataset = a_dataset(40)
    common: dict[str, Any] = {"epoch": 1, "world_size": 3, "batch_size": 4, "seed": 1, "shuffle": True, "keep": True}
    for rank in range(3):
        for unit in ("sample", "shard"):
            whole, own = (plan_epoch(unit, dataset, rank=rank, shard_spans=spans, **common) for spans in ((), ((0, dataset.num_shards),) * 3))
            assert whole[0].sizes == own[0].sizes and whole[1].tolist() == own[1].tolist()


def a_dataset(num_samples: int, partition: tuple[tuple[int, int], ...] = (), per_shard: int = 2) -> Dataset:
    """In memory: shards of two samples of 10 bytes."""
    num_shards = num_samples // per_shard
    counts = np.full(num_shards, per_shard, np.int64)
    index = np.zeros(
        num_samples, [("offset", "<u8"), ("record_bytes", "<u8"), ("crc32c", "<u4"), ("shard", "<u4"), ("label", "<i4"), ("reserved", "<u4")]
    )
    index["record_bytes"], index["shard"] = 10, np.repeat(np.arange(num_shards), per_shard)
    names = tuple(f"shards/{shard:06d}.tar" for shard in range(num_shards))
    options: dict[str, Any] = {PARTITION_OPTION: [list(span) for span in partition]} if partition else {}
    return Dataset("webdataset", "bytes", names, counts * 10, np.zeros(num_shards, np.uint32), np.cumsum(counts) - counts, counts, index, {}, options)


@pytest.mark.parametrize("unit", ["sample", "shard", "row_group"])
def test_a_job_reads_its_hosts_shards_only(unit: str) -> None:
    dataset = a_dataset(40, ((0, 12), (12, 20)))
    spans = spans_of_ranks(((0, 12), (12, 20)), ((0, 2), (1, 1)))
    jobs = [LoadJob(StoreSpec("posix", "/"), dataset, rank, 3, batch_size=3, keep_remainder=True, shard_spans=spans) for rank in range(3)]
    plans = [plan_job(unit, job, 0) for job in jobs]
    assert [sorted({int(dataset.index["shard"][sample]) for sample in plan.planned}) for plan, _ in plans][2] == list(range(12, 20))
    assert sorted(np.concatenate([plan.planned for plan, _ in plans]).tolist()) == list(range(40))
    assert [job.num_dealt_shards for job in jobs] == [6, 6, 8]
    assert jobs[0].shards_here == range(12) and jobs[2].shards_here == range(12, 20)


def test_the_plan_of_a_partitioned_run_counts_what_the_poorest_host_can() -> None:
    dataset, spans = a_dataset(40, ((0, 12), (12, 20))), ((0, 12), (0, 12), (12, 20))
    workload = Workload.model_validate(
        {"name": "t", "train": {"batch_size": 4}, "loader": {"name": "direct"}, "run": {"compute_time_s": 0.01, "warmup_steps": 0}}
    )
    plan = make_plan(workload, 3, dataset, 3, spans)
    assert (plan.steps_per_epoch, plan.dropped_samples_per_epoch) == (3, 40 - 3 * 4 * 3)  # 24 samples for 8 a step, 16 for 4
    keep = workload.model_copy(update={"run": workload.run.model_copy(update={"remainder": "keep"})})
    plan = make_plan(keep, 3, dataset, 3, spans)
    assert (plan.steps_per_epoch, plan.dropped_samples_per_epoch) == (4, 0)
    streams = workload.model_copy(update={"loader": workload.loader.model_copy(update={"name": "webdataset"})})
    with pytest.raises(UsageError, match="a host holds 1 shards of the dataset for 2 accelerators"):
        make_plan(streams, 3, a_dataset(40, ((0, 1), (1, 20))), 3, ((0, 1), (0, 1), (1, 20)))


@given(st.integers(1, 200), st.lists(st.integers(1, 8), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_shards_are_split_in_proportion(num_shards: int, weights: list[int]) -> None:
    if num_shards < sum(weights):
        return
    spans = split_shards(num_shards, weights)
    assert [first for first, _ in spans] == [0, *(stop for _, stop in spans[:-1])] and spans[-1][1] == num_shards
    for (first, stop), weight in zip(spans, weights, strict=True):
        assert abs((stop - first) - num_shards * weight / sum(weights)) <= 1


def test_too_few_shards_are_refused() -> None:
    with pytest.raises(UsageError, match="2 shards are too few to be partitioned over 3 hosts with 1, 1, 1 accelerators"):
        split_shards(2, (1, 1, 1))


def test_which_part_a_host_holds_is_seen_in_its_storage() -> None:
    dataset = a_dataset(8, ((0, 2), (2, 4)))
    assert shares_of_parts(dataset, {dataset.names[2]: 20, dataset.names[3]: 19}) == [0.0, 0.5]
    spans = spans_of_hosts(dataset, [[0.0, 1.0], [1.0, 0.0]], ("b", "a"))
    assert spans == ((2, 4), (0, 2))
    assert assign_parts([[1.0, 0.9], [1.0, 1.0]]) == [0, 1]
    with pytest.raises(DatasetError, match=r"host b holds none of the shards shards/000000.tar to shards/000001.tar, and no other host does"):
        spans_of_hosts(dataset, [[0.0, 0.0], [0.0, 1.0]], ("b", "a"))
    with pytest.raises(UsageError, match="partitioned over 2 hosts, and this runs on 3"):
        spans_of_hosts(dataset, [[0.0, 1.0]] * 3, ("a", "b", "c"))


def test_a_placement_that_is_not_the_datasets_is_refused() -> None:
    whole, parted = a_dataset(8), a_dataset(8, ((0, 2), (2, 4)))
    refuse_misplaced(whole, "replicated", 2)
    refuse_misplaced(parted, "partitioned", 2)
    for dataset, placement, hosts, words in (
        (whole, "partitioned", 2, "the dataset is whole"),
        (parted, "shared", 2, "--placement is shared"),
        (parted, "partitioned", 1, "this runs on one"),
    ):
        with pytest.raises(UsageError, match=words):
            refuse_misplaced(dataset, placement, hosts)


def test_a_part_is_a_dataset_of_its_own(tmp_path: Path) -> None:
    workload = Workload.model_validate({"name": "t", "dataset": {"num_samples": 130, "record_length_bytes": 500, "format": "npz"}})
    dataset = generate(workload, PosixStore(StoreSpec("posix", str(tmp_path))))
    part = dataset.part(10, 13)
    assert part.names == dataset.names[10:13] and part.first_sample.tolist() == [0, 1, 2] and part.index["shard"].tolist() == [0, 1, 2]
    assert (part.index["crc32c"] == dataset.index["crc32c"][10:13]).all()
    assert load_dataset(PosixStore(StoreSpec("posix", str(tmp_path)))).index["shard"][12] == 12  # and the whole stays as it is
