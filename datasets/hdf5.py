"""Format `hdf5`: an HDF5 file a shard, a dataset a sample (`records/{sample_id:012d}`, uint8, contiguous) and the labels in one. Bytes in, bytes out; no I/O.

The library needs to seek while it writes, so a shard is made in memory and then passed on. Contiguous datasets lie in the file as they are: the place of each
record is known, and a loader may read just that.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

RECORDS, LABELS = "records", "labels"


class Hdf5Format:
    """h5py reads it, with or without storagebench. No chunks and no compression."""

    name = "hdf5"
    suffix = ".h5"
    one_sample_per_shard = False
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records; the byte offset of each in the file. Takes the memory of the whole shard."""
        import h5py

        offsets, labels, whole = [], [], io.BytesIO()
        with h5py.File(whole, "w", libver="earliest") as file:
            group = file.create_group(RECORDS)
            for record in records:
                dataset = group.create_dataset(f"{record.sample_id:012d}", data=np.frombuffer(record.payload, np.uint8))
                offset = dataset.id.get_offset()
                if offset is None:
                    raise DatasetError(f"sample {record.sample_id} has no place of its own in the HDF5 file", "use another --format")
                offsets.append(int(offset))
                labels.append(record.label)
            file.create_dataset(LABELS, data=np.array(labels, np.int64))
        sink.write(whole.getbuffer())
        return offsets

    def parse(self, stored: memoryview) -> memoryview:
        """The stored bytes of one sample (its extent) are the record; the library was needed to find it only."""
        return stored

    def encoder_versions(self) -> dict[str, str]:
        """The library that lays the file out."""
        import h5py

        return {"h5py": str(h5py.version.version), "hdf5": str(h5py.version.hdf5_version)}
