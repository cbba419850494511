"""One contract suite over every loader x format x store that the registry says works together; `null` reads nothing and is left out.

Datasets have 23 samples of uneven length, and shards and row groups of uneven size. What a loader delivers is compared with the payload generator,
which no format and no store has touched.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from storagebench import buildparts
from storagebench.build import generate
from storagebench.datasets.synthetic import SyntheticSource
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset
from storagebench.protocols import DECODE_LEVELS, Batch, LoaderRun, LoadJob, StoreSpec
from storagebench.registry import LOADERS, STORES, LoaderInfo, formats, loader_info, misfit, open_loader
from storagebench.storage import open_spec, parse_url
from storagebench.workload import DatasetSpec, Workload

NUM_SAMPLES = 23
SHARD_SIZES = (5, 4, 1, 7, 6)
HANDOVER_BYTES = 3 * 24 * 24
BATCH = 3


@dataclass(frozen=True)
class Cell:
    """One combination that is claimed to work."""

    loader: str
    format: str
    kind: str

    def __str__(self) -> str:
        return f"{self.loader}-{self.format}-{self.kind}"

    @property
    def info(self) -> LoaderInfo:
        return loader_info(self.loader)


CELLS = [Cell(name, form, kind) for name, info in LOADERS.items() if name != "null" for form in info.formats for kind in info.stores]


def cases(cells: list[Cell]) -> list[Any]:
    return [pytest.param(cell, id=str(cell), marks=[pytest.mark.s3] if cell.kind == "s3" else []) for cell in cells]


every_cell = pytest.mark.parametrize("cell", cases(CELLS))
# The parts of the contract that no store can change.
every_loader_and_format = pytest.mark.parametrize("cell", cases([cell for cell in CELLS if cell.kind == ("s3" if cell.loader == "s3" else "posix")]))

Get = Callable[[str, str], tuple[StoreSpec, Dataset]]


def dataset_spec(format_name: str) -> DatasetSpec:
    payload = "jpeg" if format_name == "jpeg" else "bytes"
    return DatasetSpec(
        format=format_name,
        payload=payload,
        num_samples=NUM_SAMPLES,
        record_length_bytes=4000,
        record_length_bytes_stdev=500,
        row_group_bytes=8000,
        record_length_bytes_resize=HANDOVER_BYTES,
    )


@pytest.fixture(scope="session")
def records() -> Callable[[str], list[bytes]]:
    """The records of a format's dataset as the generator has them."""
    known: dict[str, list[bytes]] = {}

    def get(format_name: str) -> list[bytes]:
        spec = dataset_spec(format_name)
        if spec.payload not in known:
            known[spec.payload] = [bytes(record.payload) for record in SyntheticSource(spec).records(0, NUM_SAMPLES)]
        return known[spec.payload]

    return get


@pytest.fixture(scope="session")
def get_dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    """`get_dataset(format, kind)`: generated once a session."""
    folder = tmp_path_factory.mktemp("loaders")
    made: dict[tuple[str, str], tuple[StoreSpec, Dataset]] = {}
    patch = pytest.MonkeyPatch()

    def get(format_name: str, kind: str) -> tuple[StoreSpec, Dataset]:
        if (format_name, kind) not in made:
            if kind == "s3" and not any(key[1] == "s3" for key in made):
                for name, value in request.getfixturevalue("s3_server").environment().items():
                    patch.setenv(name, value)
            made[format_name, kind] = build(format_name, place(request, folder, format_name, kind))
        return made[format_name, kind]

    yield get
    patch.undo()


def place(request: pytest.FixtureRequest, folder: Path, format_name: str, kind: str) -> StoreSpec:
    if kind == "s3":
        return StoreSpec("s3", f"s3://bench/loaders/{format_name}", {"endpoint_url": request.getfixturevalue("s3_server").endpoint_url})
    if kind == "shaped":
        return parse_url(f"shaped+{folder / 'shaped' / format_name}", {"bandwidth": "10GB"})
    url = {"posix": str(folder / format_name), "memory": f"memory://loaders/{format_name}", "fsspec": f"memory://fsspec-loaders/{format_name}"}[kind]
    return StoreSpec(kind, url)


