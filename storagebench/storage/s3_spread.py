"""One S3 bucket behind several addresses (`endpoint_url=http://a:9000,http://b:9000`): a store for each, and calls dealt out to them in turn.

Which one a call goes to is fixed by its number: the first goes to the address number `endpoint_index` (a run gives each rank its own number, and each worker
process that of its rank plus its own), the next to the one behind it, and so on round. All that one call asks for goes to one address, and so do its retries: an
address that fails ends the run under its own name, and is not covered up by the others. Each has its own connections, `concurrency` and retry budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from storagebench.protocols import Extent, IOCounters, ObjectInfo, Sink, StoreSpec
from storagebench.storage.s3 import S3Store
from storagebench.storage.s3_config import resolve


class SpreadStore:
    """As S3Store, over all addresses of its spec. Each is asked at open whether it works, unless the spec says how ranges are answered."""

    def __init__(self, spec: StoreSpec) -> None:
        settings, _ = resolve(spec)
        count = len(settings.endpoints)
        self._stores: list[S3Store] = []
        try:
            for index in range(count):
                self._stores.append(S3Store(replace(spec, options={**spec.options, "endpoint_index": str(index)})))
        except BaseException:
            self.close()
            raise
        self.native_ranges = all(store.native_ranges for store in self._stores)
        known = all("native_ranges" in store.spec.options for store in self._stores)
        self.spec = replace(spec, options={**spec.options, **({"native_ranges": str(self.native_ranges).lower()} if known else {})})
        first = int(spec.options.get("endpoint_index", "0"))
        self._turns = itertools.count(first)  # next() of it is one step of the interpreter, so that threads need no lock

    @property
    def url(self) -> str:
        return self.spec.url

    def _next(self) -> S3Store:
        return self._stores[next(self._turns) % len(self._stores)]

    def exists(self, key: str) -> bool:
        return self._next().exists(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._next().list(prefix)

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        return self._next().read(extents)

    async def read_async(self, extent: Extent) -> memoryview:
        """As S3Store.read_async."""
        return await self._next().read_async(extent)

    def expect_longer(self, key: str) -> None:
        """As S3Store.expect_longer."""
        for store in self._stores:
            store.expect_longer(key)

    def read_into(self, extent: Extent, target: memoryview) -> None:
        self._next().read_into(extent, target)

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        return self._next().read_all(key, limit_bytes)

    def open_stream(self, key: str, num_bytes: int) -> Any:
        return self._next().open_stream(key, num_bytes)

    @contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        with self._next().create(key) as sink:
            yield sink
        self._forget([key])

    def delete(self, keys: Iterable[str]) -> None:
        todo = list(keys)
        self._next().delete(todo)
        self._forget(todo)

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            for store in self._stores:
                store.forget(key)

    def counters(self) -> IOCounters:
        return sum((store.counters() for store in self._stores), IOCounters())

    def close(self) -> None:
        for store in self._stores:
            store.close()
