"""A folder written whole: under a temporary name beside it, every file synced and its checksum kept, then renamed. Or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from storagebench.errors import StorageError, UsageError

CHECKSUMS = "SHA256SUMS"
_COPY_BYTES = 2**20


def write_folder(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Writes the files (relative path -> bytes, or the file to copy) and `SHA256SUMS` over them, as `sha256sum -c` reads it.

    Raises UsageError where the folder exists and is not empty, StorageError where the place refuses; nothing is left behind then.
    """
    refuse_if_taken(folder)
    temp = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    made: list[Path] = []
    try:
        _make_folder(temp, made)
        sums = [f"{_write(temp, name, source, made)}  {name}\n" for name, source in sorted(files.items())]
        _write(temp, CHECKSUMS, "".join(sums).encode(), made)
        for path in reversed([path for path in made if path.is_dir()]):
            _sync_folder(path)
        os.rename(temp, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        _remove(made)
        raise StorageError(
            f"cannot write {error.filename or folder}: {error.strerror}", "choose a folder on a disk with space, and write access"
        ) from None
    except BaseException:
        _remove(made)
        raise


def refuse_if_taken(folder: Path) -> None:
    """Raises UsageError where a path cannot become this folder: it exists and is not an empty folder."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} exists and is no folder", "name another one")
    if folder.is_dir() and next(folder.iterdir(), None) is not None:
        raise UsageError(f"{folder} exists and is not empty", "name another one: nothing is overwritten")


def _make_folder(path: Path, made: list[Path]) -> None:
    """The folder and those above it, as far as they are missing."""
    if not path.is_dir():
        _make_folder(path.parent, made)
        path.mkdir()
        made.append(path)


def _write(root: Path, name: str, source: bytes | Path, made: list[Path]) -> str:
    """Writes one file, and gives its SHA-256."""
    target = root / name
    _make_folder(target.parent, made)
    digest = hashlib.sha256()
    with open(target, "xb") as file:
        made.append(target)
        if isinstance(source, bytes):
            digest.update(source)
            file.write(source)
        else:
            with open(source, "rb") as original:
                while piece := original.read(_COPY_BYTES):
                    digest.update(piece)
                    file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(made: list[Path]) -> None:
    """What was made, the last first. After the rename nothing of it is there any more."""
    for path in reversed(made):
        try:
            path.rmdir() if path.is_dir() else path.unlink()
        except OSError:
            continue
