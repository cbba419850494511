"""The probe's plan as tables, its arithmetic on made-up rows, its search on a fake device, its reads on a fake store, and fio's job files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from storagebench.errors import DatasetError, StorageError
from storagebench.probe import fio
from storagebench.probe.cells import Measured, Segment, Work, measure, summarise
from storagebench.probe.places import FilesPlace, ObjectsPlace
from storagebench.probe.plan import Cell, Group, Pattern, cells, groups, lanes, requests
from storagebench.probe.search import num_runs, search
from storagebench.protocols import Extent

KIB, MIB = 2**10, 2**20
RANDOM = Group("read", "random", MIB, "direct")


def covered(sizes: Sequence[int], pattern: Pattern, request_bytes: int, seed: int) -> list[tuple[int, int]]:
    """The (file, byte) pairs that one pass reads, in order of file and byte."""
    one = requests(sizes, pattern, request_bytes, seed)
    rows = zip(one.file.tolist(), one.offset.tolist(), one.length.tolist(), strict=True)
    return sorted((file, offset + byte) for file, offset, length in rows for byte in range(length))


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("pattern", ["sequential", "random", "objects"])
@pytest.mark.parametrize("sizes", [[10], [10, 0, 3, 7], [1] * 20, [64, 65, 63]])
def test_a_pass_reads_every_byte_once(sizes: list[int], pattern: Pattern, seed: int) -> None:
    assert covered(sizes, pattern, 4, seed) == [(file, byte) for file, size in enumerate(sizes) for byte in range(size)]


def test_sequential_goes_on_and_wraps_and_random_does_not() -> None:
    one = requests([40], "sequential", 4, 3)
    steps = np.diff(one.offset)
    assert sorted(set(steps.tolist())) in ([4], [-36, 4])
    assert (np.diff(requests([4000], "random", 4, 3).offset) != 4).any()


def test_a_pass_over_much_data_is_a_sample_without_repeats() -> None:
    one = requests([2**40], "random", 4096, 1, limit=1000)
    assert len(set(one.offset.tolist())) == len(one.offset) == 1000
    assert one.offset.max() > 2**39  # all over the file
    assert len(requests([], "random", 4096, 1).file) == len(requests([0, 0], "objects", 4096, 1).file) == 0


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_lanes_are_the_pass(threads: int) -> None:
    one = requests([100, 33], "sequential", 4, 5)
    parts = lanes(one, "sequential", threads)
    assert len(parts) == threads
    assert np.concatenate([part.offset for part in parts]).tolist() == one.offset.tolist()
    assert lanes(one, "random", threads)[0] is one


def test_groups() -> None:
    assert groups([MIB, 4096], ["direct"], []) == [
        Group("read", "sequential", 4096, "direct"),
        Group("read", "random", 4096, "direct"),
        Group("read", "sequential", MIB, "direct"),
        Group("read", "random", MIB, "direct"),
    ]
    small = groups([MIB, 8192], ["cold"], ["buffered"], objects_bytes=5000, largest_bytes=5100)
    assert [group[:3] for group in small if group.direction == "read"] == [
        ("read", "objects", 5000),
        ("read", "sequential", 8192),
        ("read", "random", 8192),
    ]
    assert [group.request_bytes for group in small if group.direction == "write"] == [8192, 8192, MIB, MIB]
    assert [group.pattern for group in groups([MIB], ["client"], ["client"]) if group.direction == "write"] == ["objects"]


def test_cells_keep_to_their_memory() -> None:
    assert {(cell.threads, cell.depth) for cell in cells(RANDOM)} == {(1, 1), (4, 1), (16, 1), (1, 8), (1, 32), (4, 32)}
    assert all(cell.depth == 1 for cell in cells(RANDOM, has_aio=False))
    assert all(cell.depth == 1 for cell in cells(RANDOM._replace(mode="cold")))
    huge = cells(RANDOM._replace(pattern="objects"), buffer_bytes=300 * MIB)
    assert [(cell.threads, cell.depth) for cell in huge] == [(1, 1)]
    assert [cell.threads for cell in cells(RANDOM._replace(request_bytes=2**31))] == [1]
    assert (6, 1) in {(cell.threads, cell.depth) for cell in cells(RANDOM, also_threads=6)}


def segment(rows: list[tuple[int, int, int]], end_ns: int, begin_ns: int = 0) -> Segment:
    return Segment(begin_ns, end_ns, np.array(rows, np.int64).reshape(-1, 3), 0.1)


def test_rates_leave_the_ramp_out_and_share_what_reaches_over_an_end() -> None:
    second = 10**9
    rows = [(index * second, (index + 1) * second, 100) for index in range(4)]
    row = summarise(Cell(RANDOM, 1, 1), [segment(rows, end_ns=3 * second + second // 2)], 0.5, whole=False)
    assert (row.seconds, row.bytes_per_s, row.requests_per_s) == pytest.approx((3.0, 100.0, 1.0))
    assert (row.latency_p50_s, row.latency_p99_s, row.num_bytes) == (1.0, 1.0, 400)
    assert row.cpu_s_per_gb == pytest.approx(0.1 / 400e-9)
    late = [segment(rows[:1], second), segment([(5 * second, 7 * second, 300)], 7 * second, 5 * second)]
    assert summarise(Cell(RANDOM, 1, 1), late, 1.0, whole=False).bytes_per_s == pytest.approx(150.0)  # the first is all ramp
    whole = summarise(Cell(RANDOM, 1, 1), [segment([*rows, (4 * second, 5 * second, 0)], 5 * second)], 0.0, whole=True)
    assert whole.bytes_per_s == pytest.approx(80.0)  # the sync at the end is in the time and carries no bytes
    with pytest.raises(StorageError, match="no request of 1048576 bytes"):
        summarise(Cell(RANDOM, 1, 1), [segment([], second)], 0.0, whole=False)


def fake_row(cell: Cell, rate: float) -> Measured:
    return Measured(cell, rate, rate / cell.group.request_bytes, 0.0, 0.0, None, 1.0, 1, 1)


def test_the_ceiling_is_the_best_median_and_no_lucky_draw() -> None:
    table = {RANDOM: cells(RANDOM)}
    lucky, steady = table[RANDOM][0], table[RANDOM][3]
    draws = {lucky: iter([900.0, 300.0, 310.0]), steady: iter([500.0, 510.0, 490.0])}
    rows, ceilings = search(table, lambda cell: fake_row(cell, next(draws[cell]) if cell in draws else 100.0))
    assert len(rows) == num_runs(table) == 6 + 2 * 2
    assert ceilings[0].cell == steady
    assert (ceilings[0].bytes_per_s, ceilings[0].rates) == (500.0, (500.0, 510.0, 490.0))


class FakeStore:
    """Objects in memory; fails at a key, and notes how many reads were in flight."""

    def __init__(self, sizes: dict[str, int], broken: str = "") -> None:
        self.sizes = sizes
        self.broken = broken
        self.read_bytes: dict[str, int] = dict.fromkeys(sizes, 0)
        self._lock = threading.Lock()

    def read(self, extents: Sequence[Extent]) -> list[memoryview]:
        key, offset, length = extents[0]
        assert length is not None
        assert 0 <= offset < offset + length <= self.sizes[key]
        if key == self.broken:
            raise StorageError(f"{key} is gone", "find it")
        with self._lock:
            self.read_bytes[key] += length
        return [memoryview(bytes(length))]


def objects_place(store: FakeStore) -> ObjectsPlace:
    typed: Any = store
    return ObjectsPlace(typed, list(store.sizes), list(store.sizes.values()))


@pytest.mark.parametrize("pattern", ["sequential", "random", "objects"])
@pytest.mark.parametrize("threads", [1, 5])
def test_one_pass_over_a_store_reads_it_once(pattern: Pattern, threads: int) -> None:
    store = FakeStore({"a": 9000, "b": 4096, "c": 1})
    cell = Cell(Group("read", pattern, 4096, "client"), threads, 1)
    row = measure(cell, objects_place(store).work(cell), None, seed=3)
    assert store.read_bytes == store.sizes
    assert row.num_bytes == 13097
    assert row.bytes_per_s == pytest.approx(13097 / row.seconds)


def test_a_time_box_goes_round_and_round() -> None:
    store = FakeStore({"a": 4096})
    cell = Cell(Group("read", "random", 4096, "client"), 2, 1)
    row = measure(cell, objects_place(store).work(cell), 0.1, seed=3)
    assert store.read_bytes["a"] > 10 * 4096
    assert row.seconds == pytest.approx(0.1, rel=0.01)


def test_an_error_ends_all_threads_and_is_the_stores_own() -> None:
    cell = Cell(Group("read", "objects", 4096, "client"), 8, 1)
    before = threading.active_count()
    with pytest.raises(StorageError, match="b is gone"):
        measure(cell, objects_place(FakeStore({"a": 4096, "b": 10}, broken="b")).work(cell), 30.0, seed=1)
    assert threading.active_count() == before


@pytest.mark.parametrize("depth", [1, 4])
def test_a_file_that_shrinks_is_told(depth: int, tmp_path: Any) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(100_000))
    place = FilesPlace([str(path)], [200_000])
    group = Group("read", "sequential", 65536, "direct" if depth > 1 else "cold")
    with pytest.raises(DatasetError, match="of 65536 bytes at"):
        measure(Cell(group, 1, depth), place.work(Cell(group, 1, depth)), None, seed=1)


def test_drops_come_before_each_pass_and_outside_of_the_time() -> None:
    store = FakeStore({"a": 4096})
    cell = Cell(Group("read", "objects", 4096, "client"), 1, 1)
    drops: list[int] = []
    work = objects_place(store).work(cell)
    row = measure(cell, Work(work.make_worker, work.one_pass, lambda: drops.append(store.read_bytes["a"])), 0.01, seed=1)
    assert len(drops) == row.passes > 1
    assert set(np.diff(drops).tolist()) <= {0, 4096}  # 0: the time was up before the pass began
    assert drops[-1] >= row.num_bytes - 4096


@pytest.mark.parametrize("jobs", [1, 2, 3, 16])
@pytest.mark.parametrize("sizes", [[64 * KIB], [64 * KIB, 128 * KIB, 12 * KIB + 5], [8 * KIB] * 20])
def test_fio_reads_each_request_of_the_files_once(sizes: list[int], jobs: int) -> None:
    paths = [f"/d/{index}" for index in range(len(sizes))]
    parts = fio.stretches(paths, sizes, jobs, 4 * KIB)
    assert sum(part.num_bytes for part in parts) == sum(size - size % (4 * KIB) for size in sizes)
    spans = sorted((part.paths[0], part.offset, part.offset + part.num_bytes) for part in parts if len(part.paths) == 1)
    for (path, _, end), (other, begin, _) in pairwise(spans):
        assert path != other or end <= begin
    assert len(parts) <= jobs or len(paths) < jobs


def test_fio_job_file_and_output() -> None:
    text = fio.job_file(RANDOM, fio.Setting("libaio", 1, 8), [fio.Stretch(("/a:b",), 4096, MIB)], 2.0)
    lines = text.splitlines()
    assert {"direct=1", "rw=randread", "bs=1048576", "iodepth=8", "filename=/a\\:b", "offset=4096", "size=1048576", "runtime=2000ms"} <= set(lines)
    assert "time_based=1" not in fio.job_file(RANDOM, fio.Setting("psync", 1, 1), [], None)
    assert fio.rate_of('fio: warning\n{"jobs": [{"read": {"bw_bytes": 12, "io_bytes": 34}}]}') == (12.0, 34)
    with pytest.raises(StorageError, match="no result"):
        fio.rate_of("fio: something else")
    assert fio.usable(["a", "b", "c"], [10, 30, 20], 20) == (["b", "c"], [30, 20])
