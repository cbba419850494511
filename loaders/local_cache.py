"""The local cache of a library that copies shards before it reads them: a folder of its own for each rank and run, empty at first, and gone with the loader.

The folder lies in the system's place for temporary files (TMPDIR), which is to be another one than the storage that is measured, with room for the shards.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "storagebench-cache-"


class LocalCache:
    """Made by the rank. Only what lies in this folder, which nobody else was told of, is ever deleted."""

    def __init__(self, loader: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{loader}-"))

    def num_bytes(self) -> int:
        """Bytes of the files that lie in it now."""
        total = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(FileNotFoundError):  # the library deleted it meanwhile
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def close(self) -> None:
        """Delete the files that are listed in it, then the folders; links are deleted and never followed. May be called twice."""
        for folder, folders, names in os.walk(self.path, topdown=False):
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))
            for name in folders:
                path = os.path.join(folder, name)
                os.unlink(path) if os.path.islink(path) else os.rmdir(path)
        with suppress(FileNotFoundError):
            self.path.rmdir()
