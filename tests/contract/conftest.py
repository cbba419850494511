"""The combinations that the registry says work together, their datasets, and what the tests of loaders ask of a run.

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
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from storagebench import buildparts
from storagebench.adapters import FORMATS, LOADERS, LoaderInfo
from storagebench.build import generate
from storagebench.datasets.synthetic import SyntheticSource
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset, side_files
from storagebench.protocols import Batch, LoaderRun, LoadJob, StoreSpec
from storagebench.registry import formats, loader_info, missing_modules, open_format, open_loader
from storagebench.storage import open_spec, parse_url
from storagebench.workload import PAYLOAD_OF_FORMAT, DatasetSpec, Workload

NUM_SAMPLES = 23
SHARD_SIZES = (5, 4, 1, 7, 6)
HANDOVER_BYTES = 3 * 24 * 24
BATCH = 3


# -- combinations ------------------------------------------------------------------------------------------------------------------------------


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

    @property
    def needs(self) -> tuple[str, ...]:
        return self.info.needs + FORMATS[self.format].needs


# `null` reads nothing and is left out.
CLAIMED = [Cell(name, form, kind) for name, info in LOADERS.items() if name != "null" for form in info.formats for kind in info.stores_of(form)]
# Extras that are not installed here, and what nobody can run here, have no cells: `.ci/loaders` has them.
CELLS = [cell for cell in CLAIMED if not cell.info.extra or not (cell.info.not_yet_run or missing_modules(cell.needs))]
# Formats that `make test` has on every store.
EVERYWHERE = ("npz", "npy", "jpeg", "raw", "parquet", "webdataset")
CELLS_BY_NAME = {str(cell): cell for cell in CELLS}
CELLS_OF = {
    "every": CELLS,
    # For the parts of the contract that no store can change.
    "every loader and format": [cell for cell in CELLS if cell.kind == ("posix" if "posix" in cell.info.stores else "s3")],
    "every local": [cell for cell in CELLS if cell.kind == "posix"],
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"cells(*names): runs for each of these combinations: {', '.join(CELLS_OF)}, or LOADER-FORMAT-STORE")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The argument `cell` of tests with the mark `cells`."""
    mark = metafunc.definition.get_closest_marker("cells")
    if mark is not None:
        chosen = [cell for name in mark.args for cell in CELLS_OF.get(name, [CELLS_BY_NAME[name]] if name in CELLS_BY_NAME else [])]
        unknown = set(mark.args) - set(CELLS_OF) - {str(cell) for cell in CLAIMED}
        assert not unknown, f"no such combination is claimed: {sorted(unknown)}"
        cases = [pytest.param(cell, id=str(cell), marks=_marks(cell)) for cell in chosen]
        metafunc.parametrize("cell", cases)


def _marks(cell: Cell) -> list[Any]:
    """What a format changes shows on local files, and what a store changes with a few formats: the rest of the table is `.ci/run`'s."""
    marks = [pytest.mark.s3] if cell.kind == "s3" else []
    return marks if cell.kind == "posix" or cell.format in EVERYWHERE else [*marks, pytest.mark.catalogue]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where the registry says that a library breaks the contract, the case that shows it must fail, or the registry is wrong."""
    for item in items:
        cell = item.callspec.params.get("cell") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
        for what, case in cell.info.breaks if isinstance(cell, Cell) else ():
            if case in (item.name.partition("[")[0], item.name):
                item.add_marker(pytest.mark.xfail(reason=what, strict=True))


@pytest.fixture(scope="session")
def cells() -> list[Cell]:
    """All that is claimed to work, but for `null`."""
    return CLAIMED


# -- datasets and jobs -------------------------------------------------------------------------------------------------------------------------

Get = Callable[[str, str], tuple[StoreSpec, Dataset]]


def dataset_spec(format_name: str) -> DatasetSpec:
    payload = PAYLOAD_OF_FORMAT.get(format_name, "bytes")
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


@pytest.fixture(scope="session")
def opened_before() -> Callable[[StoreSpec], StoreSpec]:
    """The spec of a store that was opened once and found out how the server answers ranges: what a run hands to its ranks."""
    known: dict[tuple[str, str], StoreSpec] = {}

    def find(spec: StoreSpec) -> StoreSpec:
        key = spec.root, spec.options["client"]
        if key not in known:
            store = open_spec(spec)
            known[key] = store.spec
            store.close()
        return known[key]

    return find


@pytest.fixture
def job(cell: Cell, get_dataset: Get, opened_before: Callable[[StoreSpec], StoreSpec]) -> LoadJob:
    """Rank 0 of 1, without worker processes (loaders with threads get 2), every sample once."""
    spec, dataset = get_dataset(cell.format, cell.kind)
    if cell.kind == "s3":
        spec = opened_before(replace(spec, options={**spec.options, "client": cell.info.s3_client}))
    workers = 2 if cell.info.workers == "threads" else 0
    return LoadJob(spec, dataset, 0, 1, BATCH, keep_remainder=True, num_workers=workers, shuffle_buffer=6, handover_bytes_per_sample=HANDOVER_BYTES)


@pytest.fixture(autouse=True)
def few_objects() -> Iterator[None]:
    """Collecting garbage looks at a test's own objects, not at all that the libraries and the tests before it have made (0.2 s each time)."""
    gc.freeze()
    yield
    gc.unfreeze()


# -- what tests ask of a run -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """The functions below: test modules cannot import from each other."""
    functions = (opened, views, epoch, run_all, check_sentence, dataset_files_open, traces_of_life, left_over, rewritten)
    return SimpleNamespace(**{function.__name__: function for function in functions})


def opened(loader: str, job: LoadJob) -> LoaderRun:
    return open_loader(loader).open(job)


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


def run_all(loader: str, job: LoadJob) -> list[Batch]:
    """One epoch and the end."""
    run = opened(loader, job)
    try:
        run.start(0)
        return list(iter(run.next, None))
    finally:
        run.close()


def check_sentence(error: UsageError | DatasetError) -> None:
    """A message of one line that is no full sentence, and a hint."""
    assert error.hint
    assert "\n" not in error.message
    assert not error.message.endswith(".")


def dataset_files_open(job: LoadJob) -> list[str]:
    """Files of the dataset that this process or a worker has open or mapped."""
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(FileNotFoundError, ProcessLookupError):  # what has ended has nothing open
            folder = Path("/proc", str(process.pid))
            found += [name for name in descriptors(folder) if name.startswith(job.store.root)]
            # Not psutil's memory_maps, which has the kernel add up every page of torch's.
            found += [line for line in (folder / "maps").read_text(errors="replace").splitlines() if f" {job.store.root}" in line]
    return found


def descriptors(folder: Path) -> list[str]:
    """What the descriptors of a process stand for, by its folder in /proc."""
    found = []
    for entry in (folder / "fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return found


def traces_of_life() -> Counter[str]:
    """Descriptors, threads and child processes that there are now, but for the fork server, the resource tracker and the S3 server."""
    found: Counter[str] = Counter(f"thread {thread.name.split('_')[0]}" for thread in threading.enumerate())
    # Pipes and sockets by kind, as their numbers differ.
    found.update(name.split("[")[0] for name in descriptors(Path("/proc/self")) if not name.startswith("/proc/"))
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
    for name, beside in side_files(open_format(job.dataset.format), job.dataset):
        with target.create(name) as sink:
            sink.write(beside)
    source.close()
    return replace(job, store=target.spec), job.dataset.names[shard]
