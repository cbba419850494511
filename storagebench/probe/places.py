"""Where a probe reads and writes: files of this host, or objects behind a store; a dataset's (only ever read) or scratch of our own.

Scratch lies in one new folder (or under one new prefix), is written with bytes that nothing compresses or has already, and is removed by name, also
when the probe fails or is interrupted. No other file is ever opened for writing or removed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from storagebench.errors import StorageError, UsageError
from storagebench.probe.cells import Work
from storagebench.probe.plan import Cell, Group, Requests, align, requests
from storagebench.probe.workers import DeepFileReader, FileReader, FileWriter, StoreReader, StoreWriter, Worker
from storagebench.protocols import Store
from storagebench.storage import pagecache

SCRATCH_NAME = "storagebench-probe"
COLD_AT_MOST = 0.02
_DROP_ATTEMPTS = 5
_DROP_PAUSE_S = 0.05
_NUM_SCRATCH_FILES = 4
_BLOCK_BYTES = 8 * 2**20
_HEADROOM_BYTES = 64 * 2**20


class Place(Protocol):
    """Data to probe. `sizes` are the bytes of each file or object."""

    sizes: list[int]

    def work(self, cell: Cell) -> Work:
        """What the cell's threads do here."""

    def finish(self, cell: Cell) -> None:
        """Undo what a cell left behind; called after each, also after one that failed."""


class PageState:
    """Drops or fills the pages of some files before a pass, and proves it. `proof` says by what means, once it was asked."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.proof: str | None = None

    def drop(self) -> None:
        """Raises StorageError where more than 2 % of the pages stay, also after what was still being read ahead has had time to end."""
        for attempt in range(_DROP_ATTEMPTS):
            if attempt:
                time.sleep(_DROP_PAUSE_S)
            self._touch(pagecache.drop)
            found = pagecache.residency(self._paths)
            if found.fraction is None or found.fraction <= COLD_AT_MOST:
                break
        self.proof = found.method
        if found.fraction is not None and found.fraction > COLD_AT_MOST:
            raise StorageError(
                f"{found.fraction:.1%} of the pages in {os.path.dirname(self._paths[0])} stayed cached after they were dropped, over {COLD_AT_MOST:.0%}",
                "stop what else reads, writes or maps these files, or use --direct",
            )

    def fill(self) -> None:
        """Read everything once. Raises StorageError where memory does not hold it."""
        self._touch(pagecache.fill)
        found = pagecache.residency(self._paths)
        self.proof = found.method
        if found.fraction is not None and found.fraction < 1 - COLD_AT_MOST:
            raise StorageError(f"only {found.fraction:.1%} of the data stays in the page cache", "use a dataset that fits into free memory")

    def _touch(self, what: Callable[[Iterable[str]], None]) -> None:
        try:
            what(self._paths)
        except OSError as error:
            raise StorageError(f"cannot treat the page cache of {error.filename}: {error.strerror}", "check the path and its permissions") from None


@dataclass
class FilesPlace:
    """Files of this host. `writable` only for scratch."""

    paths: list[str]
    sizes: list[int]
    writable: bool = False
    pages: PageState = field(init=False)

    def __post_init__(self) -> None:
        self.pages = PageState(self.paths)

    def work(self, cell: Cell) -> Work:
        group = cell.group
        if group.direction == "write" and not self.writable:
            raise UsageError("these files are not the probe's own, and are never written to", "probe an empty folder to measure writes")
        if group.mode == "warm":
            self.pages.fill()
        elif group.mode == "direct" and group.direction == "read":
            self.pages.drop()
        return Work(
            make_worker=lambda: self._worker(cell),
            one_pass=lambda seed: requests(self.sizes, group.pattern, group.request_bytes, seed),
            before_pass=self.pages.drop if group.mode == "cold" else None,
        )

    def _worker(self, cell: Cell) -> Worker:
        group, buffer_bytes = cell.group, self.buffer_bytes(cell.group)
        direct = group.mode == "direct"
        if group.direction == "write":
            return FileWriter(self.paths, group.request_bytes, direct)
        if cell.depth > 1:
            return DeepFileReader(self.paths, buffer_bytes, cell.depth)
        return FileReader(self.paths, buffer_bytes, direct)

    def buffer_bytes(self, group: Group) -> int:
        """Memory of one request in flight."""
        return max(self.sizes, default=1) if group.pattern == "objects" else group.request_bytes

    def finish(self, cell: Cell) -> None:
        """Files stay until the scratch folder goes."""


@dataclass
class ObjectsPlace:
    """Objects behind a store that all threads share. `local` are the files of this host that a server of ours reads them from: their pages are
    dropped before each pass, or with `warm` filled before the first."""

    store: Store
    keys: list[str]
    sizes: list[int]
    local: PageState | None = None
    warm: bool = False
    scratch_prefix: str | None = None
    scratch_bytes: int = 0
    _written: list[str] = field(default_factory=list)

    def work(self, cell: Cell) -> Work:
        group = cell.group
        if group.direction == "write":
            return self._writing(cell)
        if self.local is not None and self.warm:
            self.local.fill()
        return Work(
            make_worker=lambda: StoreReader(self.store, self.keys),
            one_pass=lambda seed: requests(self.sizes, group.pattern, group.request_bytes, seed),
            before_pass=self.local.drop if self.local is not None and not self.warm else None,
        )

    def _writing(self, cell: Cell) -> Work:
        prefix, size = self.scratch_prefix, cell.group.request_bytes
        if prefix is None:
            raise UsageError("these objects are not the probe's own, and are never written to", "give --write")

        def one_pass(seed: int) -> Requests:
            return requests([self.scratch_bytes], "sequential", size, seed)

        return Work(lambda: StoreWriter(self.store, f"{prefix}/{secrets.token_hex(4)}", size, self._written), one_pass, None)

    def buffer_bytes(self, group: Group) -> int:
        """Memory of one request in flight."""
        return max(self.sizes, default=1) if group.pattern == "objects" and group.direction == "read" else group.request_bytes

    def finish(self, cell: Cell) -> None:
        """Remove what a write cell made."""
        self.store.delete(self._written)
        self._written.clear()


@contextmanager
def scratch_files(folder: Path, num_bytes: int) -> Iterator[FilesPlace]:
    """Scratch files in a new folder within `folder`, gone when the block ends. Raises UsageError (no folder, no space), StorageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "make it first, or give the folder of a dataset")
    free = shutil.disk_usage(folder).free
    if num_bytes + _HEADROOM_BYTES > free:
        raise UsageError(f"--size {num_bytes} needs {num_bytes + _HEADROOM_BYTES} bytes, and {folder} has {free} free", "use a smaller --size")
    own = folder / f"{SCRATCH_NAME}-{os.getpid()}-{secrets.token_hex(4)}"
    each = align(num_bytes / _NUM_SCRATCH_FILES)
    paths = [str(own / f"scratch-{number}") for number in range(_NUM_SCRATCH_FILES)]
    try:
        own.mkdir()
    except OSError as error:
        raise StorageError(f"cannot make a scratch folder in {folder}: {error.strerror}", "choose a folder that is writable") from None
    try:
        for path in paths:
            _write_unique(path, each)
        yield FilesPlace(paths, [each] * len(paths), writable=True)
    finally:
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(path)
        with suppress(OSError):  # where somebody else put a file into it, it is theirs
            own.rmdir()


