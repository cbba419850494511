"""A probe, put together: what to read (a dataset's shards or scratch of our own), which groups and cells, and the search for the ceilings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import MANIFEST_KEY, Dataset, load_dataset
from storagebench.probe.cells import Measured, measure
from storagebench.probe.places import FilesPlace, ObjectsPlace, PageState, scratch_files, scratch_objects
from storagebench.probe.plan import Cell, Group, Mode, align, cells, groups
from storagebench.probe.search import Ceiling, num_runs, search
from storagebench.protocols import Store
from storagebench.storage import data_store
from storagebench.storage.aio import is_available

DEFAULT_SIZE_BYTES = 2 * 2**30
DEFAULT_OBJECTS_BYTES = 256 * 2**20
DEFAULT_REQUEST_BYTES = (2**20, 128 * 2**10)
DEFAULT_SECONDS = 2.0


@dataclass(frozen=True)
class Asked:
    """A probe as the user asked for it. Sizes in bytes; None or nothing takes the default. `served`: where a server of this host has the objects."""

    size_bytes: int | None = None
    request_bytes: tuple[int, ...] = ()
    seconds: float = DEFAULT_SECONDS
    write: bool = False
    direct: bool = False
    buffered: bool = False
    served: Path | None = None


@dataclass(frozen=True)
class Opened:
    """A place for reads and one for writes (None: no writes are asked for), and what is tried there. `source` is dataset or scratch."""

    source: str
    reads: FilesPlace | ObjectsPlace
    writes: FilesPlace | ObjectsPlace | None
    groups: tuple[Group, ...]
    has_aio: bool

    def cells(self) -> dict[Group, list[Cell]]:
        """All cells of all groups, in order."""
        return {
            group: cells(group, has_aio=self.has_aio and group.pattern != "objects", buffer_bytes=self.reads.buffer_bytes(group))
            for group in self.groups
        }

    def run(self, cell: Cell, seconds: float, seed: int) -> Measured:
        """One cell, once."""
        place = self.writes if cell.group.direction == "write" else self.reads
        assert place is not None
        try:
            return measure(cell, place.work(cell), seconds, seed)
        finally:
            place.finish(cell)


@dataclass(frozen=True)
class Probed:
    """All runs in order, and the ceiling of each group."""

    measured: tuple[Measured, ...]
    ceilings: tuple[Ceiling, ...]


@contextmanager
def opened(store: Store, asked: Asked, held: Callable[[Dataset, Store], Dataset] = lambda dataset, _: dataset) -> Iterator[Opened]:
    """What a probe of this store is, with scratch made where it needs some and removed when the block ends. `held`: the part of a dataset that lies here.

    Raises UsageError (options that do not fit, no folder, no space), DatasetError (a damaged manifest, a missing shard), StorageError.
    """
    _check(asked)
    dataset = load_dataset(store) if store.exists(MANIFEST_KEY) else None
    if dataset is not None and dataset.data_root and asked.write:
        raise UsageError(
            "--write with a dataset that is measured in place would write where its data do not lie", "probe an empty folder of that storage"
        )
    with ExitStack() as stack:
        if dataset is not None:
            store = stack.enter_context(data_store(store, dataset))
            asked = replace(asked, served=None) if dataset.data_root else asked
            dataset = held(dataset, store)
            _check_shards(store, dataset)
        if store.spec.kind == "posix":
            yield _open_files(stack, Path(store.spec.root), dataset, asked)
        else:
            yield _open_objects(stack, store, dataset, asked)


def _check(asked: Asked) -> None:
    for size in asked.request_bytes:
        if size < 4096 or size % 4096 or size > 2**30:
            raise UsageError(f"--request-size is {size} bytes, and must be a multiple of 4096 from 4096 to 1 GiB", "such as 128KiB")
    if not 0.01 <= asked.seconds <= 3600:
        raise UsageError(f"--seconds is {asked.seconds:g}, and must be from 0.01 to 3600", "such as 2")
    largest = max(asked.request_bytes or DEFAULT_REQUEST_BYTES)
    if asked.size_bytes is not None and asked.size_bytes < 4 * largest:
        raise UsageError(f"--size is {asked.size_bytes} bytes, under 4 requests of {largest}", "use a larger --size or a smaller --request-size")


def _check_shards(store: Store, dataset: Dataset) -> None:
    found = {info.key: info.num_bytes for info in store.list(dataset.shard_prefix)}
    for name, expected in zip(dataset.names, dataset.shard_bytes.tolist(), strict=True):
        if found.get(name) != expected:
            state = f"has {found[name]} bytes, and the manifest says {expected}" if name in found else "is missing"
            raise DatasetError(f"shard {name} of the dataset at {store.url} {state}", "run `storagebench verify`, then make the dataset again")
    if dataset.stored_bytes == 0:
        raise UsageError("the dataset has no bytes to read", "generate one with samples, or probe an empty folder")


def _open_files(stack: ExitStack, folder: Path, dataset: Dataset | None, asked: Asked) -> Opened:
    around: tuple[Mode, ...] = ("direct",) if asked.direct or not asked.buffered else ()
    read_modes: tuple[Mode, ...] = (*around, "cold") if asked.buffered else around
    write_modes: tuple[Mode, ...] = () if not asked.write else (*around, "buffered") if asked.buffered else around
    scratch = None
    if dataset is None or asked.write:
        scratch = stack.enter_context(scratch_files(folder, asked.size_bytes or DEFAULT_SIZE_BYTES))
    if dataset is None:
        assert scratch is not None
        wanted = groups(asked.request_bytes or DEFAULT_REQUEST_BYTES, read_modes, write_modes, largest_bytes=max(scratch.sizes))
        return Opened("scratch", scratch, scratch, tuple(wanted), is_available())
    reads = shard_files(folder, dataset)
    sizes = asked.request_bytes or _sizes_of(dataset)
    wanted = groups(sizes, read_modes, write_modes, _objects_bytes(dataset), max(reads.sizes))
    return Opened("dataset", reads, scratch, tuple(wanted), is_available())


def _open_objects(stack: ExitStack, store: Store, dataset: Dataset | None, asked: Asked) -> Opened:
    if asked.direct or asked.buffered:
        raise UsageError(f"--direct and --buffered are for local paths, and {store.url} is not one", "leave them out")
    write_modes: tuple[Mode, ...] = ("client",) if asked.write else ()
    sizes = asked.request_bytes or (DEFAULT_REQUEST_BYTES if dataset is None else _sizes_of(dataset))
    num_bytes = asked.size_bytes or DEFAULT_OBJECTS_BYTES
    scratch = None
    if dataset is None or asked.write:
        scratch = stack.enter_context(scratch_objects(store, min(num_bytes, 8 * max(sizes)), num_bytes if dataset is None else max(sizes)))
        scratch.scratch_bytes = num_bytes
    if dataset is None:
        assert scratch is not None
        wanted = groups(sizes, ["client"], write_modes, scratch.sizes[0], scratch.sizes[0])
        return Opened("scratch", scratch, scratch, tuple(wanted), False)
    local = [str(asked.served / name) for name in dataset.names] if asked.served is not None else None
    reads = shard_objects(store, dataset, local)
    wanted = groups(sizes, ["client"], write_modes, round(dataset.stored_bytes / dataset.num_shards), max(reads.sizes))
    return Opened("dataset", reads, scratch, tuple(wanted), False)


def shard_files(folder: Path, dataset: Dataset) -> FilesPlace:
    """The dataset's shards as files, only to be read."""
    return FilesPlace([os.path.join(folder, name) for name in dataset.names], dataset.shard_bytes.tolist())


