"""The s3fs client at its best settings: what its `cat` does with `max_concurrency=1`, many objects in flight on one event loop, each object exactly
one GET and no HEAD. The calls are s3fs's own (`_call_s3`), so that Content-Length is checked before a body is read and Content-Range at all (s3fs
itself hands over short, foreign and full answers to a range), and so that an error names its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from storagebench.protocols import Extent
from storagebench.storage.counting import STREAM_BUFFER_BYTES, Tally
from storagebench.storage.loop_thread import LoopThread
from storagebench.storage.s3_config import CONNECT_TIMEOUT_S, Credentials, S3Settings
from storagebench.storage.s3_control import counted, watch_requests
from storagebench.storage.s3_errors import ReadFailedError, check_range, error_code, too_large, truncated, wrong_answer, wrong_size
from storagebench.storage.s3_retry import Retrier
from storagebench.storage.s3_s3fs_client import make_s3fs


class S3fsClient:
    """Reads and single PUTs on an event loop of this store, in one thread, as s3fs has one per process. Thread-safe.

    `other_ranges` reads ranges instead of s3fs; None: s3fs reads them.
    """

    def __init__(
        self,
        settings: S3Settings,
        credentials: Credentials,
        tally: Tally,
        retrier: Retrier,
        other_ranges: Callable[[Extent], memoryview] | None,
    ) -> None:
        self._settings = settings
        self._tally = tally
        self._retrier = retrier
        self._other_ranges = other_ranges
        self._longer: set[str] = set()  # only ever grows; see ObstoreClient
        self._fs: Any = None
        self._loop = LoopThread("storagebench-s3fs")
        self._run = self._loop.run
        try:
            self._fs = make_s3fs(settings, credentials)
            watch_requests(self._run(self._fs.set_session()).meta.events)
        except BaseException:
            self.close()
            raise

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        """The extents in order, up to `concurrency` in flight."""
        found = self._run(self._read_all(extents))
        return [self._by_other(extent) if data is None else data for extent, data in zip(extents, found, strict=True)]

    def _by_other(self, extent: Extent) -> memoryview:
        other = self._other_ranges
        assert other is not None
        try:
            return self._retrier.call(lambda: other(extent))
        except Exception as error:
            raise ReadFailedError(extent.key, error) from None

    def whole(self, key: str, limit_bytes: int) -> memoryview:
        """An object of unknown size. Raises StorageError above the limit, before its body is read."""

        def check(size: int) -> bool:
            if size > limit_bytes:
                raise too_large(self._settings, key, size, limit_bytes)
            return True

        data = self._run(self._get(key, check))
        assert data is not None
        return data

    def chunks(self, key: str, num_bytes: int, start: int) -> Iterator[bytes]:
        """The object's body from `start` on as it comes, in chunks of 1 MiB."""
        answer = self._run(self._open(key, f"bytes={start}-{num_bytes - 1}" if start else None))
        body, size = answer["Body"], int(answer["ContentLength"])
        try:
            if start:
                check_range(self._settings, Extent(key, start, num_bytes - start), answer.get("ContentRange") or "", size)
            else:
                self._refuse_part(answer, key)
                if size != num_bytes:
                    raise wrong_size(self._settings, key, size, num_bytes)
            while chunk := self._run(_fill(body)):
                yield chunk
        finally:
            self._loop.post(body.close)

    def put(self, key: str, data: bytes) -> None:
        """One PUT."""

        async def send() -> None:
            with counted(self._tally):
                await self._fs._call_s3("put_object", Bucket=self._settings.bucket, Key=self._settings.base + key, Body=data)

        self._run(self._retrier.call_async(send))

    def range_status(self, key: str) -> bool | None:
        """Whether the server answers a small range GET of this key with 206; None where there is no such key."""
        try:
            answer = self._run(self._retrier.call_async(lambda: self._open(key, "bytes=1-1")))
        except FileNotFoundError as error:
            if error_code(error) == "NoSuchBucket":
                raise
            return None
        self._loop.post(answer["Body"].close)
        return bool(answer["ResponseMetadata"]["HTTPStatusCode"] == 206)

    def close(self) -> None:
        """Close the connections, end the loop and join its thread. May be called twice."""
        if not self._loop.closed:
            self._loop.close(_disconnect(self._fs))

    async def _read_all(self, extents: Sequence[Extent]) -> list[memoryview | None]:
        gate = asyncio.Semaphore(self._settings.concurrency)

        async def one(extent: Extent) -> memoryview | None:
            async with gate:
                try:
                    return await self._read_one(extent)
                except Exception as error:
                    raise ReadFailedError(extent.key, error) from None

        try:
            async with asyncio.TaskGroup() as group:  # the first failure cancels the others, and nothing is in flight when this ends
                tasks = [group.create_task(one(extent)) for extent in extents]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    def expect_longer(self, key: str) -> None:
        """Extents at the front of this object are ranges, not whole objects."""
        self._longer.add(key)

    async def _read_one(self, extent: Extent) -> memoryview | None:
        """The extent, or None where the other client is to read it."""
        key, length = extent.key, extent.length or 0

        def check(size: int) -> bool:
            if size < length:
                raise truncated(self._settings, key, size, length)
            return size == length

        if extent.offset == 0 and key not in self._longer:
            data = await self._get(key, check)
            if data is not None:
                return data
            self._longer.add(key)
        if length == 0:
            return memoryview(b"")
        return None if self._other_ranges else await self._range(extent)

    async def _get(self, key: str, check: Callable[[int], bool]) -> memoryview | None:
        """The whole object as a memoryview; None where `check` says no to its size (the body then stays unread)."""

        async def once() -> memoryview | None:
            answer = await self._open(key)
            try:
                self._refuse_part(answer, key)
                size = int(answer["ContentLength"])
                return self._checked(await self._body(answer, size), key, size) if check(size) else None
            finally:
                answer["Body"].close()

        return await self._retrier.call_async(once)

    def _refuse_part(self, answer: Any, key: str) -> None:
        """s3fs itself takes a 206 for an answer to a GET of the whole object. Raises StorageError for one."""
        if answer.get("ContentRange"):
            raise wrong_answer(self._settings, key, "the whole object", answer["ContentRange"])

    async def _range(self, extent: Extent) -> memoryview:
        """A range GET, with the answer's Content-Range and length checked. A 200 that has the right Content-Range (rclone's) is taken."""
        length = extent.length or 0

        async def once() -> memoryview:
            answer = await self._open(extent.key, f"bytes={extent.offset}-{extent.offset + length - 1}")
            try:
                check_range(self._settings, extent, answer.get("ContentRange") or "", int(answer["ContentLength"]))
                return self._checked(await self._body(answer, length), extent.key, length)
            finally:
                answer["Body"].close()

        return await self._retrier.call_async(once)

    async def _body(self, answer: Any, num_bytes: int) -> bytes:
        """All of it. aiohttp's own timeout is between two reads: bytes that drop in keep it away."""
        async with asyncio.timeout(self._settings.retry.longest_s(num_bytes)):
            body: bytes = await answer["Body"].read()
            return body

    def _checked(self, data: bytes, key: str, length: int) -> memoryview:
        if len(data) != length:
            raise wrong_answer(self._settings, key, f"{length} bytes", f"{len(data)} bytes", "truncated")
        self._tally.add(num_bytes=length)
        return memoryview(data)

    async def _open(self, key: str, byte_range: str | None = None) -> Any:
        """One GET; the answer with its body unread."""
        extra = {"Range": byte_range} if byte_range else {}
        longest_s = CONNECT_TIMEOUT_S + 2 * self._settings.retry.timeout_s  # a header that comes in drops keeps aiohttp's own timeout away
        with counted(self._tally):
            work = self._fs._call_s3("get_object", Bucket=self._settings.bucket, Key=self._settings.base + key, **extra)
            try:
                return await asyncio.wait_for(work, longest_s)
            except TimeoutError:
                raise wrong_answer(self._settings, key, "an answer", f"none within {longest_s:g} s", "timeout") from None


async def _fill(body: Any) -> bytes:
    """Up to 1 MiB of a body; fewer only at its end."""
    parts: list[bytes] = []
    left = STREAM_BUFFER_BYTES
    while left and (part := await body.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


async def _disconnect(fs: Any) -> None:
    if fs is not None and fs._s3 is not None:
        await fs._s3.__aexit__(None, None, None)
