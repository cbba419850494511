"""Format `png`: the shard file is the record itself, a PNG image; and synthetic PNG records of an exact length. No I/O; Pillow is imported on first use.

A synthetic image is the one of `datasets.image` in RGB. What it leaves of the length is a private ancillary chunk (`sbPl`, which decoders pass over) with payload
bytes, which carry the sample id in every 512 bytes. It is a pure function of (generator and image version, seed, sample id, length, versions of Pillow and zlib).
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from isal.isal_zlib import crc32

from storagebench.datasets.image import IMAGE_VERSION, colour_field
from storagebench.datasets.jpeg import RawFormat
from storagebench.datasets.payload import STAMP_BYTES, PayloadGenerator
from storagebench.errors import DatasetError
from storagebench.protocols import Record, Sink

# The smallest image (16 x 16) takes up to 900 bytes, and a chunk with the id 20 more.
MIN_PNG_BYTES = 1280
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_CHUNK = struct.Struct(">I4sIIBBBBBI")
_CHUNK_BYTES = 12
_FILLER = b"sbPl"
_END_BYTES = 12
_CELL = 16
_MAX_PIXELS = 56 * 10**6
# What an image of the field takes at Pillow's level 1; a first guess is made smaller until it fits.
_BYTES_PER_PIXEL = 2.6
_SHRINK = 0.97
_HINT = "run `storagebench verify`, then generate or import the dataset again"


class PngFormat(RawFormat):
    """One PNG file a sample. Writing a record that is not a PNG raises DatasetError."""

    name = "png"
    suffix = ".png"

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        return super().write_shard(sink, (_checked(record) for record in records), options)

    def parse(self, stored: memoryview) -> memoryview:
        """The record, after its signature and header were read. Raises DatasetError where they are not there."""
        png_size(stored)
        return stored


def _checked(record: Record) -> Record:
    try:
        png_size(record.payload)
    except DatasetError as error:
        raise DatasetError(f"sample {record.sample_id}: {error.message}", "use --format raw for files that are not PNG") from None
    return record


def png_size(stored: memoryview) -> tuple[int, int]:
    """Width and height in pixels, out of the header chunk. Decodes nothing.

    Raises DatasetError for bytes that do not start as a PNG, whose header is damaged, or that do not end with the end chunk.
    """
    start = len(_SIGNATURE)
    if len(stored) < start + _HEADER_CHUNK.size + _END_BYTES or bytes(stored[:start]) != _SIGNATURE:
        raise DatasetError(f"PNG of {len(stored)} bytes does not begin with the signature", _HINT)
    length, kind, width, height, *_, checksum = _HEADER_CHUNK.unpack_from(stored, start)
    if length != 13 or kind != b"IHDR" or checksum != crc32(stored[start + 4 : start + 4 + 4 + 13]):
        raise DatasetError(f"PNG of {len(stored)} bytes has no whole header chunk", _HINT)
    if width == 0 or height == 0:
        raise DatasetError(f"PNG is {width} x {height} pixels", _HINT)
    if bytes(stored[len(stored) - 8 : len(stored) - 4]) != b"IEND":
        raise DatasetError(f"PNG of {len(stored)} bytes does not end with the end chunk", _HINT)
    return int(width), int(height)


def encoder_versions() -> dict[str, str]:
    """Libraries, with versions, that the bytes of synthetic images depend on."""
    from PIL import __version__, features

    zlib = "zlib-ng" if features.check_feature("zlib_ng") else "zlib"
    version = features.version_feature("zlib_ng") if zlib == "zlib-ng" else features.version_codec("zlib")
    return {"pillow": str(__version__), zlib: str(version), "image_version": str(IMAGE_VERSION)}


def synthetic_png(generator: PayloadGenerator, sample_id: int, num_bytes: int) -> bytes:
    """A PNG file of exactly `num_bytes` (1280 at least, else ValueError) for that sample: 4:3, RGB."""
    if num_bytes < MIN_PNG_BYTES:
        raise ValueError(f"a synthetic PNG has {MIN_PNG_BYTES} bytes at least, and {num_bytes} were asked for")
    pixels = min(float(_MAX_PIXELS), (num_bytes - _CHUNK_BYTES - STAMP_BYTES) / _BYTES_PER_PIXEL)
    while True:
        width = max(1, int(math.sqrt(pixels * 4 / 3)) // _CELL) * _CELL
        height = max(1, int(pixels / width) // _CELL) * _CELL
        encoded = io.BytesIO()
        colour_field(generator, sample_id, width, height).convert("RGB").save(encoded, "PNG", compress_level=1)
        room = num_bytes - encoded.tell() - _CHUNK_BYTES
        if room >= STAMP_BYTES:
            return _with_filler(encoded.getbuffer(), generator.payload(sample_id, room))
        pixels = min(pixels * _SHRINK, pixels * num_bytes / encoded.tell())


def _with_filler(encoded: memoryview, filling: bytes) -> bytes:
    """The image with a chunk put in behind its header."""
    front = len(_SIGNATURE) + _HEADER_CHUNK.size
    body = _FILLER + filling
    return b"".join((encoded[:front], struct.pack(">I", len(filling)), body, struct.pack(">I", crc32(body)), encoded[front:]))
