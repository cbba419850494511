"""Synthetic JPEG records of an exact length, and decoding of JPEG and PNG records for decode level `full`. No I/O; Pillow is imported on first use.

A synthetic image is a smooth random colour field with noise on its luminance: about 4 bits a pixel at quality 90, near the 4.9 of ImageNet's
photographs, where pure noise would make decoding dearer than it is. It is a pure function of (generator and image version, seed, sample id, length,
versions of Pillow and libjpeg). What the image leaves of the length (3 to 6 %) is comment segments with payload bytes, which carry the sample id in
every 512 bytes.
"""

from __future__ import annotations

import io
import math
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.datasets.payload import STAMP_BYTES, PayloadGenerator
from storagebench.errors import DatasetError

# To be raised with every change of the images; that of the payload bytes in them is GENERATOR_VERSION.
IMAGE_VERSION = 1
# The smallest image (16 x 16) takes up to 850 bytes with its tables, and a comment with the id 12 more.
MIN_JPEG_BYTES = 1024
_TABLE_BYTES = 640
_BITS_PER_PIXEL = 4.1
_CELL = 16
_MIN_COMMENT_BYTES = 4 + STAMP_BYTES
_MAX_COMMENT_BYTES = 127 * 512
# Pillow takes an image over 89 million pixels for a bomb; longer records (over 30 MB) are filled up with comments.
_MAX_PIXELS = 56 * 10**6
_QUALITIES = (90, 85, 75, 60, 40, 20, 5)
_FIELD_CELLS = 8
_WEIGHT_BITS = 22


def encoder_versions() -> dict[str, str]:
    """Libraries, with versions, that the bytes of synthetic images depend on."""
    from PIL import __version__, features

    library = "libjpeg-turbo" if features.check_feature("libjpeg_turbo") else "libjpeg"
    version = features.version_feature("libjpeg_turbo") if library == "libjpeg-turbo" else features.version_codec("jpg")
    return {"pillow": str(__version__), library: str(version), "image_version": str(IMAGE_VERSION)}


def synthetic_jpeg(generator: PayloadGenerator, sample_id: int, num_bytes: int) -> bytes:
    """A JPEG file of exactly `num_bytes` (1024 at least, else ValueError) for that sample: 4:3, colour, chroma at half resolution."""
    if num_bytes < MIN_JPEG_BYTES:
        raise ValueError(f"a synthetic JPEG has {MIN_JPEG_BYTES} bytes at least, and {num_bytes} were asked for")
    width, height = _size_for(num_bytes)
    while True:
        image = colour_field(generator, sample_id, width, height)
        for quality in _QUALITIES:
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
            room = num_bytes - encoded.tell()
            if room >= _MIN_COMMENT_BYTES:
                return _with_comments(encoded.getbuffer(), generator.payload(sample_id, room))
        width, height = max(_CELL, width - _CELL), max(_CELL, height - _CELL)


def _size_for(num_bytes: int) -> tuple[int, int]:
    """Width and height in pixels, whole coding units of 16, whose image takes a little less than that."""
    pixels = min(_MAX_PIXELS, max(0, num_bytes - _TABLE_BYTES - _MIN_COMMENT_BYTES) * 8 / _BITS_PER_PIXEL)
    width = max(1, int(math.sqrt(pixels * 4 / 3)) // _CELL) * _CELL
    return width, max(1, int(pixels / width) // _CELL) * _CELL


def colour_field(generator: PayloadGenerator, sample_id: int, width: int, height: int) -> Any:
    """The image of a sample, YCbCr: a smooth random field with noise on its luminance. Sides are multiples of 16."""
    from PIL import Image

    cells = _FIELD_CELLS * _FIELD_CELLS
    random = np.frombuffer(generator.payload(sample_id, width * height + 3 * cells), dtype=np.uint8)
    field = random[width * height :].reshape(3, _FIELD_CELLS, _FIELD_CELLS)
    planes = [_stretched(plane, width, height) for plane in (field[0] - (field[0] >> 2), 64 + (field[1] >> 1), 64 + (field[2] >> 1))]
    # 0..191 of field and 0..63 of noise: the sum stays in a byte, and nothing needs to be clipped.
    planes[0] += random[: width * height].reshape(height, width) >> 2
    return Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes])


