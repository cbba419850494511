"""Format `npz`: one uncompressed NumPy zip archive a sample, with `x.npy` (uint8, the record) and `y.npy` (int64, the label).

Written in one forward pass and read by structure: bytes in, bytes out, no I/O. The data of x starts at a multiple of 64 bytes.
CRC-32 is ISA-L's: 30 GB/s here, where zlib's 4 GB/s was a third of what making a record costs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from isal.isal_zlib import crc32

from storagebench.datasets.npyheader import ALIGNMENT_BYTES, npy_data, npy_header
from storagebench.datasets.single import only_record
from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_DOS_DATE_1980 = 0x21
_MAX_32 = 0xFFFFFFFF
_ZIP64_ID = 1
# The extra field that Android's zipalign uses to move data to an aligned place; readers skip it.
_PADDING_ID = 0xD935
_HINT = "run `storagebench verify`, then generate or import the dataset again"


class NpzFormat:
    """`numpy.load(file, allow_pickle=False)` reads it; no other member and no compression is ever there."""

    name = "npz"
    suffix = ".npz"
    one_sample_per_shard = True
    byte_addressed = True

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the one record; the offset of its bytes in the file. ValueError for any other number of records."""
        with only_record(records, self.name) as record:
            archive = _Archive(sink)
            offset = archive.add("x.npy", npy_header("|u1", len(record.payload)), record.payload)
            archive.add("y.npy", npy_header("<i8", 1), memoryview(struct.pack("<q", record.label)))
            archive.finish()
            return [offset]

    def parse(self, stored: memoryview) -> memoryview:
        """The bytes of array x in a whole archive, zero-copy, by the fields of its local header and npy header.

        Raises DatasetError where x.npy is not the first member, is compressed or encrypted, or does not fit the file, and where its end is gone.
        Member checksums are not computed: the manifest's are.
        """
        start, size = _first_member(stored, b"x.npy")
        return npy_data(stored[start : start + size])


class _Archive:
    """A stored zip, written front to back."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._position = 0
        self._central: list[bytes] = []

    def _write(self, data: Any) -> None:
        self._sink.write(data)
        self._position += len(data)

    def add(self, name: str, header: bytes, data: memoryview) -> int:
        """Add a member of header + data; the file offset of data, aligned to 64 bytes when the header is."""
        size, checksum, start = len(header) + len(data), crc32(data, crc32(header)), self._position
        big = size >= _MAX_32
        zip64 = struct.pack("<2H2Q", _ZIP64_ID, 16, size, size) if big else b""
        extra = zip64 + _padding(start + _LOCAL.size + len(name) + len(zip64))
        shown = _MAX_32 if big else size
        version = 45 if big else 20
        head = _LOCAL.pack(b"PK\x03\x04", version, 0, 0, 0, _DOS_DATE_1980, checksum, shown, shown, len(name), len(extra))
        self._write(head + name.encode() + extra + header)
        offset = self._position
        self._write(data)
        self._central.append(_central_entry(name, checksum, size, start))
        return offset

    def finish(self) -> None:
        """Write the directory and the end record, with their 64-bit forms where a number needs it."""
        start, directory, count = self._position, b"".join(self._central), len(self._central)
        self._write(directory)
        if start >= _MAX_32:
            end64 = self._position
            self._write(_END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, len(directory), start))
            self._write(_LOCATOR64.pack(b"PK\x06\x07", 0, end64, 1))
        self._write(_END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), min(start, _MAX_32), 0))


def _padding(position: int) -> bytes:
    """An extra field that moves what follows it to a multiple of 64 bytes."""
    length = -(position + 4) % ALIGNMENT_BYTES
    return struct.pack("<2H", _PADDING_ID, length) + bytes(length)


def _central_entry(name: str, checksum: int, size: int, start: int) -> bytes:
    big = b""
    if size >= _MAX_32:
        big += struct.pack("<2Q", size, size)
    if start >= _MAX_32:
        big += struct.pack("<Q", start)
    extra = struct.pack("<2H", _ZIP64_ID, len(big)) + big if big else b""
    version, shown = 45 if big else 20, min(size, _MAX_32)
    fields = (version, version, 0, 0, 0, _DOS_DATE_1980, checksum, shown, shown, len(name), len(extra), 0, 0, 0, 0, min(start, _MAX_32))
    return _CENTRAL.pack(b"PK\x01\x02", *fields) + name.encode() + extra


def _first_member(stored: memoryview, name: bytes) -> tuple[int, int]:
    """Start and size of the first member's data."""
    if len(stored) < _LOCAL.size + _END.size:
        raise DatasetError(f"npz archive has {len(stored)} bytes, too few for any", _HINT)
    signature, _, flags, method, _, _, _, stored_size, size, name_length, extra_length = _LOCAL.unpack_from(stored)
    if signature != b"PK\x03\x04" or bytes(stored[-_END.size : -_END.size + 4]) != b"PK\x05\x06":
        raise DatasetError("npz archive does not begin and end as an uncommented zip file: it is damaged or truncated", _HINT)
    start = _LOCAL.size + name_length + extra_length
    if bytes(stored[_LOCAL.size : _LOCAL.size + name_length]) != name:
        raise DatasetError(f"npz archive does not have {name.decode()} as its first member", _HINT)
    # Bit 0 is encryption, bit 3 sizes that come after the data; a data descriptor would leave the sizes here unknown.
    if method != 0 or flags & 0b1001:
        raise DatasetError(f"npz member {name.decode()} is compressed, encrypted or streamed (method {method}, flags {flags})", _HINT)
    if size == _MAX_32 and stored_size == _MAX_32:
        size = stored_size = _zip64_size(stored[_LOCAL.size + name_length : start])
    if size != stored_size or start + size > len(stored):
        raise DatasetError(f"npz member {name.decode()} of {size} bytes at {start} does not fit the archive of {len(stored)} bytes", _HINT)
    return start, size


def _zip64_size(extra: memoryview) -> int:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == _ZIP64_ID and length >= 16 and position + 20 <= len(extra):
            return int(struct.unpack_from("<Q", extra, position + 4)[0])
        position += 4 + length
    raise DatasetError("npz member is over 4 GiB and has no 64-bit size", _HINT)
