"""The S3 requests that are no reads: list, head, delete, bucket probe, multipart upload. One client (botocore) for all of them, because its error
codes tell a missing bucket from a missing key, and because it can abort an upload. It is made at the first use: a worker that only reads never pays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from storagebench.errors import StorageError
from storagebench.protocols import ObjectInfo
from storagebench.storage.counting import Tally
from storagebench.storage.s3_config import Credentials, S3Settings, boto_config, boto_session
from storagebench.storage.s3_errors import error_code, explain
from storagebench.storage.s3_retry import Retrier

PART_BYTES = 16 << 20
_PARTS_PER_SIZE = 1000  # after so many parts the next are larger, so that 10 000 parts (the limit of S3) reach 880 GiB
_DELETE_BATCH = 1000

_sends: ContextVar[list[int] | None] = ContextVar("storagebench_s3_sends", default=None)
_T = TypeVar("_T")


def watch_requests(events: Any) -> None:
    """Have botocore's event hooks count every HTTP request that it really sends, redirected ones included, for `counted`."""
    events.register("before-send.s3", _on_send)


def _on_send(**_: Any) -> None:
    sends = _sends.get()
    if sends is not None:
        sends[0] += 1


@contextmanager
def counted(tally: Tally) -> Iterator[None]:
    """One attempt: what is sent inside is counted as requests. botocore's retries are off, so that more than one is a redirect to another region's server.
    Works in threads and in asyncio tasks."""
    sends = [0]
    token = _sends.set(sends)
    try:
        yield
    finally:
        _sends.reset(token)
        tally.add(requests=sends[0])
        if sends[0] > 1:
            tally.retried("redirect", sends[0] - 1)


def _request(method: str, **arguments: Any) -> Callable[[Any], Any]:
    """A botocore call that is still to be sent."""
    return lambda client: getattr(client, method)(**arguments)


class S3Control:
    """Control requests of one store. Keys are whole keys, with the store's prefix. Thread-safe."""

    def __init__(self, settings: S3Settings, credentials: Credentials, tally: Tally, retrier: Retrier) -> None:
        self._settings = settings
        self._credentials = credentials
        self._tally = tally
        self._retrier = retrier
        self._lock = threading.Lock()
        self._made: Any = None

    def call(self, action: str, key: str, request: Callable[[Any], _T]) -> _T:
        """Do one request. `action` and `key` (without prefix) are for the message. Raises StorageError, DatasetError."""

        def attempt() -> _T:
            client = self._client()
            with counted(self._tally):
                return request(client)

        try:
            return self._retrier.call(attempt)
        except Exception as error:
            self._tally.add(errors=1)
            raise explain(error, self._settings, self._credentials, key, action, self.bucket_exists) from None

    def bucket_exists(self) -> bool:
        """Whether the bucket is there; True where the server will not say (403)."""
        try:
            client = self._client()
            with counted(self._tally):
                client.head_bucket(Bucket=self._settings.bucket)
        except Exception as error:
            return error_code(error) not in ("404", "NoSuchBucket")
        return True

    def size(self, key: str) -> int | None:
        """Bytes of the object, None where there is none. Raises StorageError where the bucket is missing or the request is refused."""

        def head(client: Any) -> int | None:
            try:
                return int(client.head_object(Bucket=self._settings.bucket, Key=self._settings.base + key)["ContentLength"])
            except client.exceptions.ClientError as error:
                if error_code(error) in ("404", "NoSuchKey") and self.bucket_exists():
                    return None
                raise

        return self.call("look up", key, head)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below base + prefix, a page of up to 1000 a request; keys come without the base."""
        base = self._settings.base
        more: dict[str, str] = {}
        while True:
            page = self.call("list", prefix, _request("list_objects_v2", Bucket=self._settings.bucket, Prefix=base + prefix, **more))
            for entry in page.get("Contents", ()):
                if entry["Key"].startswith(base + prefix):
                    yield ObjectInfo(entry["Key"][len(base) :], int(entry["Size"]))
            if not page.get("IsTruncated"):
                return
            if page.get("NextContinuationToken") in (None, more.get("ContinuationToken")):
                raise StorageError(f"{self._settings.server} does not go on with the listing of {self._settings.url}", "use --listing manifest")
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> None:
        """Remove exactly these keys; missing ones are no error."""
        todo = list(keys)
        for start in range(0, len(todo), _DELETE_BATCH):
            names = [{"Key": self._settings.base + key} for key in todo[start : start + _DELETE_BATCH]]
            request = _request("delete_objects", Bucket=self._settings.bucket, Delete={"Objects": names, "Quiet": True})
            answer = self.call("delete", todo[start], request)
            failed = [entry for entry in answer.get("Errors", ()) if entry.get("Code") not in ("NoSuchKey", "404")]
            if failed:
                raise StorageError(
                    f"{self._settings.server} did not delete {len(failed)} objects, {failed[0].get('Key')} among them ({failed[0].get('Code')})",
                    "check that you may delete there (s3:DeleteObject)",
                )

    def close(self) -> None:
        """Close the connections. May be called twice."""
        with self._lock:
            client, self._made = self._made, None
        if client is not None:
            client.close()

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.session import Session

        options = boto_config(self._settings)
        if self._credentials.anonymous:
            options["signature_version"] = UNSIGNED
        # A session of its own finds the same keys in the same chain, and refreshes them by itself.
        client = boto_session(Session).create_client(
            "s3", region_name=self._settings.region, endpoint_url=self._settings.endpoint, config=Config(**options)
        )
        watch_requests(client.meta.events)
        return client


class S3Sink:
    """Writes one object: up to one part by a single PUT, more by a multipart upload. Holds one part in memory."""

    def __init__(self, control: S3Control, settings: S3Settings, key: str, put: Callable[[str, bytes], None]) -> None:
        self._control = control
        self._place = {"Bucket": settings.bucket, "Key": settings.base + key}
        self._key = key
        self._put = put
        self._buffer = bytearray()
        self._upload: dict[str, str] = {}
        self._parts: list[dict[str, Any]] = []

    def write(self, data: Any, /) -> int:
        """Append; the memory may be reused afterwards."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            size = PART_BYTES * (1 + len(self._parts) // _PARTS_PER_SIZE)
            chunk = view[done : done + size - len(self._buffer)]
            self._buffer += chunk
            done += len(chunk)
            if len(self._buffer) == size and done < len(view):
                self._flush()
        return len(view)

    def commit(self) -> None:
        """Make the object appear."""
        if not self._upload:
            self._put(self._key, bytes(self._buffer))
            return
        if self._buffer:
            self._flush()
        parts = {"Parts": self._parts}
        self._control.call("write", self._key, _request("complete_multipart_upload", **self._place, **self._upload, MultipartUpload=parts))

    def abort(self) -> None:
        """Forget what was uploaded; no object appears."""
        if self._upload:
            self._control.call("abort the upload of", self._key, _request("abort_multipart_upload", **self._place, **self._upload))

    def _flush(self) -> None:
        if not self._upload:
            started = self._control.call("write", self._key, _request("create_multipart_upload", **self._place))
            self._upload = {"UploadId": started["UploadId"]}
        number = len(self._parts) + 1
        part = _request("upload_part", **self._place, **self._upload, PartNumber=number, Body=bytes(self._buffer))
        sent = self._control.call("write", self._key, part)
        self._parts.append({"ETag": sent["ETag"], "PartNumber": number})
        self._buffer.clear()