def shard_objects(store: Store, dataset: Dataset, local_paths: Sequence[str] | None, warm: bool = False) -> ObjectsPlace:
    """The dataset's shards as objects, only to be read; `local_paths` are their files on this host, if a server of ours reads them (`warm`: cached)."""
    return ObjectsPlace(store, list(dataset.names), dataset.shard_bytes.tolist(), PageState(local_paths) if local_paths else None, warm)


def mean_stored_sample(dataset: Dataset) -> float:
    """Stored bytes a sample, container and all."""
    return dataset.stored_bytes / max(dataset.num_samples, 1)


def _sizes_of(dataset: Dataset) -> tuple[int, ...]:
    """The sizes that a dataset is probed with where none is asked for: its mean stored sample (up to 64 MiB), and 1 MiB."""
    return (min(align(mean_stored_sample(dataset)), 64 * 2**20), 2**20)


def _objects_bytes(dataset: Dataset) -> int | None:
    """The mean shard where a shard is one sample: then whole files are what a loader reads."""
    return round(dataset.stored_bytes / dataset.num_shards) if dataset.whole_shards else None


def probe(
    place: Opened,
    seconds: float,
    progress: Callable[[int, int, Measured], None] = lambda _done, _total, _row: None,
    table: Mapping[Group, Sequence[Cell]] | None = None,
) -> Probed:
    """Find the ceilings. `progress` gets (runs done, runs in all, the last one); `table` has the cells where not all of the place are wanted."""
    table = place.cells() if table is None else table
    total = num_runs(table)
    count = 0

    def run(cell: Cell) -> Measured:
        return place.run(cell, seconds, seed=count)

    def done(row: Measured) -> None:
        nonlocal count
        count += 1
        progress(count, total, row)

    measured, ceilings = search(table, run, done)
    return Probed(tuple(measured), tuple(ceilings))
