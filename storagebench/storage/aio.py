"""Linux native AIO (io_setup(2) ... io_getevents(2)) through ctypes: several O_DIRECT reads in flight from one thread, submitted in batches.

Asynchronous for O_DIRECT only; buffered reads block in io_submit(2), so nothing here is used for them. No library is needed, and no privilege.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator

_NUMBERS = {
    "x86_64": {"setup": 206, "destroy": 207, "getevents": 208, "submit": 209},
    "aarch64": {"setup": 0, "destroy": 1, "submit": 2, "getevents": 4},
}
_OPCODE_PREAD = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Control(ctypes.Structure):
    """struct iocb of linux/aio_abi.h, little-endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("num_bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("result_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_ = (("data", ctypes.c_uint64), ("control", ctypes.c_uint64), ("result", ctypes.c_int64), ("result2", ctypes.c_int64))


class Ring:
    """`depth` slots, each for one read in flight, and their kernel context. For one thread. Raises OSError where the kernel refuses it.

    The memory that is read into must stay until the read is done, or `close` has returned.
    """

    def __init__(self, depth: int) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or platform.system() != "Linux":
            raise OSError(95, "native AIO is known here on Linux with x86_64 or aarch64 only")
        self._submit, self._getevents, self._destroy = (ctypes.c_long(numbers[name]) for name in ("submit", "getevents", "destroy"))
        context = ctypes.c_ulong(0)
        if _libc.syscall(ctypes.c_long(numbers["setup"]), ctypes.c_long(depth), ctypes.byref(context)) != 0:
            raise _failed()
        self._context = context
        self._controls = (_Control * depth)()
        self._slots = list(self._controls)  # indexing the array makes a new object each time
        for slot, control in enumerate(self._slots):
            control.data, control.opcode = slot, _OPCODE_PREAD
        self._addresses = [ctypes.addressof(control) for control in self._controls]
        self._pending = (ctypes.c_void_p * depth)()
        self._num_pending = 0
        self._events = (_Event * depth)()
        self._depth, self._one = ctypes.c_long(depth), ctypes.c_long(1)

    def put(self, slot: int, fd: int, offset: int, num_bytes: int, address: int) -> None:
        """Have this free slot read `num_bytes` at `offset` to `address`, all multiples of the page size; sent with the next `send`."""
        control = self._slots[slot]
        control.fd, control.offset, control.num_bytes, control.buffer = fd, offset, num_bytes, address
        self._pending[self._num_pending] = self._addresses[slot]
        self._num_pending += 1

    def send(self) -> None:
        """Submit all that was put. Raises OSError."""
        sent = 0
        while sent < self._num_pending:
            rest = ctypes.byref(self._pending, sent * ctypes.sizeof(ctypes.c_void_p))
            done = _libc.syscall(self._submit, self._context, ctypes.c_long(self._num_pending - sent), rest)
            if done <= 0:
                raise _failed()
            sent += done
        self._num_pending = 0

    def wait(self) -> Iterator[tuple[int, int]]:
        """Wait for at least one read; (slot, bytes read or -errno) of each that is done. Raises OSError where waiting itself fails."""
        done = _libc.syscall(self._getevents, self._context, self._one, self._depth, self._events, None)
        if done < 0:
            if ctypes.get_errno() == 4:  # EINTR
                return
            raise _failed()
        for index in range(done):
            event = self._events[index]
            yield event.data, event.result

    def close(self) -> None:
        """Destroy the context; the kernel waits for what is in flight."""
        _libc.syscall(self._destroy, self._context)


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def is_available() -> bool:
    """Whether this kernel (and its sandbox) gives native AIO."""
    try:
        Ring(1).close()
    except OSError:
        return False
    return True
