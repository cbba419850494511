"""Shared memory that workers use again: never before the rank is done with it, and no more of it than there are pieces in flight."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storagebench.build import generate
from storagebench.datasets.synthetic import SyntheticSource
from storagebench.loaders.packed import Slabs
from storagebench.protocols import LoadJob
from storagebench.registry import open_loader
from storagebench.storage import open_spec, parse_url
from storagebench.workload import DatasetSpec, Workload

SIZE = 100_000


def test_a_slab_is_taken_again_only_when_its_piece_was_released() -> None:
    slabs = Slabs(0)
    first, second = slabs.take(0, SIZE), slabs.take(0, SIZE)
    assert first.slot != second.slot
    slabs.release(0, first.serial)
    again = slabs.take(0, SIZE)
    assert again.slot == first.slot and again.serial > second.serial
    assert slabs.take(0, SIZE).slot == 2, "the second one and the one that was taken again are still in use"


def test_memory_crosses_once_and_again_when_it_grew() -> None:
    slabs = Slabs(0)
    sent = slabs.pack(0, [memoryview(b"a" * 10), memoryview(b""), memoryview(b"bc")])
    assert sent.memory is not None
    assert [bytes(value.numpy()) for value in slabs.receive(0, sent)] == [b"a" * 10, b"", b"bc"]
    slabs.release(0, sent.serial)
    smaller = slabs.pack(0, [memoryview(b"xyz")])
    assert smaller.memory is None and smaller.slot == sent.slot
    assert [bytes(value.numpy()) for value in slabs.receive(0, smaller)] == [b"xyz"]
    slabs.release(0, smaller.serial)
    pixels = np.arange(SIZE * 3, dtype=np.uint8).reshape(SIZE, 3)
    larger = slabs.pack(0, [pixels])
    assert larger.memory is not None and larger.slot == sent.slot
    (found,) = slabs.receive(0, larger)
    assert np.array_equal(found.numpy(), pixels)


def test_the_smallest_slab_that_fits_is_taken() -> None:
    slabs = Slabs(0)
    large, small = slabs.take(0, 10 * SIZE), slabs.take(0, SIZE)
    slabs.release(0, small.serial)
    assert slabs.take(0, SIZE).slot == small.slot
    assert slabs.take(0, SIZE).slot == large.slot


def test_records_of_foreign_memory_are_not_sent_as_if_they_lay_in_the_slab() -> None:
    slab = Slabs(0).take(0, SIZE)
    with pytest.raises(ValueError, match="does not lie"):
        slab.send_in_place([slab.memory[:10], memoryview(bytes(10))])


@pytest.mark.parametrize(("loader", "form"), [("files", "npy"), ("webdataset", "webdataset")])
def test_a_batch_keeps_its_bytes_while_the_workers_run_ahead(loader: str, form: str, tmp_path: Path) -> None:
    """And the second epoch needs no more slabs than may be in flight."""
    spec = DatasetSpec(format=form, num_samples=60, samples_per_shard=15, record_length_bytes=4000, record_length_bytes_stdev=500)
    store = open_spec(parse_url(str(tmp_path), {}))
    dataset = generate(Workload(name="slabs", dataset=spec), store)
    expected = [bytes(record.payload) for record in SyntheticSource(spec).records(0, 60)]
    run: Any = open_loader(loader).open(LoadJob(store.spec, dataset, 0, 1, 4, num_workers=2, prefetch_batches=3, shuffle_buffer=5))
    try:
        for epoch in (0, 1):
            run.start(epoch)
            while (batch := run.next()) is not None:
                time.sleep(0.01)  # the workers fill all that they may
                assert [np.asarray(value).tobytes() for part in batch.data for value in part] == [expected[sample] for sample in batch.sample_ids]
            run.drain()
        pieces = -(-4 // run.effective().get("samples_per_piece", 2))
        assert 0 < len(run._stream._slabs._received) <= (3 + 2) * (pieces + 1)
    finally:
        run.close()
