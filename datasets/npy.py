"""Format `npy`: one NumPy array file a sample, uint8 and 1-D. Bytes in, bytes out; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from storagebench.datasets.npyheader import npy_data, npy_header
from storagebench.datasets.single import only_record
from storagebench.protocols import Record, Sink


class NpyFormat:
    """A version 1.0 header padded to 64 bytes, then the record. The label lies in the manifest only."""

    name = "npy"
    suffix = ".npy"
    one_sample_per_shard = True
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the one record; its offset in the file. ValueError for any other number of records."""
        with only_record(records, self.name) as record:
            header = npy_header("|u1", len(record.payload))
            sink.write(header)
            sink.write(record.payload)
            return [len(header)]

    def parse(self, stored: memoryview) -> memoryview:
        """The array's bytes in a whole file, zero-copy. Raises DatasetError as `npy_data` does."""
        return npy_data(stored)
