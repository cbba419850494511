"""Local and mounted file systems: buffered reads, O_DIRECT, or reads that leave no pages behind (RWF_DONTCACHE).

Never silent: where the file system refuses the asked mode, opening the store fails. Nothing here deletes anything but the names it is given.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from storagebench.errors import DatasetError, StorageError, UsageError, did_you_mean
from storagebench.protocols import Extent, IOCounters, ObjectInfo, StoreSpec
from storagebench.storage.buffers import ALIGNMENT_BYTES, address_of, aligned_buffer
from storagebench.storage.posix_write import FileWriter, final_name

RWF_DONTCACHE = 0x80
IO_MODES = ("buffered", "direct", "dontcache")
_BOUNCE_BYTES = 1 << 20


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
        self._writer = FileWriter()
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
            raise self.explain(error, key) from None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        stack = [os.path.join(self._root, prefix) if prefix else self._root]
        while stack:
            try:
                entries = list(os.scandir(stack.pop()))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self.explain(error, prefix) from None
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
        fd = self.open_file(extent.key, extent.offset + (extent.length or 0))
        try:
            if self.io == "direct":
                self._read_direct(fd, extent, target)
            else:
                self._read_fully(fd, extent, target, extent.offset, RWF_DONTCACHE if self.io == "dontcache" else 0)
        finally:
            os.close(fd)
        self.count(len(target), 1)

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        try:
            size = os.stat(self.path(key), follow_symlinks=False).st_size
        except OSError as error:
            raise self.explain(error, key) from None
        if size > limit_bytes:
            raise StorageError(f"{key} in {self.url} has {size} bytes, over the limit of {limit_bytes}", "this is not a file of storagebench")
        return self.read([Extent(key, 0, size)])[0]

    def open_stream(self, key: str, num_bytes: int) -> BinaryIO:
        os.close(self.open_file(key, num_bytes))
        return open(self.path(key), "rb")

    @contextmanager
    def create(self, key: str) -> Iterator[Any]:
        try:
            with self._writer.create(Path(self.path(key))) as sink:
                yield sink
        except OSError as error:
            raise self.explain(error, key, "write") from None

    def temporaries(self, keys: Iterable[str]) -> Iterator[str]:
        """Left-over temporary keys of killed writers, of these final keys only; safe to delete when no writer is alive."""
        wanted = set(keys)
        for info in self.list():
            folder, _, name = info.key.rpartition("/")
            final = final_name(name)
            if final is not None and (f"{folder}/{final}" if folder else final) in wanted:
                yield info.key

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                os.unlink(self.path(key))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self.explain(error, key, "delete") from None

    def remove_empty_folders(self, keys: Iterable[str]) -> None:
        """Remove the folders that these keys were in, and those above them within the store, as far as nothing is in them any more."""
        folders = {"/".join(parts[:depth]) for key in keys for parts in [key.split("/")] for depth in range(1, len(parts))}
        for folder in sorted(folders, key=len, reverse=True):
            with suppress(OSError):  # something lies in it, or it is gone
                os.rmdir(self.path(folder))

    def counters(self) -> IOCounters:
        with self._lock:
            return IOCounters(self._counters[0], self._counters[1])

    def close(self) -> None:
        """Nothing stays open between calls; what writing keeps for its next file is given back."""
        self._writer.close()

    def count(self, num_bytes: int, requests: int) -> None:
        """Add to the counters what was read through `open_file`."""
        with self._lock:
            self._counters[0] += num_bytes
            self._counters[1] += requests

    def open_file(self, key: str, needed_bytes: int) -> int:
        """A descriptor of a regular file that is at least so long, in this store's mode. Raises DatasetError, StorageError."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECT if self.io == "direct" else 0)
        try:
            fd = os.open(self.path(key), flags)
        except OSError as error:
            raise self.explain(error, key) from None
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode) and info.st_size >= needed_bytes:
            return fd
        os.close(fd)
        if not stat.S_ISREG(info.st_mode):
            raise DatasetError(f"{key} in {self.url} is not a regular file", "run `storagebench verify`, then generate or import again")
        raise DatasetError(
            f"{key} in {self.url} has {info.st_size} bytes, and {needed_bytes} were asked for: it is truncated",
            "run `storagebench verify`, then generate or import again",
        )

    def ended(self, key: str, at: int, end: int) -> DatasetError:
        """A file that was long enough when it was opened came to its end at this byte."""
        return DatasetError(
            f"{key} in {self.url} ended at byte {at} of {end} while it was read", "something changes the dataset during the run: stop it"
        )

    def _read_fully(self, fd: int, extent: Extent, target: memoryview, offset: int, flags: int) -> None:
        done = 0
        while done < len(target):
            try:
                got = os.preadv(fd, [target[done:]], offset + done, flags)
            except OSError as error:
                raise self.explain(error, extent.key) from None
            if got == 0:
                raise self.ended(extent.key, offset + done, offset + len(target))
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
                raise self.explain(error, extent.key) from None
            high = min(low + got, end)
            if high <= position:
                raise self.ended(extent.key, low + got, end)
            target[position - start : high - start] = bounce[position - low : high - low]
            position = high

    def _bounce_buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._bounce, "buffer", None)
        if buffer is None:
            buffer = aligned_buffer(_BOUNCE_BYTES)
            self._bounce.buffer = buffer
        return buffer

    def explain(self, error: OSError, key: str, action: str = "read") -> Exception:
        """What a refused call means, as an error for the user."""
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


def takes_odirect(path: str) -> bool:
    """Whether this file can be read with O_DIRECT; False also where it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_DIRECT)
    except OSError:
        return False
    try:
        os.preadv(fd, [aligned_buffer(ALIGNMENT_BYTES)], 0)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
