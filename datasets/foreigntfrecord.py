"""Where the samples lie in TFRecord files that others made: frame by frame, reading heads only. A frame of DLIO's holds a `tf.train.Example` with one `image`;
any other frame is a sample as a whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from crc32c import crc32c

from storagebench.datasets.foreignbytes import Place, Reader, Window
from storagebench.datasets.tfrecord import masked
from storagebench.errors import DatasetError


def frames(reader: Reader) -> list[Place]:
    """(offset, length) of each frame's sample. Raises DatasetError where a frame's length does not have its checksum, or the file ends within one."""
    places: list[Place] = []
    position, window = 0, Window(reader)
    while position < reader.num_bytes:
        if position + 16 > reader.num_bytes:
            raise DatasetError(f"ends within a frame at byte {position}")
        length, checksum = struct.unpack("<QI", window.get(position, 12))
        if masked(crc32c(window.get(position, 8))) != checksum:
            raise DatasetError(f"has no frame of TFRecord at byte {position}: it is damaged, compressed or of another format")
        start, end = position + 12, position + 12 + length
        if end + 4 > reader.num_bytes:
            raise DatasetError(f"ends within a frame of {length} bytes at byte {position}")
        places.append(_image_of_example(window, start, end) or (start, length))
        position = end + 4
    return places


def _image_of_example(window: Window, start: int, end: int) -> Place | None:
    """Where the one value of the feature `image` lies in an Example (Example.features.feature[]: a map of name to Feature.bytes_list.value[])."""
    found: list[Place] = []
    try:
        for _, features_at, features_end in _fields(window, start, end):
            for _, entry_at, entry_end in _fields(window, features_at, features_end):
                entry = {number: (low, high) for number, low, high in _fields(window, entry_at, entry_end)}
                key_at, key_end = entry.get(1, (0, 0))
                if key_end - key_at == 5 and bytes(window.get(key_at, 5)) == b"image" and 2 in entry:
                    for kind, low, high in _fields(window, *entry[2]):
                        found += [(at, stop - at) for _, at, stop in _fields(window, low, high)] if kind == 1 else []
    except ValueError:
        return None
    return found[0] if len(found) == 1 and found[0][1] else None


def _fields(window: Window, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the fields of a protocol buffer that all have a length. Raises ValueError for any other."""
    while position < end:
        tag, position = _varint(window, position, end)
        length, position = _varint(window, position, end)
        if tag & 7 != 2 or position + length > end:
            raise ValueError("a field of another kind, or one that runs over the end")
        yield tag >> 3, position, position + length
        position += length


def _varint(window: Window, position: int, end: int) -> tuple[int, int]:
    value = 0
    for number, byte in enumerate(bytes(window.get(position, min(10, end - position)))):
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:
            return value, position + number + 1
    raise ValueError("a number that does not end")