def _stretched(field: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The 8 x 8 field as Pillow resizes it (bilinear), bit for bit; `width` and `height` 8 at least.

    Pillow's vertical pass alone took as long as the JPEG encoder, so that pass is made here, row against row of the same two neighbours.
    """
    from PIL import Image

    rows = np.asarray(Image.fromarray(np.ascontiguousarray(field)).resize((width, _FIELD_CELLS), Image.Resampling.BILINEAR)).astype(np.int32)
    stretched = np.empty((height, width), np.uint8)
    room = np.empty((-(-height // _FIELD_CELLS) + 1, width), np.int32)
    for first, stop, upper, lower, weights in _vertical_weights(height):
        # (weight * upper + (2^22 - weight) * lower) rounded: Pillow's fixed point, with one product instead of two.
        mixed = np.multiply(weights, rows[upper] - rows[lower], out=room[: stop - first])
        mixed += (rows[lower] << _WEIGHT_BITS) + (1 << (_WEIGHT_BITS - 1))
        mixed >>= _WEIGHT_BITS
        stretched[first:stop] = mixed
    return stretched


@lru_cache(maxsize=64)
def _vertical_weights(height: int) -> tuple[tuple[int, int, int, int, NDArray[np.int32]], ...]:
    """Rows first .. stop of the result lie between rows `upper` and `lower` of the field; the weight of the upper one in 2^-22, int32[rows, 1]."""
    centers = (np.arange(height) + 0.5) * (_FIELD_CELLS / height)
    upper = np.maximum((centers - 1.0 + 0.5).astype(np.int64), 0)
    lower = np.minimum((centers + 1.0 + 0.5).astype(np.int64), _FIELD_CELLS) - 1
    of_upper, of_lower = (np.maximum(0.0, 1.0 - np.abs(row - centers + 0.5)) for row in (upper, lower))
    weights = (0.5 + of_upper / (of_upper + of_lower) * (1 << _WEIGHT_BITS)).astype(np.int32)
    starts = np.flatnonzero(np.diff(upper * _FIELD_CELLS + lower, prepend=-1)).tolist()
    return tuple(
        (first, stop, int(upper[first]), int(lower[first]), weights[first:stop, None])
        for first, stop in zip(starts, [*starts[1:], height], strict=True)
    )


def _with_comments(encoded: memoryview, filling: bytes) -> bytes:
    """The image with len(filling) bytes put in behind its APP0 segment: comments, of which each begins with a stamp."""
    (app0_length,) = struct.unpack_from(">H", encoded, 4)
    parts = [bytes(encoded[: 4 + app0_length])]
    position, left = 0, len(filling)
    while left > 0:
        size = min(left - 4, _MAX_COMMENT_BYTES)
        if 0 < left - 4 - size < 4 + STAMP_BYTES:
            size -= 512  # so that the last comment has room for its stamp
        parts.append(b"\xff\xfe" + struct.pack(">H", 2 + size) + filling[position : position + size])
        position, left = position + size, left - 4 - size
    parts.append(bytes(encoded[4 + app0_length :]))
    return b"".join(parts)


def decode_image(record: memoryview, handover_bytes: int) -> NDArray[np.uint8]:
    """The pixels, uint8[height, width, 3] in RGB. Raises DatasetError for what does not decode.

    When `handover_bytes` is 3 * s * s for a whole s, the image is resized to s x s, and libjpeg decodes at a fraction of the size where that is
    enough; with any other value (0 among them) it is handed over as large as it is.
    """
    from PIL import Image

    side = math.isqrt(handover_bytes // 3)
    resize = side > 0 and 3 * side * side == handover_bytes
    try:
        # ImageNet has one PNG that is called JPEG.
        with Image.open(io.BytesIO(record), formats=("JPEG", "PNG")) as image:
            if resize:
                image.draft("RGB", (side, side))
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"image of {len(record)} bytes does not decode ({error})", "run `storagebench verify`") from None
    if resize and pixels.size != (side, side):
        pixels = pixels.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(pixels)
