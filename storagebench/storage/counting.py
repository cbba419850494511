"""What stores share: a thread-safe tally of what was read, and a stream that checks its length. No store logic in here."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

from storagebench.errors import StorageError
from storagebench.protocols import IOCounters

STREAM_BUFFER_BYTES = 1 << 20


class Tally:
    """Monotone counts of one store. `num_bytes` are bytes that reads returned; only what is known is added. `endpoint`: which of several servers this store
    talks to."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._lock = threading.Lock()
        self._num_bytes = self._requests = self._retries = self._errors = 0
        self._kinds: dict[str, int] = {}
        self._endpoint = endpoint

    def add(self, num_bytes: int = 0, requests: int = 0, errors: int = 0) -> None:
        """Add to the totals; all arguments are counts >= 0. Called for each request, so it makes no objects."""
        with self._lock:
            self._num_bytes += num_bytes
            self._requests += requests
            self._errors += errors

    def retried(self, kind: str, times: int = 1) -> None:
        """Requests were asked again, for that kind of reason."""
        with self._lock:
            self._retries += times
            self._kinds[kind] = self._kinds.get(kind, 0) + times

    def counters(self) -> IOCounters:
        """The totals so far."""
        with self._lock:
            by_endpoint = {self._endpoint: self._num_bytes} if self._endpoint else {}
            return IOCounters(self._num_bytes, self._requests, self._retries, self._errors, dict(self._kinds), by_endpoint)


class _CheckedRaw(io.RawIOBase):
    """Reads an iterator of chunks; the sum of the chunks must be `num_bytes`, no more and no less."""

    def __init__(
        self, chunks: Iterator[bytes | memoryview], num_bytes: int, name: str, tally: Tally, translate: Callable[[Exception], Exception]
    ) -> None:
        self._chunks: Iterator[bytes | memoryview] | None = chunks
        self._rest = memoryview(b"")
        self._num_bytes = num_bytes
        self._done = 0
        self._name = name
        self._tally = tally
        self._translate = translate

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer).cast("B")
        if not self._rest and not self._refill():
            return 0
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _refill(self) -> bool:
        """Fetch the next chunk that is not empty; False at the proper end."""
        if self._chunks is None:
            return False
        try:
            chunk = next((chunk for chunk in self._chunks if len(chunk)), None)
        except Exception as error:
            self._tally.add(errors=1)
            raise self._translate(error) from None
        if chunk is None:
            self._chunks = None
        else:
            self._rest = memoryview(chunk)
            self._done += len(chunk)
            self._tally.add(num_bytes=len(chunk))
        if self._done > self._num_bytes or (chunk is None and self._done < self._num_bytes):
            self._tally.add(errors=1)
            raise StorageError(
                f"{self._name} gave {self._done} bytes in a stream, and {self._num_bytes} were asked for",
                "run `storagebench verify`; if it finds nothing wrong, the server or something on the way cuts its answers",
            )
        return chunk is not None

    def close(self) -> None:
        if not self.closed:
            chunks, self._chunks, self._rest = self._chunks, None, memoryview(b"")
            end = getattr(chunks, "close", None)
            if end is not None:
                end()
        super().close()


def checked_stream(
    chunks: Iterator[bytes | memoryview], num_bytes: int, name: str, tally: Tally, translate: Callable[[Exception], Exception]
) -> io.BufferedReader:
    """A file object over the chunks that ends in StorageError unless they sum up to `num_bytes`.

    `name` is how messages call the object; `translate` turns the client's exceptions into ours. Closing it closes a generator of chunks.
    """
    return io.BufferedReader(_CheckedRaw(chunks, num_bytes, name, tally, translate), STREAM_BUFFER_BYTES)
