"""The page cache of this host, per file and without root: drop, fill, and prove. Linux only.

Dropping is fsync (of what is not written yet) + posix_fadvise(DONTNEED), a hint that the kernel follows for clean, unmapped pages; so it is always
proved afterwards with cachestat(2) (Linux 6.5) or mincore. Opening a file to drop its pages warms its metadata: callers say `metadata_cache: warm`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

_SYS_CACHESTAT = 451
_PAGE_BYTES = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("nr_cache", "nr_dirty", "nr_writeback", "nr_evicted", "nr_recently_evicted"))


@dataclass(frozen=True)
class Residency:
    """How much of some files is in the page cache. `cached_bytes` None: neither cachestat nor mincore could tell."""

    total_bytes: int
    cached_bytes: int | None
    method: str

    @property
    def fraction(self) -> float | None:
        """Cached share, 0..1; None where unknown or where there are no bytes."""
        return None if self.cached_bytes is None or self.total_bytes == 0 else self.cached_bytes / self.total_bytes


def drop(paths: Iterable[str]) -> None:
    """Write back and drop the pages of these files. OSError where one cannot be opened."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = _cachestat(fd)
            if found is None or found.nr_dirty or found.nr_writeback:
                os.fsync(fd)  # a flush of the disk's cache each, so not for files that are written: milliseconds, times the files
            if found is not None and found.nr_cache == 0:
                continue
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def fill(paths: Iterable[str]) -> None:
    """Read these files once, so that their pages are cached (as far as memory allows)."""
    buffer = memoryview(bytearray(4 << 20))
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while os.readv(fd, [buffer]):
                pass
        finally:
            os.close(fd)


def residency(paths: Iterable[str]) -> Residency:
    """Cached bytes of these files, each file's last page counted up to its size at most."""
    total, cached, method = 0, 0, "cachestat"
    unknown = False
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            total += size
            found = _cachestat(fd)
            pages = None if found is None else int(found.nr_cache)
            if pages is None:
                method = "mincore"
                pages = _mincore(fd, size)
            if pages is None:
                unknown = True
            else:
                cached += min(pages * _PAGE_BYTES, size)
        finally:
            os.close(fd)
    return Residency(total, None if unknown else cached, "unproven" if unknown else method)


def _cachestat(fd: int) -> _CacheStat | None:
    """The kernel's count of this file's pages; None where it has no such call."""
    whole, found = _Range(0, 0), _CacheStat()
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(whole), ctypes.byref(found), 0) != 0:
        return None
    return found


def _mincore(fd: int, size: int) -> int | None:
    """Resident pages by mincore, which answers only for files that we may write or own (Linux 5.2); else None."""
    if size == 0:
        return 0
    info = os.fstat(fd)
    if os.geteuid() not in (0, info.st_uid):
        return None
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    try:
        pages = -(-size // _PAGE_BYTES)
        vector = (ctypes.c_ubyte * pages)()
        if _libc.mincore(address, size, vector) != 0:
            return None
        return sum(byte & 1 for byte in vector)
    finally:
        _libc.munmap(address, size)
