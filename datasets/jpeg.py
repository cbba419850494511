"""Formats `raw` and `jpeg`: the shard file is the record itself. Bytes in, bytes out; no I/O, no decoding."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from storagebench.datasets.single import only_record
from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

_HINT = "run `storagebench verify`, then generate or import the dataset again"
# Start-of-frame markers; C4, C8 and CC in their range are Huffman tables, reserved, and arithmetic conditioning.
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length field: TEM, and restart markers.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_SOS, _EOI = 0xDA, 0xD9


class RawFormat:
    """Bytes as they are."""

    name = "raw"
    suffix = ".bin"
    one_sample_per_shard = True
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the one record; its offset is 0. ValueError for any other number of records."""
        with only_record(records, self.name) as record:
            sink.write(record.payload)
            return [0]

    def parse(self, stored: memoryview) -> memoryview:
        """The file is the record: nothing to parse."""
        return stored


class JpegFormat(RawFormat):
    """One JPEG file a sample. Writing a record that is not a JPEG raises DatasetError."""

    name = "jpeg"
    suffix = ".jpg"

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        return super().write_shard(sink, (_checked(record) for record in records), options)

    def parse(self, stored: memoryview) -> memoryview:
        """The record, after its markers were walked up to the frame header. Raises DatasetError where that is not found."""
        jpeg_size(stored)
        return stored


def _checked(record: Record) -> Record:
    try:
        jpeg_size(record.payload)
    except DatasetError as error:
        raise DatasetError(f"sample {record.sample_id}: {error.message}", "use --format raw for files that are not JPEG") from None
    return record


def jpeg_size(stored: memoryview) -> tuple[int, int]:
    """Width and height in pixels, out of the frame header. Decodes nothing.

    Raises DatasetError for bytes that do not start as a JPEG, whose segments run over the end, or that have no frame header before the scan.
    """
    if len(stored) < 4 or bytes(stored[:2]) != b"\xff\xd8":
        raise DatasetError(f"JPEG of {len(stored)} bytes does not begin with the start-of-image marker", _HINT)
    position, end = 2, len(stored)
    while position + 4 <= end:
        if stored[position] != 0xFF:
            raise DatasetError(f"JPEG has no marker at byte {position} of {end}", _HINT)
        marker = stored[position + 1]
        if marker == 0xFF:  # any number of fill bytes may stand before a marker
            position += 1
            continue
        if marker in (_SOS, _EOI):
            break
        if marker in _BARE_MARKERS:
            position += 2
            continue
        length = int(struct.unpack_from(">H", stored, position + 2)[0])
        if length < 2 or position + 2 + length > end:
            raise DatasetError(f"JPEG segment {marker:#x} of {length} bytes at {position} does not fit the record of {end} bytes", _HINT)
        if marker in _SOF_MARKERS:
            return _frame_size(stored[position + 4 : position + 2 + length])
        position += 2 + length
    raise DatasetError(f"JPEG of {end} bytes has no frame header before its image data", _HINT)


def _frame_size(frame: memoryview) -> tuple[int, int]:
    if len(frame) < 6:
        raise DatasetError(f"JPEG frame header has {len(frame)} bytes, and 6 are the least", _HINT)
    height, width = struct.unpack_from(">HH", frame, 1)
    if width == 0 or height == 0:
        raise DatasetError(f"JPEG frame is {width} x {height} pixels", _HINT)
    return int(width), int(height)
