"""What every loader delivers, over every format and store that the registry says works with it: each sample once, its exact bytes, in the order asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storagebench.adapters import FORMATS
from storagebench.manifest import side_files, side_key
from storagebench.protocols import LoadJob, ShardIndexed, StoreSpec
from storagebench.registry import open_format
from storagebench.storage import open_spec, queues

# Libraries that read where neither our store nor the kernel can count it.
UNCOUNTED = {("parquet", "s3"), ("litdata", "posix"), ("ray-data", "posix")}


@pytest.mark.cells("every")
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_sample_comes_exactly_once_with_its_exact_bytes(cell: Any, job: LoadJob, records: Any, world_size: int, tools: Any) -> None:
    seen: list[int] = []
    steps = set()
    for rank in range(world_size):
        run = tools.opened(cell.loader, replace(job, rank=rank, world_size=world_size))
        try:
            plan = run.plan(0)
            steps.add(len(plan.sizes))
            ids = tools.epoch(run, 0, records(cell.format))
            assert sorted(ids) == sorted(plan.planned.tolist())
            seen += ids
        finally:
            run.close()
    assert sorted(seen) == list(range(job.dataset.num_samples))
    assert len(steps) == 1


@pytest.mark.cells("every")
def test_orders(cell: Any, job: LoadJob, records: Any, tools: Any) -> None:
    """Another order each epoch, the same for the same seed in a fresh loader, another for another seed, the stored one without shuffle."""
    expected = records(cell.format)
    run = tools.opened(cell.loader, job)
    first, second, again = (tools.epoch(run, number, expected) for number in (0, 1, 0))
    run.close()
    assert first == again != second
    assert first != sorted(first)
    fresh, other = tools.opened(cell.loader, job), tools.opened(cell.loader, replace(job, seed=2))
    assert tools.epoch(fresh, 1, expected) == second
    assert tools.epoch(other, 0, expected) != first
    fresh.close()
    other.close()
    stored = tools.opened(cell.loader, replace(job, shuffle=False))
    assert tools.epoch(stored, 3, expected) == list(range(job.dataset.num_samples))
    stored.close()


@pytest.mark.cells("every")
def test_drop_leaves_out_what_is_planned(cell: Any, job: LoadJob, records: Any, tools: Any) -> None:
    seen: list[int] = []
    dropped = set()
    for rank in range(2):
        run = tools.opened(cell.loader, replace(job, rank=rank, world_size=2, keep_remainder=False))
        for number in (0, 1):
            ids = tools.epoch(run, number, records(cell.format))
            assert set(run.plan(number).sizes) == {job.batch_size}
            assert set(ids) <= set(run.plan(number).planned.tolist())
            seen += ids if number == 0 else []
        dropped.add(run.plan(0).dropped_samples)
        run.close()
    assert len(set(seen)) == len(seen)
    assert dropped == {job.dataset.num_samples - len(seen)}


@pytest.mark.cells("every")
def test_counters(cell: Any, job: LoadJob, records: Any, tools: Any) -> None:
    """Exactly the stored bytes where our store counts, about them where the kernel does, monotone over epochs."""
    run = tools.opened(cell.loader, job)
    assert not run.counters().storage_bytes
    tools.epoch(run, 0, records(cell.format))
    one = run.counters()
    tools.epoch(run, 1, records(cell.format))
    two = run.counters()
    run.close()
    if one.storage_bytes is None or two.storage_bytes is None:
        assert (cell.loader, cell.kind) in UNCOUNTED
        return
    dataset = job.dataset
    ranges = cell.info.unit == "sample" and not FORMATS[cell.format].one_sample_per_shard and cell.format not in cell.info.own_formats
    wanted = dataset.record_bytes if ranges else dataset.stored_bytes
    slack = 0 if one.requests is not None and cell.loader != "parquet" else wanted // 2  # footers, ends of tar files, and what else is read
    if cell.kind == "s3":
        slack += 1024  # a range through pyarrow.fs is checked by its tail, a few bytes of which are read again now and then
    if cell.loader == "huggingface-datasets":
        slack += 2**18  # its own source, of which it takes a hash, and each footer three times
    if cell.format in cell.info.own_formats:
        slack += (
            2**15 * dataset.num_samples
        )  # the buffer of ArrayRecord's reader, filled for each record; the index at the end of a short file is all of it
    if cell.loader == "direct":
        slack += dataset.stored_bytes - wanted  # headers and the like between neighbours are read along
        if ranges and cell.kind == "posix":
            slack += 2 * 512 * dataset.num_samples  # O_DIRECT reads whole blocks
    assert wanted - (wanted // 10 if cell.loader == "parquet" else 0) <= one.storage_bytes <= wanted + slack
    if one.local_cache_bytes is None:
        assert one.storage_bytes < two.storage_bytes <= 2 * (wanted + slack)
    else:  # a second epoch is served from the library's own cache
        assert two.storage_bytes == one.storage_bytes <= one.local_cache_bytes == two.local_cache_bytes
    assert one.errors == 0 and one.retries == (None if cell.loader == "s3torchconnector" else 0)  # whose own retries nobody sees
    assert one.worker_cpu_s == 0


@pytest.mark.cells(
    "files-npz-posix", "s3-npy-s3", "webdataset-webdataset-posix", "webdataset-webdataset-s3", "direct-raw-posix", "parquet-parquet-posix",
    "tensorflow-tfrecord-posix", "litdata-litdata-posix", "mosaicml-streaming-mds-posix",
    "grain-npz-posix", "grain-arrayrecord-posix", "spdl-npz-posix", "s3torchconnector-npz-s3", "huggingface-datasets-parquet-posix",
)  # fmt: skip
@pytest.mark.parametrize("level", ["none", "full"])
def test_with_workers(cell: Any, job: LoadJob, records: Any, level: str, tools: Any) -> None:
    """Three workers: same contract, their counters have whole epochs, and nothing of them is left."""
    expected = records(cell.format)
    before = tools.traces_of_life()
    job = replace(job, num_workers=3, decode=level)
    run = tools.opened(cell.loader, job)
    assert run.effective()["workers"] == 3
    first, second, again = (tools.epoch(run, number, expected) for number in (0, 1, 0))
    assert sorted(first) == sorted(second) == list(range(job.dataset.num_samples))
    assert first == again != second
    run.start(2)
    batch = run.next()
    assert batch is not None
    run.drain()
    assert not tools.dataset_files_open(job)
    assert len(tools.views(batch)) == job.batch_size  # what came from a worker stays whole
    del batch
    counters = run.counters()
    epochs = 3 if counters.local_cache_bytes is None else 1
    assert counters.storage_bytes is None or counters.storage_bytes >= epochs * 0.9 * job.dataset.record_bytes
    if cell.info.workers == "processes":
        assert counters.worker_cpu_s > 0
    assert tools.epoch(run, 0, expected) == first
    run.start(1)
    run.next()
    run.close()
    left = tools.left_over(before)
    assert set(left) <= {"pipe:"} and left["pipe:"] <= 2  # the fork server's, when this test is the first to start it


@pytest.mark.cells("direct-npz-s3", "direct-webdataset-s3")
@pytest.mark.parametrize("workers", [0, 2])
def test_long_objects_on_s3(cell: Any, job: LoadJob, records: Any, workers: int, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read on an event loop: same contract, each object asked for once."""
    monkeypatch.setattr(queues, "LONG_BYTES", 1)
    run = tools.opened(cell.loader, replace(job, num_workers=workers, io_depth=3))
    assert run.effective()["reads"] == "obstore, 3 requests in flight a worker"
    first, second = (tools.epoch(run, number, records(cell.format)) for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(job.dataset.num_samples))
    counters = run.counters()
    if cell.format == "npz":
        assert (counters.storage_bytes, counters.requests) == (2 * job.dataset.stored_bytes, 2 * job.dataset.num_samples)
    run.start(2)
    run.next()
    run.close()