def _write_unique(path: str, num_bytes: int) -> None:
    """A durable file of an AES-CTR keystream. Raises StorageError."""
    stream = Cipher(algorithms.AES(secrets.token_bytes(16)), modes.CTR(bytes(16))).encryptor()
    zeros, block = bytes(_BLOCK_BYTES), bytearray(_BLOCK_BYTES + 15)
    try:
        with open(path, "xb", buffering=0) as file:
            left = num_bytes
            while left:
                size = min(left, _BLOCK_BYTES)
                stream.update_into(zeros[:size], block)
                left -= file.write(memoryview(block)[:size]) or 0
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot write the scratch file {path}: {error.strerror}", "free space, or choose a smaller --size") from None


@contextmanager
def scratch_objects(store: Store, object_bytes: int, num_bytes: int) -> Iterator[ObjectsPlace]:
    """Scratch objects of that size under a new prefix, gone when the block ends."""
    prefix = f"{SCRATCH_NAME}-{secrets.token_hex(8)}"
    keys = [f"{prefix}/scratch-{number}" for number in range(max(1, num_bytes // object_bytes))]
    stream = Cipher(algorithms.AES(secrets.token_bytes(16)), modes.CTR(bytes(16))).encryptor()
    place = ObjectsPlace(store, keys, [object_bytes] * len(keys), scratch_prefix=prefix, scratch_bytes=num_bytes)
    made: list[str] = []
    try:
        for key in keys:
            made.append(key)
            with store.create(key) as sink:
                sink.write(stream.update(bytes(object_bytes)))
        yield place
    finally:
        store.delete(made)
