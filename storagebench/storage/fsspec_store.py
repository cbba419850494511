"""Any other place that fsspec has a file system for (`ftp://`, `sftp://`, `gs://` ...): correct and checked, as fast as that file system is.

No retries of our own and no assumptions beyond fsspec's basic calls. Secrets do not belong into URLs or options, which are written into the run.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from storagebench.errors import DatasetError, StorageBenchError, StorageError, UsageError
from storagebench.protocols import Extent, IOCounters, ObjectInfo, Sink, StoreSpec
from storagebench.storage.counting import STREAM_BUFFER_BYTES, Tally, checked_stream

_VERIFY_HINT = "run `storagebench verify`, then generate or import again"
_TEMP_MARK = ".part-"
_T = TypeVar("_T")


def open_filesystem(spec: StoreSpec) -> tuple[Any, str]:
    """(an fsspec file system of our own, the root path in it). Raises UsageError: unknown protocol, missing package, secrets in the spec."""
    import fsspec

    protocol = spec.root.split("://", 1)[0]
    variables = f"FSSPEC_{re.sub(r'[^A-Z0-9]', '_', protocol.upper())}_<OPTION>"
    if urlsplit(spec.root).password is not None:
        raise UsageError(f"the {protocol} URL carries a password", f"put it into the environment: {variables}, or the protocol's own config file")
    for name in spec.options:
        if re.search(r"(?i)secret|token|passw|credential|(^|_)key$", name):
            raise UsageError(f"storage option {name!r} would be a secret in the run's files", f"put it into the environment: {variables}")
    try:
        filesystem, root = fsspec.core.url_to_fs(spec.root, skip_instance_cache=True, use_listings_cache=False, **spec.options)
    except (ValueError, ImportError, TypeError) as error:
        hint = "pip install the package named there" if isinstance(error, ImportError) else "see fsspec.available_protocols() for those that exist"
        raise UsageError(f"no storage for {protocol}:// ({error})", hint) from None
    except Exception as error:
        raise StorageError(f"cannot open {spec.root}: {type(error).__name__}: {error}", "check the address and that the server runs") from None
    return filesystem, str(root).rstrip("/")


def arrow_filesystem(spec: StoreSpec) -> tuple[Any, str]:
    """(pyarrow file system, root path in it), going through fsspec."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, root = open_filesystem(spec)
    return PyFileSystem(FSSpecHandler(filesystem)), root


