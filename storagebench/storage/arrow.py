"""How pyarrow gets at a shard: its own local and S3 file systems, and our stores behind a file object for everything else.

No memory map: a page fault would be a read that nobody counts. Nothing is kept open here but the client itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from storagebench.errors import DatasetError, StorageBenchError, StorageError
from storagebench.protocols import Extent, IOCounters, Store, StoreSpec
from storagebench.storage import open_spec

_HINT = "run `storagebench verify`, then generate or import the dataset again"


class ArrowFiles:
    """Opens the objects of one store for pyarrow. Thread-safe."""

    def __init__(self, spec: StoreSpec) -> None:
        self._spec = spec
        self._store: Store | None = None
        self._filesystem, self._root = None, spec.root
        self._explain_s3: Callable[[Exception, str], StorageBenchError] | None = None
        if spec.kind == "posix":
            from pyarrow.fs import LocalFileSystem

            self._filesystem = LocalFileSystem()
        elif spec.kind == "s3":
            self._open_s3()
        else:
            self._store = open_spec(spec)

    def _open_s3(self) -> None:
        from storagebench.storage.s3_arrow import make_filesystem
        from storagebench.storage.s3_config import resolve
        from storagebench.storage.s3_errors import explain

        settings, credentials = resolve(self._spec)
        self._filesystem, self._root = make_filesystem(settings, credentials), f"{settings.bucket}/{settings.base}".rstrip("/")
        self._explain_s3 = lambda error, key: explain(error, settings, credentials, key, "read", lambda: True)

    def open(self, key: str, num_bytes: int) -> Any:
        """A pyarrow file with random access to an object of that size; a context manager. Raises what pyarrow raises: see `explain`."""
        if self._filesystem is not None:
            return self._filesystem.open_input_file(os.path.join(self._root, key))
        from pyarrow import PythonFile

        assert self._store is not None
        return PythonFile(_StoreFile(self._store, key, num_bytes), mode="r")

    def explain(self, error: Exception, key: str) -> StorageBenchError:
        """What to raise for what pyarrow raised while it opened, read or decoded that object."""
        if isinstance(error, StorageBenchError):
            return error
        name = f"{key} in {self._spec.url}"
        if isinstance(error, FileNotFoundError):
            return DatasetError(f"{name} is missing", _HINT)
        if self._explain_s3 is not None and "AWS Error" in str(error):
            return self._explain_s3(error, key)
        text = " ".join(str(error).split())[:200].rstrip(".")
        if isinstance(error, OSError) and error.errno is not None:  # pyarrow's own complaints about content are OSErrors without a number
            return StorageError(f"cannot read {name}: {os.strerror(error.errno)}", "check the path, its permissions and the device")
        return DatasetError(f"{name} is damaged: {text}", _HINT)

    def counters(self) -> IOCounters | None:
        """What our store counted; None where pyarrow does its own I/O."""
        return self._store.counters() if self._store is not None else None

    def close(self) -> None:
        """Release the client. May be called twice."""
        self._filesystem = None
        if self._store is not None:
            self._store.close()


class _StoreFile:
    """What pyarrow needs of a Python file to read from: a position, and reads that the store checks and counts."""

    def __init__(self, store: Store, key: str, num_bytes: int) -> None:
        self._store, self._key, self._num_bytes = store, key, num_bytes
        self._position = 0
        self.closed = False

    def read(self, num_bytes: int = -1) -> memoryview:
        left = max(0, self._num_bytes - self._position)
        count = left if num_bytes < 0 else min(num_bytes, left)
        data = self._store.read([Extent(self._key, self._position, count)])[0]
        self._position += count
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True
