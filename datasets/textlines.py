"""Format `csv`: text lines `id,label,record`, many to a shard. Bytes in, bytes out; no I/O.

A record is printable text without a comma or a quote (`--payload text`), so that a line needs no quoting and the record's bytes lie in the file as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

_FIRST_PRINTABLE, _LAST_PRINTABLE = 0x20, 0x7E
_SPECIAL = b',"'


class CsvFormat:
    """No header line; lines end with a newline alone."""

    name = "csv"
    suffix = ".csv"
    one_sample_per_shard = False
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write a line a record; the byte offset of each record in the file. DatasetError for a record that is not plain text."""
        offsets, position = [], 0
        for record in records:
            _refuse_other(record)
            head = f"{record.sample_id},{record.label},".encode()
            sink.write(head)
            sink.write(record.payload)
            sink.write(b"\n")
            offsets.append(position + len(head))
            position += len(head) + len(record.payload) + 1
        return offsets

    def parse(self, stored: memoryview) -> memoryview:
        """The stored bytes of one sample (its extent) are the record; the line around it was needed to find it only."""
        return stored


def _refuse_other(record: Record) -> None:
    values = np.frombuffer(record.payload, np.uint8)
    bad = (values < _FIRST_PRINTABLE) | (values > _LAST_PRINTABLE)
    for special in _SPECIAL:
        bad |= values == special
    if bad.any():
        place = int(bad.argmax())
        raise DatasetError(
            f"sample {record.sample_id} has the byte {int(values[place])} at {place}, and a csv record is printable text without comma and quote",
            "generate with --payload text, or use another --format",
        )
