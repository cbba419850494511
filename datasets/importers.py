"""Real data as a source of records: a folder of files, an ImageFolder tree, or Parquet with a binary or image column. Bytes stay as they are.

Reads only, and only regular files below the folder that was named: links are refused, never followed, and dotfiles are passed over.
A source is listed once; a file that has another size when it is read later is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.datasets.source import Source
from storagebench.errors import DatasetError, UsageError
from storagebench.protocols import Record

# The source says nothing of a label; 0 would be a class.
NO_LABEL = -1
JPEG_SUFFIXES = frozenset({"jpg", "jpeg", "jpe"})
_SUFFIX = re.compile(r"[a-z0-9_]{1,16}")


@dataclass(frozen=True)
class SourceFile:
    """One file: its path below the root, in parts, with size and time as listed."""

    parts: tuple[str, ...]
    num_bytes: int
    mtime_ns: int

    @property
    def suffix(self) -> str:
        """The file name's last suffix in lower case, as far as it is plain (a-z, 0-9, _), else `bin`."""
        text = Path(self.parts[-1]).suffix[1:].lower()
        return text if _SUFFIX.fullmatch(text) and text != "cls" else "bin"


def open_source(path: Path, column: str | None = None) -> Source:
    """The source at `path`: Parquet where it is a Parquet file or a folder of nothing else, a folder of files otherwise.

    `column` names the Parquet column (found by itself where only one is binary). Raises DatasetError for
    a missing, empty or unreadable source, UsageError for a link, for something that is neither file nor folder, or for an unclear column.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise DatasetError(f"source {path} cannot be read: {error.strerror}", "give an existing folder or Parquet file") from None
    root = path.resolve()
    if stat.S_ISREG(info.st_mode):
        if root.suffix != ".parquet":
            raise UsageError(f"source {path} is a file, and only a .parquet file can be imported alone", "give the folder it lies in")
        files = [SourceFile((root.name,), info.st_size, info.st_mtime_ns)]
        root = root.parent
    elif stat.S_ISDIR(info.st_mode):
        files = list_files(root)
    else:
        raise UsageError(f"source {path} is neither a folder nor a file", "give an existing folder or Parquet file")
    if not files:
        raise DatasetError(f"source {path} has no files (names that begin with a dot are passed over)", "give a folder with files")
    name = path.resolve().name
    if all(file.suffix == "parquet" for file in files):
        from storagebench.datasets.parquetsource import ParquetSource

        return ParquetSource(root, name, files, column)
    if column is not None:
        raise UsageError(f"column {column!r} was given, and source {path} is not Parquet", "leave --column out")
    return FolderSource(root, name, files)


def list_files(root: Path) -> list[SourceFile]:
    """All regular files below root, sorted by path. Names with a leading dot are passed over; UsageError for a link or a special file."""
    found: list[SourceFile] = []
    stack: list[tuple[str, ...]] = [()]
    while stack:
        parts = stack.pop()
        try:
            entries = [(entry, entry.stat(follow_symlinks=False)) for entry in os.scandir(root.joinpath(*parts)) if not entry.name.startswith(".")]
        except OSError as error:
            raise DatasetError(f"folder {root.joinpath(*parts)} cannot be read: {error.strerror}", "check its permissions") from None
        for entry, info in entries:
            if stat.S_ISDIR(info.st_mode):
                stack.append((*parts, entry.name))
            elif stat.S_ISREG(info.st_mode):
                found.append(SourceFile((*parts, entry.name), info.st_size, info.st_mtime_ns))
            else:
                what = "a link" if stat.S_ISLNK(info.st_mode) else "not a regular file"
                raise UsageError(f"{entry.path!r} is {what}, and links and special files are not imported", "copy the folder with `cp -rL` first")
    return sorted(found, key=lambda file: file.parts)


def open_beneath(root: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of the regular file at root/parts, with no link followed on the way below root. Raises DatasetError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        folder = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        for part in parts[:-1]:
            above = folder
            try:
                folder = os.open(part, flags | os.O_DIRECTORY, dir_fd=above)
            finally:
                os.close(above)
        try:
            fd = os.open(parts[-1], flags, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DatasetError(
            f"source file {'/'.join(parts)!r} cannot be opened: {error.strerror}", "leave the source alone while it is imported"
        ) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DatasetError(f"source file {'/'.join(parts)!r} is no longer a regular file", "leave the source alone while it is imported")
    return fd


def read_file(root: Path, file: SourceFile) -> memoryview:
    """All bytes of a listed file. Raises DatasetError where its size is not the one listed."""
    fd = open_beneath(root, file.parts)
    with open(fd, "rb", buffering=0) as opened:
        target = np.empty(file.num_bytes + 1, dtype=np.uint8).data  # one more, to see that it does not go on
        done = 0
        try:
            while done < len(target) and (got := opened.readinto(target[done:])):
                done += got
        except OSError as error:
            raise DatasetError(f"source file {'/'.join(file.parts)!r} cannot be read: {error.strerror}", "check the device it lies on") from None
    if done != file.num_bytes:
        raise DatasetError(
            f"source file {'/'.join(file.parts)!r} no longer has the {file.num_bytes} bytes it was listed with",
            "leave the source alone while it is imported",
        )
    return target[:done]


def fingerprint(files: list[SourceFile]) -> str:
    """Names, sizes and times of the listed files in one digest: the source is the same as when an unfinished import began."""
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(b"\0".join([*map(os.fsencode, file.parts), b"%d %d\n" % (file.num_bytes, file.mtime_ns)]))
    return hasher.hexdigest()


class FolderSource:
    """A sample a file, in sorted order. Where every file lies in a subfolder, the first folder's name is its class (ImageFolder)."""

    kind = "imported"

    def __init__(self, root: Path, name: str, files: list[SourceFile]) -> None:
        self._root, self._name, self._files = root, name, files
        is_tree = all(len(file.parts) > 1 for file in files)
        self.classes: tuple[str, ...] = tuple(sorted({file.parts[0] for file in files})) if is_tree else ()
        self._label_of = {name: label for label, name in enumerate(self.classes)}
        suffixes = {file.suffix for file in files}
        self.payload = "jpeg" if suffixes <= JPEG_SUFFIXES else "png" if suffixes == {"png"} else "bytes"
        self.num_samples = len(files)
        self.approx_bytes: NDArray[np.int64] = np.array([file.num_bytes for file in files], np.int64)
        empty = next((file for file in files if file.num_bytes == 0), None)
        if empty is not None:
            raise DatasetError(f"source file {'/'.join(empty.parts)!r} is empty, and a record has at least one byte", "remove it from the source")

    def describe(self) -> dict[str, Any]:
        """The folder's own name (never its path), and a digest of what lies in it."""
        return {"source": self._name, "source_kind": "imagefolder" if self.classes else "folder", "source_fingerprint": fingerprint(self._files)}

    def encoder(self) -> dict[str, str]:
        """Bytes stay as they are."""
        return {}

    def records(self, first: int, count: int) -> Iterator[Record]:
        """Samples first .. first + count, one file in memory."""
        for sample_id in range(first, first + count):
            file = self._files[sample_id]
            label = self._label_of.get(file.parts[0], NO_LABEL)
            yield Record(sample_id, read_file(self._root, file), label, file.suffix)

    def close(self) -> None:
        """Nothing stays open."""