@pytest.mark.parametrize("keep", [True, False])
def test_webdataset_with_uneven_workers(get_dataset: Any, records: Any, keep: bool, tools: Any) -> None:
    """One worker has far more samples than the others, pieces and batches do not fit each other."""
    spec, dataset = get_dataset("webdataset", "posix")
    job = LoadJob(spec, dataset, 0, 1, 5, keep_remainder=keep, num_workers=4, prefetch_batches=3, shuffle_buffer=1)
    run = tools.opened("webdataset", job)
    for number in (0, 1, 2):
        ids = tools.epoch(run, number, records("webdataset"))
        assert len(set(ids)) == len(ids) == (dataset.num_samples if keep else 20)
    assert (run.counters().storage_bytes or 0) >= 3 * 0.8 * dataset.stored_bytes
    run.close()


@pytest.mark.cells("every local")
def test_a_rank_reads_its_own_hosts_shards_only(cell: Any, job: LoadJob, records: Any, tools: Any, tmp_path: Path) -> None:
    """Ranks 0 and 2 on a host with the first shards, rank 1 on one with the rest; on each disk there are no others."""
    last = job.dataset.num_shards
    middle = 14 if last > 5 else 3
    spans = ((0, middle), (middle, last), (0, middle))
    source = open_spec(job.store)
    here = {key for key, _ in side_files(open_format(cell.format), job.dataset)}
    for first, stop in dict.fromkeys(spans):
        target = open_spec(StoreSpec("posix", str(tmp_path / str(first))))
        form = open_format(cell.format)
        own = {job.dataset.names[shard] for shard in range(first, stop)}
        beside = {key for key in here if not isinstance(form, ShardIndexed) or key in {side_key(form, name) for name in own}}
        for name in sorted(own | beside):
            with target.create(name) as sink:
                sink.write(bytes(source.read_all(name, 10**9)))
    source.close()
    seen: list[int] = []
    steps = set()
    for rank, (first, stop) in enumerate(spans):
        mine = replace(job, store=replace(job.store, root=str(tmp_path / str(first))), rank=rank, world_size=3, shard_spans=spans)
        run = tools.opened(cell.loader, mine)
        try:
            plan = run.plan(0)
            steps.add(len(plan.sizes))
            ids = tools.epoch(run, 0, records(cell.format))
            assert {int(job.dataset.index["shard"][sample]) for sample in ids} <= set(range(first, stop))
            seen += ids
        finally:
            run.close()
    assert sorted(seen) == list(range(job.dataset.num_samples))
    assert len(steps) == 1
