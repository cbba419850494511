"""The npy header, written and read by structure: shared by the npy and npz formats. Reads no more than 64 KiB and never evaluates or unpickles.

numpy itself reads a header of any stated length before it refuses it (600 MB cost 1.2 GB of memory) and unpickles object arrays on request;
here the length is capped first and an object dtype is an error.
"""

from __future__ import annotations

import math
import re
import struct

from storagebench.errors import DatasetError

MAX_HEADER_BYTES = 64 * 1024
ALIGNMENT_BYTES = 64
_MAGIC = b"\x93NUMPY"
_HINT = "run `storagebench verify`, then generate or import the dataset again"
# What numpy.lib.format writes for a plain array; a structured dtype is a list here, and is refused with everything else.
_HEADER = re.compile(r"\{'descr': '([^']{1,32})', 'fortran_order': (?:True|False), 'shape': \(([0-9, ]{0,400})\), ?\}[ \n]*")
_DTYPE = re.compile(r"[<>|=]?([biufcSUV?])([0-9]{0,9})")


def npy_header(dtype: str, num_items: int) -> bytes:
    """A version 1.0 header of a 1-D array, such as dtype `|u1`, padded so that the data starts at a multiple of 64 bytes."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({num_items},), }}"
    length = -(-(10 + len(text) + 1) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES - 10
    return _MAGIC + b"\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1).encode("latin1") + b"\n"


def npy_data(stored: memoryview) -> memoryview:
    """The data bytes of a whole npy file, zero-copy.

    Raises DatasetError for a wrong magic or version, a header over 64 KiB or past the end, an object or structured dtype, and a shape that does not
    fill the file exactly.
    """
    start, needed, _ = npy_layout(stored)
    if needed != len(stored) - start:
        raise DatasetError(f"npy header says {needed} data bytes, and {len(stored) - start} are there", _HINT)
    return stored[start:]


def npy_layout(stored: memoryview) -> tuple[int, int, tuple[int, ...]]:
    """Where the data begin, their bytes, and the array's shape, by the header alone (`stored` has at least that). Raises DatasetError as `npy_data`."""
    start = _header_end(stored)
    prefix = 10 if stored[6] == 1 else 12
    match = _HEADER.fullmatch(bytes(stored[prefix:start]).decode("latin1"))
    if match is None:
        raise DatasetError("npy header is not that of a plain array", _HINT)
    shape = tuple(int(size) for size in match.group(2).replace(" ", "").split(",") if size)
    return start, _itemsize(match.group(1)) * math.prod(shape), shape


def _header_end(stored: memoryview) -> int:
    if len(stored) < 12 or bytes(stored[:6]) != _MAGIC:
        raise DatasetError(f"npy data of {len(stored)} bytes does not begin with the npy magic", _HINT)
    major, minor = stored[6], stored[7]
    if major not in (1, 2, 3) or minor != 0:
        raise DatasetError(f"npy version is {major}.{minor}, and 1.0, 2.0 and 3.0 are known", _HINT)
    length, prefix = (struct.unpack_from("<H", stored, 8)[0], 10) if major == 1 else (struct.unpack_from("<I", stored, 8)[0], 12)
    if length > MAX_HEADER_BYTES:
        raise DatasetError(f"npy header is {length} bytes long, over the limit of {MAX_HEADER_BYTES}", _HINT)
    if prefix + length > len(stored):
        raise DatasetError(f"npy header ends at byte {prefix + length} of {len(stored)}: the file is truncated", _HINT)
    return int(prefix + length)


def _itemsize(descr: str) -> int:
    match = _DTYPE.fullmatch(descr)
    if match is None:
        raise DatasetError(f"npy dtype is {descr!r}; only plain numbers and fixed-width strings are read, never objects", _HINT)
    width = int(match.group(2)) if match.group(2) else 1
    return 4 * width if match.group(1) == "U" else width
