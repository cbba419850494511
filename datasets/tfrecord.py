"""Formats `tfrecord` and `tfrecord_zlib`: framed `tf.train.Example` records as TensorFlow writes and reads them, without TensorFlow. Bytes in, bytes out; no I/O.

An Example has the features `id` and `label` (int64) and `image` (bytes, the record), in this order, so that the record ends its frame. The index beside each
shard has a line `offset length` for each frame, as DALI's `tfrecord2idx` and the package `tfrecord` have it. A compressed shard is one zlib stream, in which no
record has a place of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c
from isal import isal_zlib
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from storagebench.errors import DatasetError, UsageError
from storagebench.protocols import Record, Sink

_FRAME = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
# What stands before a frame's data, and around it.
FRAME_HEAD_BYTES, FRAME_BYTES = _FRAME.size, _FRAME.size + _CHECKSUM.size
_MASK_DELTA = 0xA282EAD8
_HINT = "run `storagebench verify`, then generate or import the dataset again"
# Field number and wire type in one byte: 1 and 3 with a length before the value, 2 too.
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"
_MAX_VARINT_BYTES = 10
SUFFIX, SUFFIX_ZLIB = ".tfrecord", ".tfrecord.zlib"
_INFLATE_BYTES = 2**20
_LEVEL = 1


class TFRecordFormat:
    """Uncompressed. A record has at most 2 GiB, which is what a protocol buffer takes."""

    name = "tfrecord"
    suffix = SUFFIX
    one_sample_per_shard = False
    byte_addressed = True
    index_suffix = ".idx"

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records one behind the other; the byte offset of each record (not of its frame) in the file."""
        offsets, position = [], 0
        for record in records:
            head = example_head(record.sample_id, record.label, len(record.payload))
            length = len(head) + len(record.payload)
            frame = frame_head(length) + head
            sink.write(frame)
            sink.write(record.payload)
            sink.write(_CHECKSUM.pack(masked(crc32c(record.payload, crc32c(head)))))
            offsets.append(position + len(frame))
            position += _FRAME.size + length + _CHECKSUM.size
        return offsets

    def parse(self, stored: memoryview) -> memoryview:
        """The stored bytes of one sample (its extent) are the record; the frame around it was needed to find it only."""
        return stored

    def shard_index(self, first_sample: int, rows: NDArray[Any]) -> bytes:
        """The index of a shard out of the dataset's rows (INDEX_DTYPE)."""
        lines = []
        for row, (offset, size, label) in enumerate(zip(rows["offset"].tolist(), rows["record_bytes"].tolist(), rows["label"].tolist(), strict=True)):
            before = _FRAME.size + len(example_head(first_sample + row, label, size))
            lines.append(f"{offset - before} {before + size + _CHECKSUM.size}\n")
        return "".join(lines).encode()


class TFRecordZlibFormat:
    """TensorFlow's compression_type ZLIB. The index holds the number of each record in its shard, not its offset."""

    name = "tfrecord_zlib"
    suffix = SUFFIX_ZLIB
    one_sample_per_shard = False
    byte_addressed = False

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write the records, compressed; the number of each."""
        deflated = _Deflated(sink)
        count = len(TFRecordFormat().write_shard(deflated, records, options))
        deflated.finish()
        return list(range(count))

    def parse(self, stored: memoryview) -> memoryview:
        """UsageError always: a record has no stored bytes of its own."""
        raise UsageError("a record of a compressed TFRecord file cannot be parsed on its own, only its whole file", "use --loader tfrecord")

    def row_checksums(self, stored: memoryview, trusted: bool) -> NDArray[np.int64] | None:
        """CRC32C of each record of a whole file; None where it cannot be read to its end."""
        try:
            found = [crc32c(read_example(data).record) for data in read_frames(Inflated(_Reader(stored)))]
        except DatasetError:
            return None
        return np.array(found, np.int64)

    def encoder_versions(self) -> dict[str, str]:
        """The library, with its version, that the compressed bytes depend on."""
        from importlib.metadata import version

        return {"isal": version("isal"), "level": str(_LEVEL)}


class _Deflated:
    """A sink that compresses what it passes on."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._stream = isal_zlib.compressobj(_LEVEL)

    def write(self, data: Any, /) -> int:
        self._put(self._stream.compress(data))
        return len(data)

    def finish(self) -> None:
        self._put(self._stream.flush())

    def _put(self, data: bytes) -> None:
        if data:
            self._sink.write(data)


