"""Ranges through pyarrow.fs, for servers that answer a range with 200 (rclone's), and the pyarrow file system for the Parquet loader.

pyarrow gives the full length for a short answer, with a tail that nobody wrote, so the tail is marked before each read and looked at after it. It
does not show Content-Range: an answer of another range can only be caught by the checksum of the content.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from storagebench.protocols import Extent, StoreSpec
from storagebench.storage.counting import Tally
from storagebench.storage.s3_config import CONNECT_TIMEOUT_S, Credentials, FrozenCredentials, S3Settings, resolve
from storagebench.storage.s3_errors import truncated, wrong_answer

_MARK_BYTES = 16
_MAX_IDLE_HANDLES = 512


def make_filesystem(settings: S3Settings, credentials: Credentials, attempts: int | None = None) -> Any:
    """A pyarrow.fs.S3FileSystem with the keys as they are now; the keys stay in memory. `attempts` of a request, made by itself and unseen; None: as many as
    the option `retries` allows, for those that read through it without our loop (`s3_retry`)."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    keys = credentials.current()
    options: dict[str, Any] = {"anonymous": True}
    if keys is not None:
        options = {"access_key": keys.access_key, "secret_key": keys.secret_key, "session_token": keys.token}
    if settings.endpoint:
        parts = urlsplit(settings.endpoint)
        options |= {"endpoint_override": parts.netloc + parts.path, "scheme": parts.scheme}
        if parts.scheme == "https" and os.environ.get("AWS_CA_BUNDLE"):
            options["tls_ca_file_path"] = os.environ["AWS_CA_BUNDLE"]
    return S3FileSystem(
        region=settings.region,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=max(1.0, settings.retry.timeout_s),  # curl's limit, which it takes in whole seconds
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts or settings.retry.retries + 1),
        **options,
    )


def arrow_filesystem(spec: StoreSpec) -> tuple[Any, str]:
    """(pyarrow file system, root path in it) of an s3 spec. Credentials are resolved in this process, once: reopen after they expire.

    Raises UsageError for options that the store does not have, StorageError without credentials.
    """
    settings, credentials = resolve(spec)
    return make_filesystem(settings, credentials), f"{settings.bucket}/{settings.base}".rstrip("/")


class ArrowRanges:
    """Reads ranges, each with one attempt: the caller asks again. A file handle costs a HEAD, so idle handles are kept: then a range is one GET. Thread-safe."""

    def __init__(self, settings: S3Settings, credentials: Credentials, tally: Tally) -> None:
        self._settings = settings
        self._credentials = credentials
        self._tally = tally
        self._lock = threading.Lock()
        self._keys: FrozenCredentials | None = None
        self._filesystem: Any = None
        self._idle: OrderedDict[str, list[Any]] = OrderedDict()
        self._num_idle = 0

    def read(self, extent: Extent) -> memoryview:
        """The bytes of one extent with a length. Raises DatasetError (object too short), StorageError (short answer), or what pyarrow raises."""
        target = np.empty(extent.length or 0, np.uint8).data
        self._with_handle(extent, lambda handle: self._fill(handle, extent, target))
        self._tally.add(num_bytes=len(target))
        return target

    def forget(self, key: str) -> None:
        """The object was written anew or deleted: its idle handles know an old size."""
        with self._lock:
            self._num_idle -= len(self._idle.pop(key, ()))

    def close(self) -> None:
        """Drop the handles and the file system. May be called twice."""
        with self._lock:
            self._idle.clear()
            self._num_idle = 0
            self._filesystem = None

    def _fill(self, handle: Any, extent: Extent, target: memoryview) -> None:
        end = extent.offset + len(target)
        if handle.size() < end:
            raise truncated(self._settings, extent.key, handle.size(), end)
        mark = secrets.token_bytes(_MARK_BYTES)[-len(target) :] if len(target) else b""
        target[len(target) - len(mark) :] = mark
        self._tally.add(requests=1)
        handle.seek(extent.offset)
        got = handle.readinto(target)
        if got != len(target):
            raise wrong_answer(self._settings, extent.key, f"{len(target)} bytes at {extent.offset}", f"{got} bytes", "truncated")
        same = _common_tail(target, mark)
        if same:
            self._check_tail(handle, extent, target, same)

    def _check_tail(self, handle: Any, extent: Extent, target: memoryview, same: int) -> None:
        """The last `same` bytes look like the mark: by chance (in one of 256 reads), or because the answer was short. Read them alone, compare."""
        tail = bytearray(byte ^ 0xFF for byte in target[-same:])
        self._tally.add(num_bytes=same, requests=1)
        handle.seek(extent.offset + len(target) - same)
        if handle.readinto(tail) != same or tail != target[-same:]:
            raise wrong_answer(self._settings, extent.key, f"{len(target)} bytes at {extent.offset}", f"at least {same} bytes less", "truncated")

    def _with_handle(self, extent: Extent, use: Callable[[Any], None]) -> None:
        """Run `use` with a handle of that key that nobody else has; it goes back to the idle ones unless `use` raises."""
        filesystem = self._current()
        with self._lock:
            handles = self._idle.get(extent.key)
            handle = handles.pop() if handles else None
            self._num_idle -= handle is not None
        if handle is None:
            self._tally.add(requests=1)
            handle = filesystem.open_input_file(f"{self._settings.bucket}/{self._settings.base}{extent.key}")
        use(handle)
        with self._lock:
            if filesystem is not self._filesystem:
                return
            self._idle.setdefault(extent.key, []).append(handle)
            self._idle.move_to_end(extent.key)
            self._num_idle += 1
            while self._num_idle > _MAX_IDLE_HANDLES:
                self._num_idle -= len(self._idle.popitem(last=False)[1])

    def _current(self) -> Any:
        """The file system with the keys of now: pyarrow does not refresh keys that it was given, so new keys make a new one."""
        with self._lock:
            if self._filesystem is None or self._credentials.refreshable:
                keys = self._credentials.current()
                if self._filesystem is None or keys != self._keys:
                    self._idle.clear()
                    self._num_idle = 0
                    self._keys = keys
                    self._filesystem = make_filesystem(self._settings, self._credentials, attempts=1)
            return self._filesystem


def _common_tail(target: memoryview, mark: bytes) -> int:
    """How many of the last bytes equal the mark's."""
    same = 0
    while same < len(mark) and target[-1 - same] == mark[-1 - same]:
        same += 1
    return same
