"""The state of the page cache of one host before an epoch: brought about as `--cache` says, for all shards, and proved.

What a client cannot reach is said, not guessed: the cache of an S3 server is `unknown` unless it is our own `serve-s3` on this host, whose folder
is then treated like a local dataset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.errors import StorageError
from storagebench.storage import pagecache


class HostCache:
    """`paths`: the dataset's shards as files of this host, empty where there are none; `server_pid`: our own server that reads them."""

    def __init__(self, mode: str, paths: Sequence[str], server_pid: int | None = None) -> None:
        self._mode = mode
        self._paths = paths
        self._server_pid = server_pid

    def prepare(self, epoch: int) -> Mapping[str, Any]:
        """Drop, fill or leave the pages; returns what was found afterwards. `cached_fraction_before` is None where it cannot be known."""
        begin = time.monotonic()
        if not self._paths:
            return {"asked": self._mode, "cached_fraction_before": None, "method": "unreachable", "seconds": 0.0, **self._server("unknown")}
        try:
            if self._server_pid is not None:
                # The kernel counts page-ins of the server's own program with its reads of the dataset: have it in memory before the count begins.
                pagecache.fill([f"/proc/{self._server_pid}/exe"])
            if self._mode == "cold":
                pagecache.drop(self._paths)
            elif self._mode == "warm":
                pagecache.fill(self._paths)
            found = pagecache.residency(self._paths)
        except OSError as error:
            raise StorageError(
                f"cannot treat the page cache of {error.filename}: {error.strerror}", "check the shard with `storagebench verify`"
            ) from None
        return {
            "asked": self._mode,
            "cached_fraction_before": found.fraction,
            "method": found.method,
            "metadata_cache": "warm",  # opening the files to look at or drop their pages warms their inodes
            "seconds": round(time.monotonic() - begin, 6),
            **self._server(self._mode),
        }

    def _server(self, state: str) -> dict[str, Any]:
        if self._server_pid is not None:
            return {"server_cache": state}
        return {} if self._paths else {"server_cache": "unknown"}

    def device_bytes(self) -> int | None:
        if self._server_pid is None:
            return None
        try:
            with open(f"/proc/{self._server_pid}/io", "rb") as file:
                rows = dict(line.split(b": ") for line in file.read().splitlines())
        except OSError:
            return None
        return int(rows[b"read_bytes"])
