"""What a long experiment has done so far: an append-only file of JSON lines, so that the same command goes on after a SIGKILL.

Each row is durable before the next step is begun. One process writes at a time, which a lock on the file sees to (it goes with the process).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storagebench.errors import DatasetError, StorageError, UsageError

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows; none where there is no file. A last line that was cut off is left out. Raises DatasetError where another line is no object."""
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", "see who may read it") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DatasetError(f"{path}:{number} is no row of a journal", "the folder is damaged: begin another one")
        rows.append(row)
    del last  # empty, or a row that a kill cut off
    return rows


class Journal:
    """Appends rows. Raises UsageError where another process has it open, StorageError where the place refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"cannot open {path}: {error.strerror}", "choose a --results-dir that is writable and has space") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise UsageError(f"{path.parent} is being written by another process", "wait for it, or end it") from None
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._fd).st_size
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(self._fd, whole)

    def write(self, row: Row) -> None:
        """Append a row; it is durable when this returns."""
        line = json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            if os.write(self._fd, line) != len(line):
                raise StorageError(f"{self._path} took a part of a row", "free space where --results-dir points to")
            os.fdatasync(self._fd)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}", "free space where --results-dir points to") from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
