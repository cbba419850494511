"""Format `indexed_binary`: Megatron-LM's `.bin` with its `.idx` (`MMapIndexedDataset`), a document a sample. Bytes in, bytes out; no I/O.

The records lie one behind the other, as sequences of uint8. The index is little-endian: magic, version 1 (uint64), data type (uint8, 1 is uint8), number of
sequences and of documents (uint64), then the sequences' lengths (int32), their byte offsets (int64) and the first sequence of each document (int64).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

_MAGIC = b"MMIDIDX\x00\x00"
_HEAD = struct.Struct("<9sQBQQ")
_UINT8 = 1
_LONGEST = 2**31 - 1


class IndexedBinaryFormat:
    """Labels lie in the manifest only. A record has less than 2 GiB, since its length is an int32."""

    name = "indexed_binary"
    suffix = ".bin"
    one_sample_per_shard = False
    byte_addressed = True
    index_suffix = ".idx"

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records one behind the other; the byte offset of each. DatasetError for one that is too long."""
        offsets, position = [], 0
        for record in records:
            if len(record.payload) > _LONGEST:
                raise DatasetError(
                    f"sample {record.sample_id} has {len(record.payload)} bytes, and indexed_binary takes {_LONGEST}", "use another --format"
                )
            sink.write(record.payload)
            offsets.append(position)
            position += len(record.payload)
        return offsets

    def parse(self, stored: memoryview) -> memoryview:
        """The stored bytes of one sample (its extent) are the record; the index was needed to find it only."""
        return stored

    def shard_index(self, first_sample: int, rows: NDArray[Any]) -> bytes:
        """The index of a shard out of the dataset's rows (INDEX_DTYPE)."""
        count = len(rows)
        columns = (rows["record_bytes"].astype("<i4"), rows["offset"].astype("<i8"), np.arange(count + 1, dtype="<i8"))
        return _HEAD.pack(_MAGIC, 1, _UINT8, count, count + 1) + b"".join(column.tobytes() for column in columns)
