"""The S3 store: `s3://bucket/prefix` through obstore (default) or s3fs, every answer's length checked and every byte counted.

Never touches anything above objects: no bucket is made or removed, and only named keys are deleted. Credentials stay in this process's memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from storagebench.errors import StorageBenchError
from storagebench.manifest import MANIFEST_KEY
from storagebench.protocols import Extent, IOCounters, ObjectInfo, Sink, StoreSpec
from storagebench.storage.counting import Tally, checked_stream
from storagebench.storage.s3_arrow import ArrowRanges, arrow_filesystem
from storagebench.storage.s3_config import resolve
from storagebench.storage.s3_control import S3Control, S3Sink
from storagebench.storage.s3_errors import NotPartialError, ReadFailedError, error_code, explain, missing_bucket, not_partial, wrong_answer
from storagebench.storage.s3_retry import Retrier

__all__ = ["S3Store", "arrow_filesystem"]


class S3Client(Protocol):
    """What a client library does for the store. Keys are without the prefix. Raises its library's exceptions; the store translates them."""

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        """The extents in order, several in flight; an extent that is the whole object is one GET. Lengths are checked, bytes counted."""

    def expect_longer(self, key: str) -> None:
        """Extents at the front of this object are parts of it."""

    def whole(self, key: str, limit_bytes: int) -> memoryview:
        """An object of unknown size up to the limit."""

    def chunks(self, key: str, num_bytes: int, start: int) -> Iterator[Any]:
        """The body of an object of that size as it comes, from the byte `start` on, in one attempt. Not counted here, but for bytes before it that came again."""

    def put(self, key: str, data: bytes) -> None:
        """One PUT."""

    def range_status(self, key: str) -> bool | None:
        """Whether a small range GET of this key is answered with 206; None where there is no such key."""

    def close(self) -> None:
        """Release threads and connections. May be called twice."""


