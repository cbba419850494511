"""Bytes of a file that others made, as `storagebench.datasets.foreign` asks for them: in pieces, or through a file object for libraries that want one."""

from __future__ import annotations

import io
from typing import Any, Protocol

Place = tuple[int, int]
_LEAST_READ_BYTES = 4096


class Reader(Protocol):
    """Bytes of one file. `beside` gives a whole small file whose name is this one's with more behind it, None where there is none."""

    name: str
    num_bytes: int

    def read(self, offset: int, length: int) -> memoryview:
        """Exactly these bytes; they lie within the file."""

    def beside(self, more: str) -> memoryview | None:
        """A side file, whole."""


class Window:
    """Small reads out of larger pieces."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._start, self._data = reader, 0, memoryview(b"")

    def get(self, offset: int, length: int) -> memoryview:
        low = offset - self._start
        if low < 0 or low + length > len(self._data):
            self._start, low = offset, 0
            self._data = self._reader.read(offset, min(max(length, _LEAST_READ_BYTES), self._reader.num_bytes - offset))
        return self._data[low : low + length]


class Seekable(io.RawIOBase):
    """A reader as a file object, for libraries that want one; they cannot write through it."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._position = reader, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._reader.num_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"a place before the file's beginning ({base + offset})")
        self._position = base + offset
        return self._position

    def readinto(self, target: Any) -> int:
        length = max(0, min(len(target), self._reader.num_bytes - self._position))
        if length:
            target[:length] = self._reader.read(self._position, length)
        self._position += length
        return length
