"""Row groups of Parquet for the loader `direct`: the payload's bytes read in one go into aligned memory, its values as views on them, no Parquet library on the way.

pyarrow reads the footers once, at open. What it would do with a row group (open the file, read all columns, copy the values into an array) is left out.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from storagebench.datasets.parquet_pages import TAIL_BYTES, Chunk, chunk_values, footer_bytes, payload_chunks
from storagebench.errors import DatasetError, UsageError
from storagebench.loaders.row_groups import Cost, RowGroup
from storagebench.manifest import Dataset
from storagebench.protocols import Extent, IOCounters, StoreSpec
from storagebench.storage import open_spec
from storagebench.storage.buffers import ALIGNMENT_BYTES, aligned, aligned_buffer
from storagebench.usage import Watch

_FOOTER_THREADS = 16
_HINT = "run `storagebench verify`, then generate or import the dataset again"


class ChunkReader:
    """All row groups of a dataset, numbered as `Dataset.row_groups` has them; those of `shards_here` can be read. Holds where they lie, and no open file.
    Thread-safe."""

    def __init__(self, spec: StoreSpec, dataset: Dataset, shards_here: range) -> None:
        self._dataset = dataset
        self.shards, self.firsts, self.sizes = dataset.row_groups()
        self._first_of_shard = np.searchsorted(self.shards, np.arange(dataset.num_shards))
        self._store = open_spec(spec)
        self.own_io = False
        self._io: str = getattr(self._store, "io", "client")
        self._reads_aligned = spec.kind == "posix" and self._io == "direct"
        try:
            with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="footers") as threads:
                self._chunks = dict(zip(shards_here, threads.map(self._footer, shards_here), strict=True))
        except BaseException:
            self._store.close()
            raise
        self._before = self._store.counters()  # footers are not what is measured

    def _footer(self, shard: int) -> list[Chunk]:
        """The payload's chunks of a shard; DatasetError where they are not the row groups of the manifest."""
        name, size = self._dataset.names[shard], int(self._dataset.shard_bytes[shard])
        try:
            tail = self._tail(name, size, TAIL_BYTES)
            needed = footer_bytes(tail)
            chunks = payload_chunks(tail if needed <= len(tail) else self._tail(name, size, needed))
        except (DatasetError, UsageError) as error:
            raise type(error)(f"shard {name}: {error.message}", error.hint) from None
        expected = self.sizes[self.shards == shard].tolist()
        if [chunk.num_values for chunk in chunks] != expected or any(chunk.offset < 0 or chunk.offset + chunk.length > size for chunk in chunks):
            found = [chunk.num_values for chunk in chunks[:5]]
            raise DatasetError(f"shard {name} has row groups of {found} rows, and the manifest says {expected[:5]}", _HINT)
        return chunks

    def _tail(self, name: str, size: int, num_bytes: int) -> memoryview:
        low = max(0, size - num_bytes)
        return self._store.read([Extent(name, low, size - low)])[0]

    def read(self, group: int) -> RowGroup:
        """Read the payload of a row group. Raises DatasetError, StorageError."""
        shard = int(self.shards[group])
        name = self._dataset.names[shard]
        chunk = self._chunks[shard][group - int(self._first_of_shard[shard])]
        watch = Watch()
        stored = self._stored(name, shard, chunk)
        try:
            records = chunk_values(stored, chunk.num_values)
        except DatasetError as error:
            raise DatasetError(f"shard {name} is damaged: {error.message}", error.hint) from None
        self._check(group, name, records)
        return RowGroup(records, Cost(watch.wall_s(), watch.delay_s()))

    def _stored(self, name: str, shard: int, chunk: Chunk) -> memoryview:
        if not self._reads_aligned:
            return self._store.read([Extent(name, chunk.offset, chunk.length)])[0]
        low = chunk.offset // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        high = min(aligned(chunk.offset + chunk.length), int(self._dataset.shard_bytes[shard]))
        memory = aligned_buffer(high - low)
        self._store.read_into(Extent(name, low, high - low), memory)
        return memory[chunk.offset - low : chunk.offset - low + chunk.length]

    def _check(self, group: int, name: str, records: list[memoryview]) -> None:
        """The rows are as long as the manifest has them; what they hold is for the checksums to tell."""
        first, size = int(self.firsts[group]), int(self.sizes[group])
        if [len(record) for record in records] != self._dataset.index["record_bytes"][first : first + size].tolist():
            raise DatasetError(f"shard {name} does not hold the samples {first} to {first + size - 1} where the manifest has them", _HINT)

    def counters(self) -> IOCounters:
        """What our store counted since the footers were read."""
        return self._store.counters() - self._before

    def about(self) -> dict[str, Any]:
        """The settings in force."""
        return {"io": self._io, "reads": "one payload column chunk a read", "page_checksum_verification": False}

    def close(self) -> None:
        """Release the client. May be called twice."""
        self._store.close()