def build(format_name: str, spec: StoreSpec) -> tuple[StoreSpec, Dataset]:
    store = open_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        if not formats()[format_name].one_sample_per_shard:
            patch.setattr(buildparts, "shard_sizes", lambda *_: np.array(SHARD_SIZES, np.int64))
        dataset = generate(Workload(name="contract", dataset=dataset_spec(format_name)), store)
    found = store.spec
    store.close()
    return found, dataset


@pytest.fixture
def job(cell: Cell, get_dataset: Get) -> LoadJob:
    """Rank 0 of 1, without worker processes (loaders with threads get 2), every sample once."""
    spec, dataset = get_dataset(cell.format, cell.kind)
    if cell.kind == "s3":
        spec = replace(spec, options={**spec.options, "client": cell.info.s3_client})
    workers = 2 if cell.info.workers == "threads" else 0
    return LoadJob(spec, dataset, 0, 1, BATCH, keep_remainder=True, num_workers=workers, shuffle_buffer=6, handover_bytes_per_sample=HANDOVER_BYTES)


def opened(cell: Cell, job: LoadJob) -> LoaderRun:
    return open_loader(cell.loader).open(job)


def views(batch: Batch) -> list[Any]:
    """One object a sample, as arrays."""
    return [np.asarray(value) for part in batch.data for value in part]


def check_batch(batch: Batch, expected: list[bytes], level: str) -> None:
    """Every byte, length and count of a batch."""
    sizes = [len(expected[sample]) for sample in batch.sample_ids]
    assert batch.record_bytes == sum(sizes)
    found = views(batch)
    assert len(found) == batch.num_samples
    if level != "full":
        assert batch.handover_bytes == batch.record_bytes
        assert [value.tobytes() for value in found] == [expected[sample] for sample in batch.sample_ids]
    else:
        assert batch.handover_bytes == sum(value.nbytes for value in found)
    assert set(batch.spans_s) >= {"fetch"}
    assert all(seconds >= 0 for seconds in batch.spans_s.values())
    assert batch.ready_ns is None or batch.ready_ns <= time.monotonic_ns()


def epoch(run: LoaderRun, number: int, expected: list[bytes]) -> list[int]:
    """Start, take all, drain; the sample ids in order. The sizes are those of the plan, and then comes None."""
    plan = run.plan(number)
    run.start(number)
    ids: list[int] = []
    for size in plan.sizes:
        if size:
            batch = run.next()
            assert batch is not None
            assert batch.num_samples == size
            check_batch(batch, expected, run.effective()["decode"])
            ids += batch.sample_ids.tolist()
    assert run.next() is None
    assert run.next() is None
    run.drain()
    return ids


@every_cell
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_sample_comes_exactly_once_with_its_exact_bytes(cell: Cell, job: LoadJob, records: Any, world_size: int) -> None:
    seen: list[int] = []
    steps = set()
    for rank in range(world_size):
        run = opened(cell, replace(job, rank=rank, world_size=world_size))
        try:
            plan = run.plan(0)
            steps.add(len(plan.sizes))
            ids = epoch(run, 0, records(cell.format))
            assert sorted(ids) == sorted(plan.planned.tolist())
            seen += ids
        finally:
            run.close()
    assert sorted(seen) == list(range(NUM_SAMPLES))
    assert len(steps) == 1


@every_cell
def test_orders(cell: Cell, job: LoadJob, records: Any) -> None:
    """Another order each epoch, the same for the same seed in a fresh loader, another for another seed, the stored one without shuffle."""
    expected = records(cell.format)
    run = opened(cell, job)
    first, second, again = (epoch(run, number, expected) for number in (0, 1, 0))
    run.close()
    assert first == again != second
    assert first != sorted(first)
    fresh, other = opened(cell, job), opened(cell, replace(job, seed=2))
    assert epoch(fresh, 1, expected) == second
    assert epoch(other, 0, expected) != first
    fresh.close()
    other.close()
    stored = opened(cell, replace(job, shuffle=False))
    assert epoch(stored, 3, expected) == list(range(NUM_SAMPLES))
    stored.close()