class Inflated:
    """What a zlib stream holds, as a stream that can be read; `source` is one of the compressed bytes. Reading raises DatasetError for a stream that is
    damaged, ends early or is followed by other bytes."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._stream = isal_zlib.decompressobj()
        self._ready = memoryview(b"")

    def read(self, num_bytes: int) -> bytes:
        """So many bytes, or what is left."""
        parts, need = [], num_bytes
        while need:
            if not self._ready and not self._inflate():
                break
            part = self._ready[:need]
            self._ready = self._ready[len(part) :]
            parts.append(part)
            need -= len(part)
        return b"".join(parts)

    def _inflate(self) -> bool:
        """Have more bytes ready; False at the end of the stream."""
        while not self._ready:
            if self._stream.eof:
                if self._stream.unused_data or self._source.read(1):
                    raise DatasetError("TFRecord has bytes behind the end of its zlib stream", _HINT)
                return False
            packed = self._stream.unconsumed_tail or self._source.read(_INFLATE_BYTES)
            before = len(packed)
            try:
                self._ready = memoryview(self._stream.decompress(packed, _INFLATE_BYTES))
            except IsalError as error:  # type: ignore[misc]  # its stubs call the class an instance
                raise DatasetError(f"TFRecord is no whole zlib stream ({error})", _HINT) from None
            if not before and not self._ready and not self._stream.eof:
                raise DatasetError("TFRecord ends within its zlib stream", _HINT)
        return True


class _Reader:
    """Bytes in memory, as a stream."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def read(self, num_bytes: int) -> memoryview:
        part, self._data = self._data[:num_bytes], self._data[num_bytes:]
        return part


class Example(NamedTuple):
    """What is in a frame that storagebench wrote."""

    sample_id: int
    label: int
    record: memoryview


def read_frames(stream: Any) -> Iterator[memoryview]:
    """The data of each frame of an open file, both checksums compared. Raises DatasetError where it is damaged or cut short."""
    while head := stream.read(_FRAME.size):
        if len(head) < _FRAME.size:
            raise DatasetError(f"TFRecord ends within the length of a frame ({len(head)} of {_FRAME.size} bytes)", _HINT)
        length, checksum = _FRAME.unpack(head)
        if masked(crc32c(head[:8])) != checksum:
            raise DatasetError("TFRecord has a frame whose length does not have its checksum", _HINT)
        data = stream.read(length)
        tail = stream.read(_CHECKSUM.size)
        if len(data) < length or len(tail) < _CHECKSUM.size:
            raise DatasetError(f"TFRecord ends within a frame of {length} bytes", _HINT)
        if masked(crc32c(data)) != _CHECKSUM.unpack(tail)[0]:
            raise DatasetError(f"TFRecord has a frame of {length} bytes that does not have its checksum", _HINT)
        yield memoryview(data)


def read_example(data: memoryview) -> Example:
    """An Example of ours, by the fields of its protocol buffer, zero-copy. Raises DatasetError for any other message."""
    found: dict[str, Any] = {}
    try:
        for _, features in _fields(data):
            for _, entry in _fields(features):
                key, feature = (value for _, value in _fields(entry))
                ((kind, values),) = _fields(feature)
                ((_, value),) = _fields(values)
                found[bytes(key).decode()] = value if kind == 1 else _signed(_varint(value, 0)[0])
        return Example(found["id"], found["label"], found["image"])
    except (ValueError, KeyError, IndexError, UnicodeDecodeError):
        raise DatasetError(f"a frame of {len(data)} bytes holds no Example with id, label and image", _HINT) from None


def masked(checksum: int) -> int:
    """A checksum as TFRecord stores it: rotated and moved, so that a checksum of data that has checksums in it is a good one."""
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame_head(length: int) -> bytes:
    """What stands before the data of a frame."""
    packed = struct.pack("<Q", length)
    return packed + _CHECKSUM.pack(masked(crc32c(packed)))


def example_head(sample_id: int, label: int, num_bytes: int) -> bytes:
    """All of the Example up to the record's bytes, which end it. Raises DatasetError above 2 GiB."""
    if num_bytes > 2**31 - 256:
        raise DatasetError(f"sample {sample_id} has {num_bytes} bytes, and a TFRecord Example takes 2 GiB at most", "use another --format")
    before = _entry(b"id", _int64(sample_id)) + _entry(b"label", _int64(label))
    value = _FIRST + _varint_bytes(num_bytes)  # bytes_list.value
    values = _FIRST + _varint_bytes(len(value) + num_bytes) + value  # feature.bytes_list
    entry = _FIRST + _varint_bytes(5) + b"image" + _SECOND + _varint_bytes(len(values) + num_bytes) + values
    last = _FIRST + _varint_bytes(len(entry) + num_bytes) + entry
    return _FIRST + _varint_bytes(len(before) + len(last) + num_bytes) + before + last


def _entry(key: bytes, feature: bytes) -> bytes:
    entry = _FIRST + _varint_bytes(len(key)) + key + _SECOND + _varint_bytes(len(feature)) + feature
    return _FIRST + _varint_bytes(len(entry)) + entry


def _int64(value: int) -> bytes:
    number = _varint_bytes(value & 0xFFFFFFFFFFFFFFFF)
    values = _FIRST + _varint_bytes(len(number)) + number
    return _THIRD + _varint_bytes(len(values)) + values


def _varint_bytes(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number there, and the place behind it."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("a number of more than 10 bytes")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, value) of a message whose fields all have a length before them."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        length, position = _varint(message, position)
        if tag & 7 != 2 or position + length > len(message):
            raise ValueError("a field of another kind, or one that runs over the end")
        yield tag >> 3, message[position : position + length]
        position += length
