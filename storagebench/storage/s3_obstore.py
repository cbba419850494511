"""The obstore client (Rust): a whole object is one GET without a HEAD, a range one GET; several at once from threads of ours, because its calls
release the GIL. Its own retries are off: `s3_retry` asks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

from storagebench.protocols import Extent
from storagebench.storage.counting import STREAM_BUFFER_BYTES, Tally
from storagebench.storage.s3_config import Credentials, S3Settings
from storagebench.storage.s3_errors import NotPartialError, ReadFailedError, error_code, not_partial, too_large, truncated, wrong_answer, wrong_size
from storagebench.storage.s3_obstore_client import make_obstore
from storagebench.storage.s3_retry import Retrier

# obstore has one limit of time for all requests of a client, which includes the body: longer ones go through a client of their own.
_SHORT_BYTES = 8 * 2**20
_LONG_LIMIT = timedelta(days=1)
_NOT_PARTIAL = "non-partial response"


class ObstoreClient:
    """Reads and single PUTs. Thread-safe. `read_range` reads a range: it calls `native_range`, or another client where the server has no ranges."""

    def __init__(
        self,
        settings: S3Settings,
        credentials: Credentials,
        tally: Tally,
        retrier: Retrier,
        read_range: Callable[[Extent], memoryview],
        has_ranges: Callable[[], bool],
        size_of: Callable[[str], int | None],
    ) -> None:
        """`has_ranges`: whether obstore can read ranges there, as far as is known. `size_of`: what the server says when it is asked for an object's size alone."""
        import obstore

        self._obstore = obstore
        self._settings = settings
        self._tally = tally
        self._retrier = retrier
        self._read_range = read_range
        self._has_ranges = has_ranges
        self._size_of = size_of
        self._store = make_obstore(settings, credentials, timedelta(seconds=settings.retry.longest_s(_SHORT_BYTES)))
        self._credentials = credentials
        self._long_store: Any = None
        self._longer: set[str] = set()  # keys whose object is longer than an extent at its front: these extents are ranges, not whole objects
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        """The extents in order, up to `concurrency` at a time."""
        if len(extents) == 1:
            return [self._read_one(extents[0])]
        futures = [self._threads().submit(self._read_one, extent) for extent in extents]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # after an error too, nothing is in flight when this returns

    def expect_longer(self, key: str) -> None:
        """Extents at the front of this object are ranges, not whole objects."""
        if key not in self._longer:
            with self._lock:
                self._longer.add(key)

    def _read_one(self, extent: Extent) -> memoryview:
        try:
            return self._retrier.call(lambda: self._whole_or_range(extent))
        except Exception as error:
            raise ReadFailedError(extent.key, error) from None

    def _whole_or_range(self, extent: Extent) -> memoryview:
        key, length = extent.key, extent.length or 0
        if extent.offset or key in self._longer:
            return self._read_range(extent) if length else memoryview(b"")
        result, _ = self._get(key, length)
        if not self._is_longer(result, key, length):
            return self._checked(result.bytes(), key, length)
        del result  # drops the answer unread
        return self._read_range(extent) if length else memoryview(b"")

    def _is_longer(self, result: Any, key: str, length: int) -> bool:
        """Whether this object has more than these bytes, which is then remembered. Raises DatasetError where it has fewer, and StorageError where only this
        answer has: obstore takes a 206 for an answer to a GET of the whole object, and does not show that it was one."""
        size = int(result.meta["size"])
        if size < length:
            if (self._size_of(key) or 0) >= length:
                raise wrong_answer(self._settings, key, f"the whole object, which has {length} bytes", f"{size} bytes")
            raise truncated(self._settings, key, size, length)
        if size > length:
            self.expect_longer(key)
        return size > length

    def _checked_range(self, body: Any, extent: Extent) -> memoryview:
        """obstore itself refuses an answer that is another range. Raises StorageError where the object ends before the extent does."""
        if len(body) < (extent.length or 0):
            end = extent.offset + (extent.length or 0)
            raise truncated(self._settings, extent.key, extent.offset + len(body), end)
        return self._checked(body, extent.key, extent.length or 0)

    async def read_async(self, extent: Extent, native_ranges: bool) -> memoryview:
        """As `read` of one extent, on the running event loop; `native_ranges`: whether ranges are obstore's to read, with 206 for an answer."""
        import asyncio

        async def attempt() -> memoryview:
            async with asyncio.timeout(self._settings.retry.longest_s(extent.length or 0)):
                return await self._read_once_async(extent, native_ranges)

        try:
            return await self._retrier.call_async(attempt)
        except Exception as error:
            raise ReadFailedError(extent.key, error) from None

    async def _read_once_async(self, extent: Extent, native_ranges: bool) -> memoryview:
        import asyncio

        key, length = extent.key, extent.length or 0
        name = self._settings.base + key
        result: Any
        if not extent.offset and key not in self._longer:
            self._tally.add(requests=1)
            result = await self._obstore.get_async(self._store_for(length), name)
            if not self._is_longer(result, key, length):
                return self._checked(await result.bytes_async(), key, length)
            del result  # drops the answer unread
        if not length:
            return memoryview(b"")
        if not native_ranges:
            return await asyncio.get_running_loop().run_in_executor(None, self._read_range, extent)
        self._tally.add(requests=1)
        try:
            return self._checked_range(await self._obstore.get_range_async(self._store_for(length), name, start=extent.offset, length=length), extent)
        except self._obstore.exceptions.GenericError as error:
            if _NOT_PARTIAL in str(error):
                raise not_partial(self._settings, key) from None
            raise

    def native_range(self, extent: Extent) -> memoryview:
        """One range GET, as one call: header and body apart would be two hand-overs between threads. Raises NotPartialError where the server answers it with 200."""
        self._tally.add(requests=1)
        try:
            body = self._obstore.get_range(
                self._store_for(extent.length or 0), self._settings.base + extent.key, start=extent.offset, length=extent.length or 0
            )
        except self._obstore.exceptions.GenericError as error:
            if _NOT_PARTIAL in str(error):
                raise NotPartialError from None
            raise
        return self._checked_range(body, extent)

    def whole(self, key: str, limit_bytes: int) -> memoryview:
        """An object of unknown size. Raises StorageError above the limit, before its body is read."""

        def attempt() -> memoryview:
            result, size = self._get(key, limit_bytes)
            if size > limit_bytes:
                raise too_large(self._settings, key, size, limit_bytes)
            return self._checked(result.bytes(), key, size)

        return self._retrier.call(attempt)

    def chunks(self, key: str, num_bytes: int, start: int) -> Iterator[Any]:
        """The object's body from `start` on as it comes, in chunks of about 1 MiB. Where the server has no ranges, all of it comes again."""
        if start and self._has_ranges():
            self._tally.add(requests=1)
            found: Any = self._obstore.get(self._store_for(num_bytes), self._settings.base + key, options={"range": (start, num_bytes)})
            yield from found.stream(min_chunk_size=STREAM_BUFFER_BYTES)
            return
        result, size = self._get(key, num_bytes)
        if self._is_longer(result, key, num_bytes):
            raise wrong_size(self._settings, key, size, num_bytes)
        for chunk in result.stream(min_chunk_size=STREAM_BUFFER_BYTES):
            again = min(start, len(chunk))
            self._tally.add(num_bytes=again)
            start -= again
            yield memoryview(chunk)[again:] if again else chunk

    def put(self, key: str, data: bytes) -> None:
        """One PUT."""

        def attempt() -> None:
            self._tally.add(requests=1)
            self._obstore.put(self._store_for(len(data)), self._settings.base + key, data, use_multipart=False)

        self._retrier.call(attempt)

    def range_status(self, key: str) -> bool | None:
        """Whether the server answers a small range GET of this key with 206; None where there is no such key."""
        try:
            self._retrier.call(lambda: self.native_range(Extent(key, 1, 1)))
        except NotPartialError:
            return False
        except Exception as error:
            if isinstance(error, FileNotFoundError) and error_code(error) != "NoSuchBucket":
                return None
            raise
        return True

    def close(self) -> None:
        """Join the threads. May be called twice."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _store_for(self, num_bytes: int) -> Any:
        """obstore's client for a request of so many bytes."""
        if num_bytes <= _SHORT_BYTES:
            return self._store
        with self._lock:
            if self._long_store is None:
                self._long_store = make_obstore(self._settings, self._credentials, _LONG_LIMIT)
            return self._long_store

    def _get(self, key: str, num_bytes: int) -> tuple[Any, int]:
        """The answer, its body unread, and the object's size; `num_bytes` are expected."""
        self._tally.add(requests=1)
        result = self._obstore.get(self._store_for(num_bytes), self._settings.base + key)
        return result, int(result.meta["size"])

    def _checked(self, body: Any, key: str, length: int) -> memoryview:
        data = memoryview(body)
        if len(data) != length:
            raise wrong_answer(self._settings, key, f"{length} bytes", f"{len(data)} bytes", "truncated")
        self._tally.add(num_bytes=length)
        return data

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._settings.concurrency, "storagebench-s3")
            return self._pool