class S3Store:
    """Objects below a prefix.

    Options: `endpoint_url`, `region`, `client` (obstore, s3fs), `ranges` (auto; native; arrow), `native_ranges` (true or false: what a store opened
    before found out, so that this one does not ask), `anonymous` (true), `concurrency` (requests in flight, 1 to 1024), `retries`,
    `retry_budget` and `timeout` (`s3_policy`), `endpoint_index` (which of several addresses in `endpoint_url`, modulo their number). `spec` gets
    `native_ranges` as soon as it is known: hand that spec to workers. Raises UsageError (options), StorageError (credentials, server, bucket).
    """

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self._settings, self._credentials = resolve(spec)
        self._credentials.current()
        self._tally = Tally(self._settings.endpoint if len(self._settings.endpoints) > 1 else None)
        self._retrier = Retrier(self._settings.retry, self._tally)
        self._lock = threading.Lock()
        self._ranges_known = self._settings.native_ranges is not None
        self.native_ranges = bool(self._settings.native_ranges)  # known to answer a range request with 206 and just these bytes
        self._control = S3Control(self._settings, self._credentials, self._tally, self._retrier)
        self._arrow = ArrowRanges(self._settings, self._credentials, self._tally)
        self._client: S3Client = self._make_client()
        if not self._ranges_known:
            try:
                self._probe()
            except BaseException:
                self.close()
                raise

    @property
    def url(self) -> str:
        return self.spec.url

    def exists(self, key: str) -> bool:
        return self._control.size(key) is not None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._control.list(prefix)

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        for extent in extents:
            if extent.length is None:
                raise ValueError(f"extent of {extent.key} has no length")
        if not extents:
            return []
        try:
            return self._client.read(extents)
        except Exception as error:
            raise self._failed(error, extents[0].key, "read") from None

    async def read_async(self, extent: Extent) -> memoryview:
        """One extent, on an event loop of the caller's; only with the client obstore. Ranges that another client reads occupy a thread of the loop's."""
        try:
            return await self._obstore.read_async(extent, self.native_ranges and self._settings.ranges != "arrow")
        except Exception as error:
            raise self._failed(error, extent.key, "read") from None

    def expect_longer(self, key: str) -> None:
        """Tell the client that extents at the front of this object are parts of it, so that it does not ask for the whole."""
        self._client.expect_longer(key)

    def read_into(self, extent: Extent, target: memoryview) -> None:
        if extent.length != len(target):
            raise ValueError(f"extent of {extent.key} has length {extent.length}, and the target {len(target)}")
        target[:] = self.read([extent])[0]

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        try:
            return self._client.whole(key, limit_bytes)
        except Exception as error:
            raise self._failed(error, key, "read") from None

    def open_stream(self, key: str, num_bytes: int) -> Any:
        def translate(error: Exception) -> Exception:
            return self._explain(error, key, "read")

        stream = checked_stream(self._chunks(key, num_bytes), num_bytes, self._settings.name(key), self._tally, translate)
        try:
            stream.peek(1)  # sends the request: a missing or a truncated object is reported here
        except BaseException:
            stream.close()
            raise
        return stream

    def _chunks(self, key: str, num_bytes: int) -> Iterator[Any]:
        """The object's bytes, each once: a body that breaks off goes on behind what came of it."""
        attempts, done = self._retrier.begin(), 0
        while True:
            try:
                for chunk in self._client.chunks(key, num_bytes, done):
                    if len(chunk):
                        done += len(chunk)
                        attempts.progressed()
                        yield chunk
                if done >= num_bytes:
                    return
                raise wrong_answer(self._settings, key, f"{num_bytes} bytes", f"{done} bytes", "truncated")
            except Exception as error:
                wait_s = attempts.failed(error)
            time.sleep(wait_s)

    @contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        sink = S3Sink(self._control, self._settings, key, self._client.put)
        try:
            yield sink
            try:
                sink.commit()
            except Exception as error:
                raise self._failed(error, key, "write") from None
        except BaseException as error:
            try:
                sink.abort()
            except StorageBenchError as left:
                error.add_note(f"the multipart upload of {key} could not be aborted, and its parts may still take space: {left.message}")
            raise
        self._arrow.forget(key)

    def delete(self, keys: Iterable[str]) -> None:
        todo = list(keys)
        self._control.delete(todo)
        for key in todo:
            self._arrow.forget(key)

    def forget(self, key: str) -> None:
        """Another store wrote or deleted this object: nothing that was kept of it holds."""
        self._arrow.forget(key)

    def counters(self) -> IOCounters:
        return self._tally.counters()

    def close(self) -> None:
        self._client.close()
        self._arrow.close()
        self._control.close()

    def _make_client(self) -> S3Client:
        settings = self._settings
        if settings.client == "s3fs":
            from storagebench.storage.s3_s3fs import S3fsClient

            return S3fsClient(settings, self._credentials, self._tally, self._retrier, self._arrow.read if settings.ranges == "arrow" else None)
        from storagebench.storage.s3_obstore import ObstoreClient

        self._obstore = ObstoreClient(
            settings,
            self._credentials,
            self._tally,
            self._retrier,
            self._read_range,
            lambda: self.native_ranges and settings.ranges != "arrow",
            self._control.size,
        )
        return self._obstore

    def _read_range(self, extent: Extent) -> memoryview:
        """A range for obstore, which refuses servers that answer with 200: these ranges go through pyarrow."""
        if self._settings.ranges == "arrow" or (self._settings.ranges == "auto" and self._ranges_known and not self.native_ranges):
            return self._arrow.read(extent)
        try:
            data = self._obstore.native_range(extent)
        except NotPartialError:
            if self._settings.ranges == "native" or self.native_ranges:
                raise not_partial(self._settings, extent.key) from None
            self._learn(False)
            return self._arrow.read(extent)
        if not self._ranges_known:
            self._learn(True)
        return data

    def _probe(self) -> None:
        """Find out at open whether server, bucket and credentials work, and how ranges are answered if there is a dataset already."""
        try:
            answer = self._client.range_status(MANIFEST_KEY)
            if answer is False:  # once more, since a single wrong answer would send all ranges another way
                answer = self._client.range_status(MANIFEST_KEY)
        except Exception as error:
            if error_code(error) not in ("InvalidRange", "416"):  # which says that ranges are done as the standard has them
                raise self._explain(error, MANIFEST_KEY, "read") from None
            answer = True
        if answer is not None:
            self._learn(answer)
        elif not self._control.bucket_exists():
            raise missing_bucket(self._settings)

    def _learn(self, native: bool) -> None:
        with self._lock:
            self.native_ranges, self._ranges_known = native, True
            self.spec = replace(self.spec, options={**self.spec.options, "native_ranges": str(native).lower()})

    def _failed(self, error: Exception, key: str, action: str) -> StorageBenchError:
        """Count the client's error and explain it; `key` is what was asked for where the error does not know."""
        self._tally.add(errors=1)
        if isinstance(error, ReadFailedError):
            return self._explain(error.error, error.key, action)
        return self._explain(error, key, action)

    def _explain(self, error: Exception, key: str, action: str) -> StorageBenchError:
        return explain(error, self._settings, self._credentials, key, action, self._control.bucket_exists)
