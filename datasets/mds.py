"""Format `mds`: shards as Mosaic streaming reads them, and the `index.json` that names them. Bytes in, bytes out; no I/O.

A shard is: number of samples (uint32), their places and the end (uint32 each), the column configuration as JSON, the samples. A sample is the sizes of its
columns of no fixed size (uint32; here of `x`), then the columns `x` (bytes, the record) and `y` (int, 8 bytes). The table stands in front, so a shard is held in
memory until its last record is known.
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
_SIZE = struct.Struct("<I")
_LABEL = struct.Struct("<q")
_COLUMNS: dict[str, Any] = {
    "column_encodings": ["bytes", "int"],
    "column_names": ["x", "y"],
    "column_sizes": [None, 8],
    "compression": None,
    "format": "mds",
    "hashes": [],
    "size_limit": None,
    "version": 2,
}


class MdsFormat:
    """Uncompressed. A shard has less than 4 GiB, since its places are uint32."""

    name = "mds"
    suffix = ".mds"
    one_sample_per_shard = False
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records; the byte offset of each in the file. DatasetError for a shard that gets too long."""
        samples = [b"".join((_SIZE.pack(len(record.payload)), record.payload, _LABEL.pack(record.label))) for record in records]
        config = json.dumps(_COLUMNS, sort_keys=True).encode()
        first = 4 * (len(samples) + 2) + len(config)
        places = first + np.cumsum([0, *(len(sample) for sample in samples)], dtype=np.int64)
        if places[-1] > _LONGEST:
            raise DatasetError(f"an MDS shard of {places[-1]} bytes is over its limit of {_LONGEST}", "use fewer --samples-per-shard")
        sink.write(_SIZE.pack(len(samples)) + places.astype("<u4").tobytes() + config)
        for sample in samples:
            sink.write(sample)
        return [place + _SIZE.size for place in places[:-1].tolist()]

    def parse(self, stored: memoryview) -> memoryview:
        """The stored bytes of one sample (its extent) are the record; the shard's table was needed to find it only."""
        return stored

    def dataset_index(self, names: Sequence[str], shard_bytes: Sequence[int], shard_samples: Sequence[int]) -> tuple[str, bytes]:
        """The key and the bytes of what names all shards: Mosaic streaming opens the folder that it lies in."""
        folder = INDEX_KEY.rpartition("/")[0] + "/"
        shards = [
            {
                **_COLUMNS,
                "raw_data": {"basename": name.removeprefix(folder), "bytes": size, "hashes": {}},
                "samples": samples,
                "zip_data": None,
            }
            for name, size, samples in zip(names, shard_bytes, shard_samples, strict=True)
        ]
        return INDEX_KEY, json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode()