@every_cell
def test_drop_leaves_out_what_is_planned(cell: Cell, job: LoadJob, records: Any) -> None:
    seen: list[int] = []
    dropped = set()
    for rank in range(2):
        run = opened(cell, replace(job, rank=rank, world_size=2, keep_remainder=False))
        for number in (0, 1):
            ids = epoch(run, number, records(cell.format))
            assert set(run.plan(number).sizes) == {BATCH}
            assert set(ids) <= set(run.plan(number).planned.tolist())
            seen += ids if number == 0 else []
        dropped.add(run.plan(0).dropped_samples)
        run.close()
    assert len(set(seen)) == len(seen)
    assert dropped == {NUM_SAMPLES - len(seen)}


@every_cell
def test_drain_in_mid_epoch(cell: Cell, job: LoadJob, records: Any) -> None:
    expected = records(cell.format)
    run = opened(cell, job)
    full = epoch(run, 0, expected)
    for taken in (0, 2):
        run.start(1)
        for _ in range(taken):
            assert run.next() is not None
        run.drain()
        run.drain()
        assert run.next() is None
        assert not dataset_files_open(job)
        assert epoch(run, 0, expected) == full
    run.close()


def dataset_files_open(job: LoadJob) -> list[str]:
    """Files of the dataset that this process or a worker has open or mapped."""
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        found += [file.path for file in process.open_files() if file.path.startswith(job.store.root)]
        found += [mapped.path for mapped in process.memory_maps() if mapped.path.startswith(job.store.root)]
    return found


@every_loader_and_format
@pytest.mark.parametrize("level", DECODE_LEVELS)
def test_decode_levels_and_checksums(cell: Cell, job: LoadJob, records: Any, level: str) -> None:
    run = opened(cell, replace(job, decode=level))
    effective = run.effective()["decode"]
    assert effective == DECODE_LEVELS[max(DECODE_LEVELS.index(level), DECODE_LEVELS.index(cell.info.least_decode))]
    epoch(run, 0, records(cell.format))
    run.start(1)
    batch = run.next()
    assert batch is not None
    if effective == "none":
        assert batch.checksums is None or not batch.checked.any()  # type: ignore[union-attr]
    else:
        assert batch.checksums is not None and batch.checked is not None and batch.checked.all()
        assert batch.checksums.tolist() == job.dataset.index["crc32c"][batch.sample_ids].tolist()
    if effective == "full":
        shape = (24, 24, 3) if cell.format == "jpeg" else (HANDOVER_BYTES,)
        assert [value.shape for value in views(batch)] == [shape] * batch.num_samples
    del batch
    run.close()


@every_loader_and_format
def test_verify_reads_the_asked_share(cell: Cell, job: LoadJob) -> None:
    counts = {}
    for verify in ("off", "sample", "full"):
        run = opened(cell, replace(job, verify=verify, batch_size=NUM_SAMPLES))
        run.start(0)
        batch = run.next()
        assert batch is not None
        counts[verify] = 0 if batch.checked is None else int(batch.checked.sum())
        assert batch.checksums is None or (batch.checksums == job.dataset.index["crc32c"][batch.sample_ids])[batch.checked].all()
        del batch
        run.close()
    assert counts["full"] == NUM_SAMPLES
    if cell.info.least_decode == "none":
        assert counts["off"] == 0
        assert counts["sample"] < NUM_SAMPLES


