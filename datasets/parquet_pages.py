"""Parquet column chunks as we write them, read without a Parquet library: where the payload lies in a file, and its values as views on the bytes.

PLAIN values of a required BYTE_ARRAY column, uncompressed and without a dictionary: each is its length (32 bits, little-endian) and its bytes. Everything else
is refused with the reason. Bytes in, bytes out; no I/O.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from storagebench.datasets.parquet import PAYLOAD_COLUMN
from storagebench.errors import DatasetError, UsageError

_HINT = "run `storagebench verify`, then generate or import the dataset again"
_OTHER_LOADER = "use --loader parquet"
# What a footer of some thousand row groups takes; a longer one is asked for again.
TAIL_BYTES = 2**18
_MAGIC = b"PAR1"
_MAX_HEADER_FIELDS = 64
# Thrift's compact protocol: types of fields.
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 6, 7, 8, 12
_DATA_PAGE, _DATA_PAGE_V2 = 0, 3
_PLAIN = 0


class Chunk(NamedTuple):
    """The payload of one row group: its pages are the bytes `offset` .. + `length` of the file, and hold `num_values` values."""

    offset: int
    length: int
    num_values: int


def footer_bytes(tail: memoryview) -> int:
    """Bytes of the file's end that the footer takes, as its last eight say. Raises DatasetError for what is no Parquet file."""
    if len(tail) < 8 or bytes(tail[-4:]) != _MAGIC:
        raise DatasetError("Parquet file does not end with its magic", _HINT)
    return int(struct.unpack_from("<I", tail, len(tail) - 8)[0]) + 8


def payload_chunks(tail: memoryview) -> list[Chunk]:
    """The payload's chunk in each row group, out of the file's end with the whole footer in it.

    Raises DatasetError for a damaged footer, UsageError for a payload that is not plain bytes (the reason, and the loader that can).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(pa.BufferReader(pa.py_buffer(tail)))
        names = [footer.schema.column(index).path for index in range(footer.num_columns)]
        place = names.index(PAYLOAD_COLUMN)
        column = footer.schema.column(place)
    except ValueError as error:
        raise DatasetError(f"Parquet footer does not decode, or has no column {PAYLOAD_COLUMN} ({error})", _HINT) from None
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"Parquet footer does not decode ({error})", _HINT) from None
    if column.physical_type != "BYTE_ARRAY" or column.max_definition_level or column.max_repetition_level:
        raise UsageError(
            f"Parquet column {PAYLOAD_COLUMN} is {column.physical_type}, optional or repeated; plain required bytes are read", _OTHER_LOADER
        )
    return [_chunk(footer.row_group(group).column(place)) for group in range(footer.num_row_groups)]


def _chunk(found: Any) -> Chunk:
    if found.compression != "UNCOMPRESSED":
        raise UsageError(
            f"Parquet column {PAYLOAD_COLUMN} is compressed with {found.compression}; uncompressed bytes are read in place", _OTHER_LOADER
        )
    other = set(found.encodings) - {"PLAIN", "RLE"}
    if found.has_dictionary_page or other or "PLAIN" not in found.encodings:
        names = ", ".join(sorted(found.encodings))
        raise UsageError(f"Parquet column {PAYLOAD_COLUMN} is encoded as {names}; PLAIN values without a dictionary are read in place", _OTHER_LOADER)
    return Chunk(int(found.data_page_offset), int(found.total_compressed_size), int(found.num_values))


def chunk_values(stored: memoryview, num_values: int) -> list[memoryview]:
    """The values in the pages of one chunk, zero-copy. Raises DatasetError where a page does not fit."""
    values: list[memoryview] = []
    position = 0
    while position < len(stored):
        header, position = _page_header(stored, position)
        end = position + header.num_bytes
        if end > len(stored):
            raise DatasetError(f"Parquet page ends at byte {end} of {len(stored)}", _HINT)
        for _ in range(header.num_values):
            start = position + 4
            size = int.from_bytes(stored[position:start], "little")
            position = start + size
            if position > end:
                raise DatasetError(f"Parquet value of {size} bytes passes its page", _HINT)
            values.append(stored[start:position])
        if position != end:
            raise DatasetError(f"Parquet page has {end - position} bytes behind its {header.num_values} values", _HINT)
    if len(values) != num_values:
        raise DatasetError(f"Parquet column chunk has {len(values)} values, and its footer says {num_values}", _HINT)
    return values


class _Page(NamedTuple):
    num_bytes: int
    num_values: int


def _page_header(stored: memoryview, position: int) -> tuple[_Page, int]:
    """The header at that place, and the first byte behind it."""
    try:
        fields, position = _struct(stored, position, depth=0)
        kind, sizes = fields[1], (fields[2], fields[3])
        if kind == _DATA_PAGE:
            about = fields[5]
            num_values, encoding = about[1], about[2]
        elif kind == _DATA_PAGE_V2:
            about = fields[8]
            num_values, encoding = about[1], about[4]
            if about[5] or about[6]:
                raise DatasetError("Parquet page has levels, and the column is required", _HINT)
        else:
            raise DatasetError(f"Parquet page is of kind {kind}, and only data pages are expected", _HINT)
    except (KeyError, IndexError, TypeError):
        raise DatasetError(f"Parquet page header at byte {position} does not decode", _HINT) from None
    if encoding != _PLAIN or sizes[0] != sizes[1] or min(sizes[1], num_values) < 0:
        raise DatasetError(
            f"Parquet page has encoding {encoding}, {sizes[0]} bytes plain and {sizes[1]} stored; PLAIN and uncompressed is read", _HINT
        )
    return _Page(sizes[1], num_values), position


def _struct(data: memoryview, position: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol: field id -> value. Raises IndexError or KeyError where the bytes are none."""
    fields: dict[int, Any] = {}
    number = 0
    for _ in range(_MAX_HEADER_FIELDS):
        head = data[position]
        position += 1
        if head == 0:
            return fields, position
        if head >> 4:
            number += head >> 4
        else:
            number, position = _signed(data, position)
        fields[number], position = _value(data, position, head & 15, depth)
    raise KeyError("too many fields")


def _value(data: memoryview, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, position
    if kind == _BYTE:
        return data[position], position + 1
    if _BYTE < kind <= _I64:
        return _signed(data, position)
    if kind == _DOUBLE:
        return None, position + 8
    if kind == _BINARY:
        size, position = _unsigned(data, position)
        return None, position + size
    if kind == _STRUCT and depth < 4:
        return _struct(data, position, depth + 1)
    raise KeyError(kind)  # lists, sets and maps have no place in a page header


def _unsigned(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise KeyError("integer too long")


def _signed(data: memoryview, position: int) -> tuple[int, int]:
    value, position = _unsigned(data, position)
    return (value >> 1) ^ -(value & 1), position
