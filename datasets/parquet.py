"""Format `parquet`: columns sample_id, label, crc32c and payload (binary), uncompressed and without dictionaries, so that a row costs its bytes.

Bytes in, bytes out; no I/O. Each row group is written as it is full, and holds exactly `row_group_samples` rows (the last one of a shard the rest).
Pages carry checksums. Run as a module, this decodes a damaged file in a process of its own (see `row_checksums_of_damaged`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.errors import DatasetError, UsageError
from storagebench.protocols import Record, Sink

PAYLOAD_COLUMN = "payload"
# A page holds at least one whole value, and its size is a signed 32-bit number; a binary array's offsets are too.
MAX_RECORD_BYTES = 2**31 - 2**21
_UNDECODABLE = -1
_DECODER_MEMORY_BYTES = 4 * 2**30
_DECODER_LIMIT_S = 600


class ParquetFormat:
    """Written by pyarrow, whose version is part of what determines the bytes. The index holds row numbers, not byte offsets."""

    name = "parquet"
    suffix = ".parquet"
    one_sample_per_shard = False
    byte_addressed = False

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records in row groups of option `row_group_samples` (default 1); the row of each record.

        Holds one row group in memory. UsageError for a record over 2 GiB less 2 MiB.
        """
        import pyarrow.parquet as pq

        group_samples = int(options.get("row_group_samples", 1))
        iterator, num_rows = iter(records), 0
        with pq.ParquetWriter(_SinkFile(sink), _schema(), **_WRITER_OPTIONS) as writer:
            while (group := _row_group(islice(iterator, group_samples))) is not None:
                writer.write_table(group, row_group_size=group_samples)
                num_rows += group.num_rows
        return list(range(num_rows))

    def parse(self, stored: memoryview) -> memoryview:
        """UsageError always: a row has no stored bytes of its own. `row_group_records` takes the records out of a row group."""
        raise UsageError("a Parquet row cannot be parsed on its own, only its row group", "use --loader parquet")

    def row_checksums(self, stored: memoryview, trusted: bool) -> NDArray[np.int64] | None:
        """A damaged file can crash its decoder or make it take any amount of memory: what is not trusted is left to a process of its own."""
        return row_checksums(stored) if trusted else row_checksums_of_damaged(stored)

    def encoder_versions(self) -> dict[str, str]:
        """Libraries, with versions, that the written bytes depend on."""
        import pyarrow

        return {"pyarrow": str(pyarrow.__version__)}


_COLUMNS = ("sample_id", "label", "crc32c", PAYLOAD_COLUMN)
_WRITER_OPTIONS: dict[str, Any] = {
    "compression": "NONE",
    "use_dictionary": False,
    "column_encoding": dict.fromkeys(_COLUMNS, "PLAIN"),
    "write_statistics": ["sample_id", "label"],
    "write_page_checksum": True,
    # Pages are cut after 1 MiB, which is looked at between batches: with 1024 rows a batch, a page of large records would pass 2 GiB.
    "write_batch_size": 1,
}


def _schema() -> Any:
    import pyarrow as pa

    types = (pa.int64(), pa.int32(), pa.uint32(), pa.binary())
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in zip(_COLUMNS, types, strict=True)])


class _SinkFile:
    """What pyarrow needs of a file to write to."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._position = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._sink.write(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """The sink keeps nothing back."""

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _row_group(records: Iterator[Record]) -> Any:
    """A table of these records, or None if there are none. Payloads are copied as they come, since their memory is reused."""
    import pyarrow as pa

    ids, labels, checksums = [], [], []
    chunks: list[tuple[bytearray, list[int]]] = []
    for record in records:
        size = len(record.payload)
        if size > MAX_RECORD_BYTES:
            raise UsageError(
                f"sample {record.sample_id} has {size} bytes, and Parquet takes {MAX_RECORD_BYTES} in one value", "use another --format, such as npz"
            )
        if not chunks or chunks[-1][1][-1] + size > MAX_RECORD_BYTES:
            chunks.append((bytearray(), [0]))
        data, ends = chunks[-1]
        data += record.payload
        ends.append(len(data))
        ids.append(record.sample_id)
        labels.append(record.label)
        checksums.append(crc32c(record.payload))
    if not ids:
        return None
    arrays = [
        pa.Array.from_buffers(pa.binary(), len(ends) - 1, [None, pa.py_buffer(np.array(ends, np.int32)), pa.py_buffer(data)]) for data, ends in chunks
    ]
    columns = [np.array(ids, np.int64), np.array(labels, np.int32), np.array(checksums, np.uint32), pa.chunked_array(arrays)]
    return pa.table(columns, schema=_schema())


def binary_values(column: Any) -> list[memoryview]:
    """The values of a pyarrow binary or large_binary (chunked) array, zero-copy. Raises DatasetError for a null."""
    values: list[memoryview] = []
    for chunk in getattr(column, "chunks", [column]):
        if chunk.null_count:
            raise DatasetError(f"binary column has {chunk.null_count} null values", "remove the rows without data")
        _, ends, data = chunk.buffers()
        if len(chunk) == 0:
            continue
        width = np.int64 if str(chunk.type) in ("large_binary", "large_string") else np.int32
        bounds = np.frombuffer(ends, dtype=width)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        view = memoryview(data).cast("B") if data is not None else memoryview(b"")
        values += [view[low:high] for low, high in pairwise(bounds)]
    return values


def row_group_records(table: Any) -> list[memoryview]:
    """The records of a row group (a pyarrow table with column `payload`), in row order, as zero-copy views that keep the table's memory alive."""
    return binary_values(table.column(PAYLOAD_COLUMN))


def row_checksums(stored: memoryview) -> NDArray[np.int64]:
    """CRC32C of each row's payload in a whole file, one row group in memory; -1 for rows of a row group that does not decode.

    Raises DatasetError where even the footer is damaged. For untrusted bytes use `row_checksums_of_damaged`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(stored)))
        checksums: list[int] = []
        for group in range(file.num_row_groups):
            checksums += _group_checksums(file, group)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(f"Parquet file does not decode ({error})", "generate or import the dataset again") from None
    return np.array(checksums, np.int64)


def _group_checksums(file: Any, group: int) -> list[int]:
    import pyarrow as pa

    num_rows = int(file.metadata.row_group(group).num_rows)
    try:
        found = [crc32c(value) for value in row_group_records(file.read_row_group(group, columns=[PAYLOAD_COLUMN], use_threads=False))]
    except (pa.ArrowException, OSError, DatasetError, KeyError):
        found = []
    return found if len(found) == num_rows else [_UNDECODABLE] * num_rows


def row_checksums_of_damaged(stored: memoryview) -> NDArray[np.int64] | None:
    """`row_checksums` in a process with bounded memory and time, which a damaged file may crash; None where it does, or the footer is damaged."""
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "storagebench.datasets.parquet"],
            input=stored,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_DECODER_LIMIT_S,
            check=True,
        )
        return np.array(json.loads(child.stdout), np.int64)
    except (subprocess.SubprocessError, ValueError, OverflowError):
        return None


def _decode_stdin() -> None:
    import resource

    stored = sys.stdin.buffer.read()
    limit = len(stored) * 4 + _DECODER_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    json.dump(row_checksums(memoryview(stored)).tolist(), sys.stdout)


if __name__ == "__main__":
    _decode_stdin()
