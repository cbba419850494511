"""Format `arrayrecord`: ArrayRecord files, as Grain's own source reads them. Each record is the `tf.train.Example` of format `tfrecord` (id, label, image).

Written by the package array_record, which knows paths only: a shard is made in a temporary file (TMPDIR), and its bytes are passed on. Its options are
`group_size:1`, a record a chunk: "Grain requires group size 1 for good performance" (array_record/python/array_record_data_source.py of 0.8.6), and what the
package's own Beam writers have. And `uncompressed`, where the library's default is zstd: as with our other formats a record costs its bytes, whatever is in it.
The same records give the same bytes, for a version of the library. It fills a file up to whole blocks of 64 KiB, and the index at its end begins a block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.datasets.tfrecord import example_head, read_example
from storagebench.errors import DatasetError, StorageError, UsageError
from storagebench.protocols import Record, Sink

WRITER_OPTIONS = "group_size:1,uncompressed"
# Grain's source reads so: the record that is asked for, and nothing ahead of it.
READER_OPTIONS = "readahead_buffer_size:0"
_UNREADABLE = -1
_COPY_BYTES = 4 * 2**20


class ArrayRecordFormat:
    """The index holds the number of each record in its shard, not its offset. A record has at most 2 GiB, which is what a protocol buffer takes."""

    name = "arrayrecord"
    suffix = ".array_record"
    one_sample_per_shard = False
    byte_addressed = False

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records; the number of each. Takes the room of the whole shard in TMPDIR; StorageError where it has none."""
        with tempfile.NamedTemporaryFile(suffix=self.suffix) as file:
            count = _write(file.name, records)
            while data := file.read(_COPY_BYTES):
                sink.write(data)
        return list(range(count))

    def parse(self, stored: memoryview) -> memoryview:
        """UsageError always: only the library knows where a record lies."""
        raise UsageError("a record of an ArrayRecord file cannot be parsed on its own, only by its library", "use --loader grain")

    def row_checksums(self, stored: memoryview, trusted: bool) -> NDArray[np.int64] | None:
        """CRC32C of each record of a whole file, -1 where its chunk is damaged (the library compares a hash of each); None where its index cannot be read.
        Takes the room of the shard in TMPDIR; StorageError where it has none."""
        from array_record.python.array_record_module import ArrayRecordReader

        with tempfile.NamedTemporaryFile(suffix=self.suffix) as file:
            with _in_tmp():
                file.write(stored)
                file.flush()
            try:
                reader = ArrayRecordReader(file.name, options=READER_OPTIONS)
            except RuntimeError:
                return None
            return np.array([_checksum(reader, number) for number in range(reader.num_records())], np.int64) if reader.ok() else None

    def encoder_versions(self) -> dict[str, str]:
        """The library, with its version, that the bytes depend on."""
        from importlib.metadata import version

        return {"array_record": version("array_record"), "options": WRITER_OPTIONS}


def _write(path: str, records: Iterable[Record]) -> int:
    from array_record.python.array_record_module import ArrayRecordWriter

    count = 0
    with _in_tmp():
        writer = ArrayRecordWriter(path, WRITER_OPTIONS)
    try:
        for record in records:
            data = b"".join((example_head(record.sample_id, record.label, len(record.payload)), record.payload))
            with _in_tmp():
                writer.write(data)
            count += 1
    finally:
        with _in_tmp():
            writer.close()
    return count


@contextmanager
def _in_tmp() -> Iterator[None]:
    """What fails here is the temporary file."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise StorageError(
            f"a temporary ArrayRecord file in {tempfile.gettempdir()} could not be written ({error})",
            "set TMPDIR to a folder with room for some shards",
        ) from None


def _checksum(reader: Any, number: int) -> int:
    try:
        (data,) = reader.read([number])
        return int(crc32c(read_example(memoryview(data)).record))
    except (RuntimeError, DatasetError):
        return _UNREADABLE
