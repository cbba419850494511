"""Loaders that are stopped in the middle, closed, or given a damaged dataset: nothing is left behind, and an error names what is wrong."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from storagebench.errors import DatasetError, RankError
from storagebench.protocols import LoadJob


@pytest.mark.cells("every")
def test_drain_in_mid_epoch(cell: Any, job: LoadJob, records: Any, tools: Any) -> None:
    expected = records(cell.format)
    run = tools.opened(cell.loader, job)
    full = tools.epoch(run, 0, expected)
    for taken in (0, 2):
        run.start(1)
        for _ in range(taken):
            assert run.next() is not None
        run.drain()
        run.drain()
        assert run.next() is None
        assert not tools.dataset_files_open(job)
        assert tools.epoch(run, 0, expected) == full
    run.close()


@pytest.mark.cells("every")
def test_close_leaves_nothing(cell: Any, job: LoadJob, records: Any, tools: Any) -> None:
    def cycle() -> None:
        run = tools.opened(cell.loader, job)
        tools.epoch(run, 0, records(cell.format))
        run.start(1)
        run.next()
        run.close()
        run.close()

    cycle()  # clients keep a runtime for the life of the process
    if cell.kind == "s3":  # idle connections of the first cycle go with their client, and that with the garbage
        gc.collect()
        time.sleep(0.1)
    before = tools.traces_of_life()
    cycle()
    assert not tools.left_over(before)


@pytest.mark.cells("every")
def test_a_dataset_that_is_gone_is_named(cell: Any, job: LoadJob, tools: Any) -> None:
    gone = replace(job, store=replace(job.store, root=f"{job.store.root}-gone"))
    with pytest.raises(DatasetError, match=r"shards/.* is missing") as caught:
        tools.run_all(cell.loader, gone)
    tools.check_sentence(caught.value)


@pytest.mark.cells("every local")
@pytest.mark.parametrize("what", ["missing", "truncated", "shortened by a third"])
def test_a_missing_or_short_shard_is_named(cell: Any, job: LoadJob, tmp_path: Path, what: str, tools: Any) -> None:
    changes: dict[str, Callable[[bytes], bytes | None]] = {
        "missing": lambda data: None,
        "truncated": lambda data: data[:-3000],
        "shortened by a third": lambda data: data[: len(data) * 2 // 3],
    }
    damaged, name = tools.rewritten(job, tmp_path, changes[what])
    before = tools.traces_of_life()
    with pytest.raises(DatasetError) as caught:
        tools.run_all(cell.loader, damaged)
    assert name in caught.value.message
    tools.check_sentence(caught.value)
    assert not tools.left_over(before)


@pytest.mark.cells("every local")
def test_a_flipped_bit_shows_in_the_checksum(cell: Any, job: LoadJob, records: Any, tmp_path: Path, tools: Any) -> None:
    """At every level that reads the bytes; containers whose structure is hit raise instead."""
    shard = int(np.argmax(job.dataset.shard_bytes))
    sample = int(job.dataset.first_sample[shard])
    record = records(cell.format)[sample]

    def flip(data: bytes) -> bytes:
        place = len(data) // 2 if cell.format == "tfrecord_zlib" else data.index(record[1000:1100]) + 50
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    damaged, name = tools.rewritten(job, tmp_path, flip)
    if cell.loader in ("tfrecord", "tensorflow") or cell.format == "arrayrecord":  # whose frames and chunks have checksums of their own
        with pytest.raises(DatasetError) as caught:
            tools.run_all(cell.loader, damaged)
        assert name in caught.value.message
        return
    batches = tools.run_all(cell.loader, replace(damaged, decode="touch"))
    index = job.dataset.index["crc32c"]
    wrong = [int(bad) for batch in batches if batch.checksums is not None for bad in batch.sample_ids[batch.checksums != index[batch.sample_ids]]]
    assert wrong == [sample]


@pytest.mark.parametrize("loader", ["parquet", "webdataset"])
def test_a_damaged_container_is_named(loader: str, get_dataset: Any, tmp_path: Path, tools: Any) -> None:
    """A header of a tar member that no longer fits its checksum ends the archive for the tar module; we notice. For Parquet a page header."""
    spec, dataset = get_dataset(loader, "posix")
    place = {"parquet": 4, "webdataset": 512 * 11}[loader]
    job, name = tools.rewritten(
        LoadJob(spec, dataset, 0, 1, 3, keep_remainder=True), tmp_path, lambda data: data[:place] + b"\xff" * 40 + data[place + 40 :]
    )
    with pytest.raises(DatasetError) as caught:
        tools.run_all(loader, job)
    assert name in caught.value.message
    tools.check_sentence(caught.value)


def test_a_worker_that_dies_is_an_error_and_not_a_hang(get_dataset: Any, tools: Any) -> None:
    spec, dataset = get_dataset("webdataset", "posix")
    run = tools.opened("webdataset", LoadJob(spec, dataset, 0, 1, 1, keep_remainder=True, num_workers=2))
    run.start(0)
    assert run.next() is not None
    me = os.getpid()
    workers = [child for child in psutil.Process().children(recursive=True) if child.ppid() != me]
    assert len(workers) == 2
    for worker in workers:
        worker.kill()
    with pytest.raises(RankError, match="died"):
        while run.next() is not None:
            pass
    run.close()
