"""One bandwidth for all processes of a host: when it is free next, in 8 bytes of /dev/shm. For the shaped store; moves no data.

A reservation is read, add and write under a file lock, which the kernel drops when its holder dies. It costs 5 us.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import struct
import threading
from collections.abc import Sequence
from multiprocessing.util import Finalize

from storagebench.clock import Clock
from storagebench.errors import StorageError, UsageError

WIRE_DIR = "/dev/shm"
WIRE_PREFIX = "storagebench-wire-"
_CLOCK_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_WORD_BYTES = 8
# struct flock of Linux: type, whence, start, length, pid. The lock belongs to the open file, so that it also holds between two stores of one process.
_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_UNLOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


class Wire:
    """When the shared bandwidth is free next, as CLOCK_MONOTONIC ns in shared memory. The last one to close it removes the file."""

    def __init__(self, clock_id: str) -> None:
        if not _CLOCK_ID.fullmatch(clock_id):
            raise UsageError(f"storage option clock_id is {clock_id!r}, not 1 to 64 letters, digits or '-'", "leave it out: it is made up")
        self.path = os.path.join(WIRE_DIR, WIRE_PREFIX + clock_id)
        _remove_abandoned()
        try:
            self._fd = _open_shared(self.path)
            self._memory = mmap.mmap(self._fd, _WORD_BYTES)
        except OSError as error:
            raise StorageError(f"cannot share the bandwidth through {self.path}: {error.strerror}", "make /dev/shm writable") from None
        self._lock = threading.Lock()
        self._close = Finalize(self, _leave, (self._fd, self.path), exitpriority=0)  # also at the end of a worker process that never closes

    def reserve_ns(self, clock: Clock, durations_ns: Sequence[int]) -> list[int]:
        """Take the wire for these, one after another and at once; when each ends."""
        ends = []
        with self._lock:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _LOCK)
            try:
                free_ns = max(clock.now_ns(), int.from_bytes(self._memory[:], "little"))
                for duration_ns in durations_ns:
                    free_ns += duration_ns
                    ends.append(free_ns)
                self._memory[:] = free_ns.to_bytes(_WORD_BYTES, "little")
            finally:
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _UNLOCK)
        return ends

    def close(self) -> None:
        """May be called twice."""
        if self._close.still_active():
            self._memory.close()
            self._close()


def _open_shared(path: str) -> int:
    """A descriptor of the file, made if need be; a shared flock on it says that it is in use."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.fstat(fd).st_nlink:
            os.ftruncate(fd, _WORD_BYTES)
            return fd
        os.close(fd)  # its last user removed it in between


def _leave(fd: int, path: str) -> None:
    """Close, and remove the file if nobody else has it open."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            os.unlink(path)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def _remove_abandoned() -> None:
    """Files of killed processes: nobody holds their flock any more."""
    for name in os.listdir(WIRE_DIR):
        if name.startswith(WIRE_PREFIX):
            path = os.path.join(WIRE_DIR, name)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue  # removed by its user, or another user's
            _leave(fd, path)
