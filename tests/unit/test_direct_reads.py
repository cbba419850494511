"""What the loader `direct` reads together, and the queues that it reads through."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storagebench.errors import DatasetError
from storagebench.loaders.delivery import Deliverer
from storagebench.loaders.direct import DirectLoader
from storagebench.loaders.direct_ranges import memory_bytes, ranges_of
from storagebench.loaders.direct_worker import Task
from storagebench.probe.depth import CANDIDATES, REQUESTS, find_depth, find_requests
from storagebench.protocols import Extent, LoadJob
from storagebench.storage import open_store
from storagebench.storage.buffers import ALIGNMENT_BYTES, address_of, aligned, aligned_buffer
from storagebench.storage.posix import takes_odirect
from storagebench.storage.queues import DIRECT_READ_BYTES, FileQueue, ReadQueue, RingQueue, StoreQueue, best_way


def queue_for(folder: Path | str, io: str) -> ReadQueue:
    return best_way(open_store(str(folder), {"io": io}), 1, 4, 1000.0)[1]()


@pytest.mark.parametrize("io", ["direct", "buffered"])
@pytest.mark.parametrize("format_name", ["npz", "webdataset"])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_ranges_hold_every_sample_once_in_memory_of_their_own(io: str, format_name: str, make_dataset: Any, data: st.DataObject) -> None:
    folder, dataset = make_dataset(format=format_name, num_samples=200, samples_per_shard=3)
    queue = queue_for(folder, io)
    deliverer = Deliverer(LoadJob(open_store(folder).spec, dataset, 0, 1, 8))
    ids = np.array(data.draw(st.lists(st.integers(0, dataset.num_samples - 1), min_size=1, max_size=24, unique=True)), np.int64)
    memory = aligned_buffer(memory_bytes(deliverer, ids, queue))
    found = ranges_of(deliverer, ids, memory, queue)
    queue.close()
    assert sorted(member.position for some in found for member in some.members) == list(range(len(ids)))
    taken: list[tuple[int, int]] = []
    for some in found:
        assert some.memory is not None and some.offset % queue.alignment_bytes == 0
        assert len(some.memory) == aligned(some.length) and address_of(some.memory) % ALIGNMENT_BYTES == 0
        taken.append((address_of(some.memory), address_of(some.memory) + len(some.memory)))
        for position, start, length in some.members:
            extent = dataset.extent(int(ids[position]), deliverer.whole_shard)
            assert (some.key, some.offset + start, length) == (extent.key, extent.offset, extent.length)
            assert start + length <= some.length
    assert all(end <= begin for (_, end), (begin, _) in zip(sorted(taken), sorted(taken)[1:], strict=False))


def test_neighbours_are_read_together_and_strangers_are_not(make_dataset: Any) -> None:
    folder, dataset = make_dataset(format="webdataset", num_samples=640, samples_per_shard=10, record_length_bytes=20_000)
    queue = queue_for(folder, "buffered")
    deliverer = Deliverer(LoadJob(open_store(folder).spec, dataset, 0, 1, 8))
    ids = np.array([5, 3, 4, 9, 12], np.int64)
    found = ranges_of(deliverer, ids, aligned_buffer(memory_bytes(deliverer, ids, queue)), queue)
    queue.close()
    assert [[member.position for member in some.members] for some in found] == [[1, 2, 0], [3], [4]]


@pytest.fixture
def file_of(tmp_path: Path) -> Any:
    def make(num_bytes: int) -> bytes:
        data = os.urandom(num_bytes)
        (tmp_path / "file").write_bytes(data)
        return data

    return make


@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_reads_in_flight_come_back_whole(io: str, file_of: Any, tmp_path: Path) -> None:
    data = file_of(5 * ALIGNMENT_BYTES + 100)
    queue = queue_for(tmp_path, io)
    assert isinstance(queue, RingQueue if io == "direct" else FileQueue)
    wanted = {0: (0, 3 * ALIGNMENT_BYTES), 1: (4 * ALIGNMENT_BYTES, ALIGNMENT_BYTES + 100), 2: (ALIGNMENT_BYTES, 10)}
    got: dict[int, bytes] = {}
    todo = list(wanted.items())
    while len(got) < len(wanted):
        for tag, (offset, length) in todo[: queue.depth]:
            queue.put(tag, Extent("file", offset, length), aligned_buffer(aligned(length)), False)
        todo = todo[queue.depth :]
        for tag, found in queue.wait():
            assert isinstance(found, memoryview)
            got[tag] = bytes(found)
    queue.close()
    queue.close()
    assert got == {tag: data[offset : offset + length] for tag, (offset, length) in wanted.items()}


@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_a_file_that_is_gone_or_shorter_is_an_error_of_its_read_only(io: str, file_of: Any, tmp_path: Path) -> None:
    file_of(ALIGNMENT_BYTES)
    queue = queue_for(tmp_path, io)
    results: list[Any] = []
    for tag, extent in enumerate([Extent("absent", 0, 10), Extent("file", 0, 10), Extent("file", 0, 2 * ALIGNMENT_BYTES)]):
        queue.put(tag, extent, aligned_buffer(aligned(extent.length or 0)), False)
        results += queue.wait()
    queue.close()
    found = dict(results)
    assert isinstance(found[0], DatasetError) and "absent" in found[0].message
    assert isinstance(found[1], memoryview) and len(found[1]) == 10
    assert isinstance(found[2], DatasetError) and str(ALIGNMENT_BYTES) in found[2].message


def test_every_read_of_a_call_that_fails_gets_the_error(tmp_path: Path) -> None:
    queue = StoreQueue(open_store("memory://empty"), 2**31)
    for tag in range(3):
        queue.put(tag, Extent("absent", 0, 10), None, False)
    assert [(tag, type(error)) for tag, error in queue.wait()] == [(0, DatasetError), (1, DatasetError), (2, DatasetError)]


def test_a_batch_that_was_given_back_lets_its_memory_go_at_once(make_dataset: Any) -> None:
    """Without Python looking for cycles: what a store brings (20 MB an object) would pile up until it does."""
    folder, dataset = make_dataset(format="npz", num_samples=60)
    run = DirectLoader().open(LoadJob(open_store(folder).spec, dataset, 0, 1, 2, num_workers=2, prefetch_batches=2))
    gc.collect()
    gc.disable()
    try:
        run.start(0)
        for _ in range(20):
            assert run.next() is not None
        alive = sum(type(thing) is Task for thing in gc.get_objects())
    finally:
        gc.enable()
        run.close()
    assert alive <= (1 + 2 + 1) * 2  # held, ahead, and what the threads have just ended; two pieces each


def test_odirect_is_found_out(file_of: Any, tmp_path: Path) -> None:
    file_of(100)
    assert takes_odirect(str(tmp_path / "file"))
    assert not takes_odirect(str(tmp_path / "absent"))
    assert not takes_odirect("/proc/self/status")


def test_the_depth_is_probed_where_there_is_enough_to_read(make_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, dataset = make_dataset(format="npz", num_samples=16, record_length_bytes=300_000)
    paths = [os.path.join(folder, name) for name in dataset.names]
    assert find_depth(dataset, paths) is None
    assert find_requests(open_store(folder).spec, dataset) is None
    monkeypatch.setattr("storagebench.probe.depth._SHARE", 1e6)
    assert find_depth(dataset, paths) in CANDIDATES
    served = f"memory://{folder.strip('/').replace('/', '-')}"
    store = open_store(served)
    for path, name in zip(paths, dataset.names, strict=True):
        with store.create(name) as sink:
            sink.write(Path(path).read_bytes())
    assert find_requests(store.spec, dataset) in REQUESTS


def test_huge_buffers_are_aligned_and_as_long_as_asked_for() -> None:
    for size in (0, 1, ALIGNMENT_BYTES + 1, DIRECT_READ_BYTES, 3 * DIRECT_READ_BYTES + 5):
        view = aligned_buffer(size)
        assert len(view) == size and not any(view[:100]) and address_of(view) % ALIGNMENT_BYTES == 0