class FsspecStore:
    """Objects below a URL. The options are the file system's own (strings). Raises UsageError, StorageError."""

    native_ranges = True

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self._fs, self._root = open_filesystem(spec)
        self._tally = Tally()
        # Only asynchronous file systems, local and memory say that they may be used from several threads.
        free = self._fs.async_impl or type(self._fs).__name__ in ("LocalFileSystem", "MemoryFileSystem")
        self._turn: AbstractContextManager[Any] = nullcontext() if free else threading.RLock()

    @property
    def url(self) -> str:
        return self.spec.url

    def exists(self, key: str) -> bool:
        try:
            return bool(self._do("look up", key, lambda: self._fs.info(self._path(key)))["type"] == "file")
        except DatasetError:
            return False

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        try:
            found = self._do("list", prefix, lambda: self._fs.find(self._root, detail=True))
        except DatasetError:
            return  # no folder yet, as with an empty prefix of an object store
        for path, info in found.items():
            key = path[len(self._root) :].lstrip("/")
            if key.startswith(prefix) and not (key.rpartition("/")[2].startswith(".") and _TEMP_MARK in key):
                yield ObjectInfo(key, int(info["size"]))

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        for extent in extents:
            if extent.length is None:
                raise ValueError(f"extent of {extent.key} has no length")
        wanted = [(self._path(extent.key), extent.offset, extent.offset + (extent.length or 0)) for extent in extents if extent.length]
        paths, starts, ends = ([row[column] for row in wanted] for column in range(3))
        answers = iter(self._do("read", "", lambda: self._fs.cat_ranges(paths, starts, ends, on_error="return"), len(wanted)) if wanted else ())
        return [self._checked(extent, next(answers)) if extent.length else self._nothing(extent) for extent in extents]

    def read_into(self, extent: Extent, target: memoryview) -> None:
        if extent.length != len(target):
            raise ValueError(f"extent of {extent.key} has length {extent.length}, and the target {len(target)}")
        target[:] = self.read([extent])[0]

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        size = self._size(key)
        if size > limit_bytes:
            raise StorageError(f"{self._name(key)} has {size} bytes, over the limit of {limit_bytes}", "this is not an object of storagebench")
        return self.read([Extent(key, 0, size)])[0]

    def open_stream(self, key: str, num_bytes: int) -> Any:
        size = self._size(key)
        if size < num_bytes:
            raise self._truncated(key, size, num_bytes)
        file = self._do("read", key, lambda: self._fs.open(self._path(key), "rb"))
        return checked_stream(self._chunks(file), num_bytes, self._name(key), self._tally, lambda error: self._explain(error, "read", key))

    @contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        """Written under a temporary name beside the key, then moved: a reader never sees a part."""
        path = self._path(key)
        folder, _, name = path.rpartition("/")
        temp = f"{folder}/.{name}{_TEMP_MARK}{secrets.token_hex(6)}"
        self._do("write", key, lambda: self._fs.makedirs(folder, exist_ok=True))
        file = self._do("write", key, lambda: self._fs.open(temp, "wb"))
        try:
            yield _Sink(file, self._turn, lambda error: self._explain(error, "write", key))
            self._do("write", key, lambda: file.close())
            self._do("write", key, lambda: _move(self._fs, temp, path))
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is told
                file.close()
            with suppress(Exception):
                self._fs.rm_file(temp)
            raise

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(DatasetError):
                self._do("delete", key, lambda key=key: self._fs.rm_file(self._path(key)))  # type: ignore[misc]

    def counters(self) -> IOCounters:
        return self._tally.counters()

    def close(self) -> None:
        """Drop the file system: there is no common way to close one, its connections go with it. No call may follow."""
        self._fs = None

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _name(self, key: str) -> str:
        return f"{key} in {self.url}" if key else self.url

    def _do(self, action: str, key: str, call: Callable[[], _T], requests: int = 1) -> _T:
        """One call of the file system, its exception translated."""
        self._tally.add(requests=requests)
        try:
            with self._turn:
                return call()
        except Exception as error:
            self._tally.add(errors=1)
            raise self._explain(error, action, key) from None

    def _size(self, key: str) -> int:
        return int(self._do("look up", key, lambda: self._fs.info(self._path(key)))["size"])

    def _nothing(self, extent: Extent) -> memoryview:
        if extent.offset == 0:
            self._size(extent.key)  # that it is missing must show
        return memoryview(b"")

    def _checked(self, extent: Extent, answer: Any) -> memoryview:
        if isinstance(answer, Exception):
            self._tally.add(errors=1)
            raise self._explain(answer, "read", extent.key) from None
        length = extent.length or 0
        if len(answer) < length:  # fsspec gives what there is when an object ends early
            self._tally.add(errors=1)
            raise self._truncated(extent.key, extent.offset + len(answer), extent.offset + length)
        if len(answer) > length:
            self._tally.add(errors=1)
            raise StorageError(f"{self._name(extent.key)}: asked for {length} bytes at {extent.offset}, got {len(answer)}", _VERIFY_HINT)
        self._tally.add(num_bytes=length)
        return memoryview(answer).cast("B")

    def _chunks(self, file: Any) -> Iterator[bytes]:
        try:
            while True:
                with self._turn:
                    chunk = file.read(STREAM_BUFFER_BYTES)
                if not chunk:
                    return
                yield chunk
        finally:
            with self._turn:
                file.close()

    def _explain(self, error: Exception, action: str, key: str) -> StorageBenchError:
        if isinstance(error, StorageBenchError):
            return error
        name = self._name(key)
        if isinstance(error, FileNotFoundError) and action != "write":
            return DatasetError(f"{name} is missing", _VERIFY_HINT)
        if isinstance(error, IsADirectoryError):
            return DatasetError(f"{name} is a folder, not a file", _VERIFY_HINT)
        what = " ".join(str(error).split())[:200]
        return StorageError(f"cannot {action} {name}: {type(error).__name__} {what}".rstrip(), "check the address, its permissions and the server")

    def _truncated(self, key: str, size: int, needed: int) -> DatasetError:
        return DatasetError(f"{self._name(key)} has {size} bytes, and {needed} were asked for: it is truncated", _VERIFY_HINT)


class _Sink:
    """Writes all of what it is given, in turn with the file system's other calls."""

    def __init__(self, file: Any, turn: AbstractContextManager[Any], explain: Callable[[Exception], Exception]) -> None:
        self._file = file
        self._turn = turn
        self._explain = explain

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                with self._turn:
                    done += self._file.write(view[done:])
        except Exception as error:
            raise self._explain(error) from None
        return len(view)


def _move(filesystem: Any, source: str, target: str) -> None:
    """A rename where the file system has one; else copy and remove, without the pattern matching that fsspec's own fallback does on names."""
    from fsspec import AbstractFileSystem

    if type(filesystem).mv is AbstractFileSystem.mv:
        filesystem.cp_file(source, target)
        filesystem.rm_file(source)
    else:
        filesystem.mv(source, target)