@every_cell
def test_counters(cell: Cell, job: LoadJob, records: Any) -> None:
    """Exactly the stored bytes where our store counts, about them where the kernel does, monotone over epochs."""
    run = opened(cell, job)
    assert not run.counters().storage_bytes
    epoch(run, 0, records(cell.format))
    one = run.counters()
    epoch(run, 1, records(cell.format))
    two = run.counters()
    run.close()
    if one.storage_bytes is None or two.storage_bytes is None:
        assert (cell.loader, cell.kind) == ("parquet", "s3")
        return
    dataset = job.dataset
    wanted = dataset.record_bytes if cell.loader == "direct" and cell.format == "webdataset" else dataset.stored_bytes
    slack = 0 if one.requests is not None and cell.loader != "parquet" else wanted // 2  # footers, ends of tar files, and what else is read
    if cell.kind == "s3":
        slack += 1024  # a range through pyarrow.fs is checked by its tail, a few bytes of which are read again now and then
    assert wanted - (wanted // 10 if cell.loader == "parquet" else 0) <= one.storage_bytes <= wanted + slack
    assert one.storage_bytes < two.storage_bytes <= 2 * (wanted + slack)
    assert one.errors == one.retries == 0
    assert one.worker_cpu_s == 0


def traces_of_life() -> Counter[str]:
    """Descriptors, threads and child processes that there are now, but for the fork server, the resource tracker and the S3 server."""
    found: Counter[str] = Counter(f"thread {thread.name.split('_')[0]}" for thread in threading.enumerate())
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(entry)
            if not target.startswith("/proc/"):
                found[target.split("[")[0]] += 1  # pipes and sockets by kind, as their numbers differ
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            line = " ".join(child.cmdline())
            # Workers have the fork server's command line: they are its children, while it is ours.
            if child.ppid() != os.getpid() or not any(word in line for word in ("forkserver", "resource_tracker", "rclone")):
                found[f"process {line}"] += 1
    return found


def left_over(before: Counter[str]) -> Counter[str]:
    """What there is in the end and was not before; a queue's own thread, or a connection, needs a moment to see that it was closed."""
    end = time.monotonic() + 3
    while (left := traces_of_life() - before) and time.monotonic() < end:
        time.sleep(0.02)
        gc.collect()  # the idle connections of a client go with the client
    return left


@every_cell
def test_close_leaves_nothing(cell: Cell, job: LoadJob, records: Any) -> None:
    def cycle() -> None:
        run = opened(cell, job)
        epoch(run, 0, records(cell.format))
        run.start(1)
        run.next()
        run.close()
        run.close()

    cycle()  # clients keep a runtime for the life of the process
    if cell.kind == "s3":  # idle connections of the first cycle go with their client, and that with the garbage
        gc.collect()
        time.sleep(0.1)
    before = traces_of_life()
    cycle()
    assert not left_over(before)


WORKED = [
    Cell("files", "npz", "posix"),
    Cell("s3", "npy", "s3"),
    Cell("webdataset", "webdataset", "posix"),
    Cell("webdataset", "webdataset", "s3"),
    Cell("direct", "raw", "posix"),
    Cell("parquet", "parquet", "posix"),
]


@pytest.mark.parametrize("cell", cases(WORKED))
@pytest.mark.parametrize("level", ["none", "full"])
def test_with_workers(cell: Cell, job: LoadJob, records: Any, level: str) -> None:
    """Three workers: same contract, their counters have whole epochs, and nothing of them is left."""
    expected = records(cell.format)
    before = traces_of_life()
    job = replace(job, num_workers=3, decode=level)
    run = opened(cell, job)
    assert run.effective()["workers"] == 3
    first, second, again = (epoch(run, number, expected) for number in (0, 1, 0))
    assert sorted(first) == sorted(second) == list(range(NUM_SAMPLES))
    assert first == again != second
    run.start(2)
    batch = run.next()
    assert batch is not None
    run.drain()
    assert not dataset_files_open(job)
    assert len(views(batch)) == BATCH  # what came from a worker stays whole
    del batch
    counters = run.counters()
    assert counters.storage_bytes is None or counters.storage_bytes >= 3 * 0.9 * job.dataset.record_bytes
    if cell.info.workers == "processes":
        assert counters.worker_cpu_s > 0
    assert epoch(run, 0, expected) == first
    run.start(1)
    run.next()
    run.close()
    left = left_over(before)
    assert set(left) <= {"pipe:"} and left["pipe:"] <= 2  # the fork server's, when this test is the first to start it


def test_webdataset_uses_fewer_workers_than_asked_and_says_so(get_dataset: Get, records: Any) -> None:
    spec, dataset = get_dataset("webdataset", "posix")
    cell = Cell("webdataset", "webdataset", "posix")
    run = opened(cell, LoadJob(spec, dataset, 2, 3, 2, keep_remainder=True, num_workers=4))
    assert run.effective()["workers"] == 1
    assert "1 of 4 workers" in run.effective()["notes"][0]
    epoch(run, 0, records("webdataset"))
    run.close()


@pytest.mark.parametrize("keep", [True, False])
def test_webdataset_with_uneven_workers(get_dataset: Get, records: Any, keep: bool) -> None:
    """One worker has far more samples than the others, pieces and batches do not fit each other."""
    spec, dataset = get_dataset("webdataset", "posix")
    job = LoadJob(spec, dataset, 0, 1, 5, keep_remainder=keep, num_workers=4, prefetch_batches=3, shuffle_buffer=1)
    run = opened(Cell("webdataset", "webdataset", "posix"), job)
    for number in (0, 1, 2):
        ids = epoch(run, number, records("webdataset"))
        assert len(set(ids)) == len(ids) == (NUM_SAMPLES if keep else 20)
    assert (run.counters().storage_bytes or 0) >= 3 * 0.8 * dataset.stored_bytes
    run.close()


@pytest.mark.parametrize(("shuffle", "most"), [(False, 4), (True, 9)])
def test_parquet_reads_no_further_than_prefetch_and_shuffle_buffer(
    get_dataset: Get, monkeypatch: pytest.MonkeyPatch, shuffle: bool, most: int
) -> None:
    """Row groups of up to 2 samples; 2 batches of 3 in flight, and 6 samples of shuffle buffer before the last of them comes out."""
    from storagebench.loaders.row_groups import RowGroup, RowGroupReader

    read: list[int] = []
    original = RowGroupReader.read

    def spy(self: RowGroupReader, group: int) -> RowGroup:
        read.append(group)
        return original(self, group)

    monkeypatch.setattr(RowGroupReader, "read", spy)
    spec, dataset = get_dataset("parquet", "posix")
    job = LoadJob(spec, dataset, 0, 1, BATCH, keep_remainder=True, num_workers=2, prefetch_batches=2, shuffle_buffer=6, shuffle=shuffle)
    run = opened(Cell("parquet", "parquet", "posix"), job)
    run.start(0)
    time.sleep(0.2)
    assert 3 <= len(read) <= most
    while run.next() is not None:
        pass
    assert sorted(read) == list(range(len(dataset.row_groups()[0])))
    run.close()


# -- refusals and failures ---------------------------------------------------------------------------------------------------------------------


def check_sentence(error: UsageError | DatasetError) -> None:
    assert error.hint
    assert "\n" not in error.message
    assert not error.message.endswith(".")


def test_misfits_are_refused_with_what_fits() -> None:
    claimed = {(cell.loader, cell.format, cell.kind) for cell in CELLS} | {("null", form, kind) for form in formats() for kind in STORES}
    for loader in LOADERS:
        for form in formats():
            for kind in STORES:
                error = misfit(loader, form, kind)
                assert (error is None) == ((loader, form, kind) in claimed)
                if error is not None:
                    check_sentence(error)
    for loader, kind in (("parquet", "posix"), ("webdataset", "posix"), ("direct", "s3")):
        error = misfit(loader, loader_info(loader).formats[0], kind, odirect=True)
        assert error is not None
        check_sentence(error)


def test_fewer_shards_than_ranks_are_refused(get_dataset: Get) -> None:
    spec, dataset = get_dataset("webdataset", "posix")
    with pytest.raises(UsageError, match="5 shards, and 6 accelerators") as caught:
        opened(Cell("webdataset", "webdataset", "posix"), LoadJob(spec, dataset, 0, 6, 1))
    check_sentence(caught.value)


@pytest.mark.parametrize("loader", ["parquet", "webdataset"])
@pytest.mark.parametrize("mode", ["direct", "dontcache"])
def test_an_io_mode_that_a_library_does_not_have_is_refused(get_dataset: Get, loader: str, mode: str) -> None:
    spec, dataset = get_dataset(loader, "posix")
    with pytest.raises(UsageError, match=f"io is {mode}") as caught:
        opened(Cell(loader, loader, "posix"), LoadJob(replace(spec, options={"io": mode}), dataset, 0, 1, 1))
    check_sentence(caught.value)


def rewritten(job: LoadJob, folder: Path, change: Callable[[bytes], bytes | None]) -> tuple[LoadJob, str]:
    """The job on a copy of its dataset in which the longest shard has other bytes, or is missing; and that shard's name."""
    source, target = open_spec(job.store), open_spec(StoreSpec("posix", str(folder)))
    shard = int(np.argmax(job.dataset.shard_bytes))
    for number, name in enumerate(job.dataset.names):
        data: bytes | None = bytes(source.read_all(name, 10**9))
        if number == shard and data is not None:
            data = change(data)
        if data is not None:
            with target.create(name) as sink:
                sink.write(data)
    source.close()
    return replace(job, store=target.spec), job.dataset.names[shard]


def run_all(cell: Cell, job: LoadJob) -> list[Batch]:
    run = opened(cell, job)
    try:
        run.start(0)
        return list(iter(run.next, None))
    finally:
        run.close()


@every_cell
def test_a_dataset_that_is_gone_is_named(cell: Cell, job: LoadJob) -> None:
    gone = replace(job, store=replace(job.store, root=f"{job.store.root}-gone"))
    with pytest.raises(DatasetError, match=r"shards/.* is missing") as caught:
        run_all(cell, gone)
    check_sentence(caught.value)


LOCAL = [cell for cell in CELLS if cell.kind == "posix"]


@pytest.mark.parametrize("cell", cases(LOCAL))
@pytest.mark.parametrize("what", ["missing", "truncated", "shortened by a third"])
def test_a_missing_or_short_shard_is_named(cell: Cell, job: LoadJob, tmp_path: Path, what: str) -> None:
    changes: dict[str, Callable[[bytes], bytes | None]] = {
        "missing": lambda data: None,
        "truncated": lambda data: data[:-3000],
        "shortened by a third": lambda data: data[: len(data) * 2 // 3],
    }
    damaged, name = rewritten(job, tmp_path, changes[what])
    before = traces_of_life()
    with pytest.raises(DatasetError) as caught:
        run_all(cell, damaged)
    assert name in caught.value.message
    check_sentence(caught.value)
    assert not left_over(before)


@pytest.mark.parametrize("cell", cases(LOCAL))
def test_a_flipped_bit_shows_in_the_checksum(cell: Cell, job: LoadJob, records: Any, tmp_path: Path) -> None:
    """At every level that reads the bytes; containers whose structure is hit raise instead."""
    shard = int(np.argmax(job.dataset.shard_bytes))
    sample = int(job.dataset.first_sample[shard])
    record = records(cell.format)[sample]

    def flip(data: bytes) -> bytes:
        place = data.index(record[1000:1100]) + 50
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    damaged, _ = rewritten(job, tmp_path, flip)
    batches = run_all(cell, replace(damaged, decode="touch"))
    index = job.dataset.index["crc32c"]
    wrong = [int(bad) for batch in batches if batch.checksums is not None for bad in batch.sample_ids[batch.checksums != index[batch.sample_ids]]]
    assert wrong == [sample]


@pytest.mark.parametrize("loader", ["parquet", "webdataset"])
def test_a_damaged_container_is_named(loader: str, get_dataset: Get, tmp_path: Path) -> None:
    """A header of a tar member that no longer fits its checksum ends the archive for the tar module; we notice. For Parquet a page header."""
    spec, dataset = get_dataset(loader, "posix")
    cell = Cell(loader, loader, "posix")
    place = {"parquet": 4, "webdataset": 512 * 11}[loader]
    job, name = rewritten(
        LoadJob(spec, dataset, 0, 1, BATCH, keep_remainder=True), tmp_path, lambda data: data[:place] + b"\xff" * 40 + data[place + 40 :]
    )
    with pytest.raises(DatasetError) as caught:
        run_all(cell, job)
    assert name in caught.value.message
    check_sentence(caught.value)


def test_a_worker_that_dies_is_an_error_and_not_a_hang(get_dataset: Get) -> None:
    from storagebench.errors import RankError

    spec, dataset = get_dataset("webdataset", "posix")
    run = opened(Cell("webdataset", "webdataset", "posix"), LoadJob(spec, dataset, 0, 1, 1, keep_remainder=True, num_workers=2))
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
