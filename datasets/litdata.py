"""Format `litdata`: chunks as LitData's own writer makes them of (id, record, label) samples, and the `index.json` that names them. Bytes in, bytes out; no I/O.

A chunk is: number of samples (uint32), their places and the end (uint32 each), the samples. A sample is the sizes of its three leaves (uint32 each), then the
leaves: the id (int, 8 bytes), the record (bytes), the label (int, 8 bytes). Source: litdata/streaming/writer.py and item_loader.py (PyTreeLoader) of 0.2.76; the
contract tests compare with what that writer makes. Samples are tuples, not dictionaries: of those the writer keeps a second copy in Arrow behind the chunk.
The table stands in front, so a chunk is held in memory until its last record is known.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

INDEX_KEY = "shards/index.json"
_LONGEST = 2**32 - 1
_COUNT = struct.Struct("<I")
_HEAD = struct.Struct("<IIIq")  # sizes of the three leaves, and the first of them, the id
_LABEL = struct.Struct("<q")
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_CONFIG: dict[str, Any] = {
    "chunk_bytes": None,
    "chunk_size": None,
    "compression": None,
    "compression_batch_size": None,
    "compression_level": None,
    "data_format": ["int", "bytes", "int"],
    "data_spec": json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF, _LEAF, _LEAF]}]),
    "encryption": None,
    "ipc_compression": None,
    "item_loader": "PyTreeLoader",
    "types": "json",
}


class LitDataFormat:
    """Uncompressed. A chunk has less than 4 GiB, since its places are uint32."""

    name = "litdata"
    suffix = ".bin"
    one_sample_per_shard = False
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records; the byte offset of each in the file. DatasetError for a chunk that gets too long."""
        samples = [
            b"".join((_HEAD.pack(8, len(record.payload), 8, record.sample_id), record.payload, _LABEL.pack(record.label))) for record in records
        ]
        first = 4 * (len(samples) + 2)
        places = first + np.cumsum([0, *(len(sample) for sample in samples)], dtype=np.int64)
        if places[-1] > _LONGEST:
            raise DatasetError(f"a LitData chunk of {places[-1]} bytes is over its limit of {_LONGEST}", "use fewer --samples-per-shard")
        sink.write(_COUNT.pack(len(samples)) + places.astype("<u4").tobytes())
        for sample in samples:
            sink.write(sample)
        return [place + _HEAD.size for place in places[:-1].tolist()]

    def parse(self, stored: memoryview) -> memoryview:
        """The stored bytes of one sample (its extent) are the record; the chunk's table was needed to find it only."""
        return stored

    def dataset_index(self, names: Sequence[str], shard_bytes: Sequence[int], shard_samples: Sequence[int]) -> tuple[str, bytes]:
        """The key and the bytes of what names all chunks: LitData opens the folder that it lies in."""
        folder = INDEX_KEY.rpartition("/")[0] + "/"
        chunks = [
            {"chunk_bytes": size, "chunk_size": samples, "dim": None, "filename": name.removeprefix(folder)}
            for name, size, samples in zip(names, shard_bytes, shard_samples, strict=True)
        ]
        # The time of writing is left out of account: the same dataset has the same bytes.
        return INDEX_KEY, json.dumps({"chunks": chunks, "config": _CONFIG, "updated_at": "0"}, sort_keys=True).encode()
