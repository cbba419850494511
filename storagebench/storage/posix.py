"""Local and mounted file systems: buffered reads, O_DIRECT, or reads that leave no pages behind (RWF_DONTCACHE).

Never silent: where the file system refuses the asked mode, opening the store fails. Nothing here deletes anything but the names it is given.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from storagebench.errors import DatasetError, StorageError, UsageError, did_you_mean
from storagebench.protocols import Extent, IOCounters, ObjectInfo, StoreSpec

ALIGNMENT_BYTES = 4096
RWF_DONTCACHE = 0x80
IO_MODES = ("buffered", "direct", "dontcache")
_BOUNCE_BYTES = 1 << 20
_TEMP_MARK = ".part-"


class PosixStore:
    """A folder. Option `io`: buffered (default), direct (O_DIRECT) or dontcache (Linux 6.14, file systems that know it)."""

    native_ranges = True

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        for name in spec.options:
            if name != "io":
                raise UsageError(f"unknown storage option {name!r} for a local path", did_you_mean(name, ["io"]))
        self.io = spec.options.get("io", "buffered")
        if self.io not in IO_MODES:
            raise UsageError(f"storage option io is {self.io!r}", did_you_mean(self.io, list(IO_MODES)))
        self._root = spec.root
        self._lock = threading.Lock()
        self._counters = [0, 0]
        self._bounce = threading.local()

    @property
    def url(self) -> str:
        return self._root

    def path(self, key: str) -> str:
        """The file behind a key (keys are plain relative paths, checked where they are read from)."""
        return os.path.join(self._root, key)

    def exists(self, key: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self.path(key), follow_symlinks=False).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._error(error, key) from None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        stack = [os.path.join(self._root, prefix) if prefix else self._root]
        while stack:
            try:
                entries = list(os.scandir(stack.pop()))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._error(error, prefix) from None
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield ObjectInfo(entry.path[len(self._root) :].lstrip("/"), entry.stat(follow_symlinks=False).st_size)

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        results = []
        for extent in extents:
            if extent.length is None:
                raise ValueError(f"extent of {extent.key} has no length")
            target = aligned_buffer(extent.length)
            self.read_into(extent, target)
            results.append(target)
        return results

    def read_into(self, extent: Extent, target: memoryview) -> None:
        """One open, one read (more only where the kernel returns short). With O_DIRECT the aligned middle goes straight to the target."""
        if extent.length != len(target):
            raise ValueError(f"extent of {extent.key} has length {extent.length}, and the target {len(target)}")
        fd = self._open(extent)
        try:
            if self.io == "direct":
                self._read_direct(fd, extent, target)
            else:
                self._read_fully(fd, extent, target, extent.offset, RWF_DONTCACHE if self.io == "dontcache" else 0)
        finally:
            os.close(fd)
        with self._lock:
            self._counters[0] += len(target)
            self._counters[1] += 1

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        try:
            size = os.stat(self.path(key), follow_symlinks=False).st_size
        except OSError as error:
            raise self._error(error, key) from None
        if size > limit_bytes:
            raise StorageError(f"{key} in {self.url} has {size} bytes, over the limit of {limit_bytes}", "this is not a file of storagebench")
        return self.read([Extent(key, 0, size)])[0]

    def open_stream(self, key: str, num_bytes: int) -> BinaryIO:
        os.close(self._open(Extent(key, 0, num_bytes)))
        return open(self.path(key), "rb")

    @contextmanager
    def create(self, key: str) -> Iterator[Any]:
        final = Path(self.path(key))
        temp = final.with_name(f".{final.name}{_TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
        done = False
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with open(temp, "xb", buffering=0) as file:
                yield _FullWriter(file)
                os.fsync(file.fileno())
            os.rename(temp, final)
            done = True
            _fsync_folder(final.parent)
        except OSError as error:
            raise self._error(error, key, "write") from None
        finally:
            if not done:
                temp.unlink(missing_ok=True)

    def temporaries(self, keys: Iterable[str]) -> Iterator[str]:
        """Left-over temporary keys of killed writers, of these final keys only; safe to delete when no writer is alive."""
        wanted = set(keys)
        for info in self.list():
            folder, _, name = info.key.rpartition("/")
            if name.startswith(".") and _TEMP_MARK in name:
                final = name[1 : name.rindex(_TEMP_MARK)]
                if (f"{folder}/{final}" if folder else final) in wanted:
                    yield info.key

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                os.unlink(self.path(key))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._error(error, key, "delete") from None

    def counters(self) -> IOCounters:
        with self._lock:
            return IOCounters(self._counters[0], self._counters[1])

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _open(self, extent: Extent) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECT if self.io == "direct" else 0)
        try:
            fd = os.open(self.path(extent.key), flags)
        except OSError as error:
            raise self._error(error, extent.key) from None
        info = os.fstat(fd)
        needed = extent.offset + (extent.length or 0)
        if stat.S_ISREG(info.st_mode) and info.st_size >= needed:
            return fd
        os.close(fd)
        if not stat.S_ISREG(info.st_mode):
            raise DatasetError(f"{extent.key} in {self.url} is not a regular file", "run `storagebench verify`, then generate or import again")
        raise DatasetError(
            f"{extent.key} in {self.url} has {info.st_size} bytes, and {needed} were asked for: it is truncated",
            "run `storagebench verify`, then generate or import again",
        )

    def _read_fully(self, fd: int, extent: Extent, target: memoryview, offset: int, flags: int) -> None:
        done = 0
        while done < len(target):
            try:
                got = os.preadv(fd, [target[done:]], offset + done, flags)
            except OSError as error:
                raise self._error(error, extent.key) from None
            if got == 0:
                raise DatasetError(
                    f"{extent.key} in {self.url} ended at byte {offset + done} of {offset + len(target)} while it was read",
                    "something changes the dataset during the run: stop it",
                )
            done += got

    def _read_direct(self, fd: int, extent: Extent, target: memoryview) -> None:
        """O_DIRECT wants aligned offset, length and memory: the aligned middle is read in place, the rest through a bounce buffer."""
        start, end = extent.offset, extent.offset + len(target)
        aligned_target = address_of(target) % ALIGNMENT_BYTES == 0 and start % ALIGNMENT_BYTES == 0
        middle = (len(target) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES if aligned_target else 0
        if middle:
            self._read_fully(fd, extent, target[:middle], start, 0)
        bounce = self._bounce_buffer()
        position = start + middle
        while position < end:
            low = position - position % ALIGNMENT_BYTES
            wanted = min(len(bounce), -(-(end - low) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
            try:
                got = os.preadv(fd, [bounce[:wanted]], low)
            except OSError as error:
                raise self._error(error, extent.key) from None
            high = min(low + got, end)
            if high <= position:
                raise DatasetError(
                    f"{extent.key} in {self.url} ended at byte {low + got} of {end} while it was read", "something changes the dataset: stop it"
                )
            target[position - start : high - start] = bounce[position - low : high - low]
            position = high

    def _bounce_buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._bounce, "buffer", None)
        if buffer is None:
            buffer = aligned_buffer(_BOUNCE_BYTES)
            self._bounce.buffer = buffer
        return buffer

    def _error(self, error: OSError, key: str, action: str = "read") -> Exception:
        name = f"{key} in {self.url}" if key else self.url
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and action == "read":
            return DatasetError(f"{name} is missing", "run `storagebench verify`, then generate or import again")
        if error.errno in (errno.ELOOP, errno.EISDIR):
            return DatasetError(f"{name} is a link or a folder, not a regular file", "run `storagebench verify`, then generate or import again")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StorageError(f"cannot {action} {name}: {error.strerror}", "free space or choose another --data-dir; the same command then goes on")
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP) and self.io != "buffered":
            return StorageError(f"{name} cannot be read with io={self.io} on this file system ({error.strerror})", "use --storage-option io=buffered")
        return StorageError(f"cannot {action} {name}: {error.strerror}", "check the path, its permissions and the device")


class _FullWriter:
    """Writes all of what it is given: a raw file may take less."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])
        return done


def aligned_buffer(num_bytes: int) -> memoryview:
    """Page-aligned memory of that length, zero-length included."""
    return memoryview(mmap.mmap(-1, max(num_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[:num_bytes]


def address_of(view: memoryview) -> int:
    """Address of the first byte."""
    import numpy as np

    return int(np.frombuffer(view, dtype=np.uint8).ctypes.data) if len(view) else 0


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
