"""Where the samples lie in files that others made, DLIO first: a function for each format, from a reader of bytes to (offset, length) of each sample.

Bytes in, places out: nothing is written, nothing is unpickled, and no more than headers is read where the format allows. A reader gives bytes of one file;
whose store that is, this room does not know. What DLIO writes (dlio_benchmark/data_generator/, release 2.0.0):

- npz, npy: one uint8 array (rows, columns, samples), in npz with `y`, a label for each sample. The samples' axis is the last, so that the bytes of one
  sample lie strewn over the whole array, and DLIO reads the whole file for each. Here one sample is the array's bytes, and of several each is an equal
  share of them, one behind the other: the number of samples, their bytes and the bytes of the file are right, each byte is read once an epoch, and which
  values make up a sample is not DLIO's.
- hdf5: a dataset `records` (samples, rows, columns), contiguous or in chunks: a sample is one range, unless chunks cut through it or are compressed.
- tfrecord: frames with a `tf.train.Example` of `image` (the sample's bytes) and `size`. A frame without one `image` is taken whole.
- csv: pandas' header line, then a line a sample: the number of the row, then its values. A sample is the text of its values.
- indexed_binary: samples one behind the other, their offsets and lengths (uint64) in two files beside, `.off.idx` and `.sz.idx`.
- jpeg, png: the file is the sample. So it is in `raw`, for any other file.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from storagebench.datasets.foreignbytes import Place, Reader, Seekable, Window
from storagebench.datasets.foreigntfrecord import frames
from storagebench.datasets.npyheader import MAX_HEADER_BYTES, npy_layout
from storagebench.errors import DatasetError

SUFFIXES = {
    "npz": (".npz",), "npy": (".npy",), "tfrecord": (".tfrecord", ".tfrecords"), "hdf5": (".hdf5", ".h5"), "jpeg": (".jpeg", ".jpg"), "png": (".png",),
    "csv": (".csv",), "indexed_binary": (".indexed_binary", ".mmap_indexed_binary"), "raw": ("",),
}  # fmt: skip
# What is read of other files: a shard's name and what is behind it.
SIDE_FILES = {"indexed_binary": (".off.idx", ".sz.idx")}
# What DLIO calls its files: prefix, number, number of files.
_DLIO_NAME = re.compile(r".*_\d+_of_\d+\.[a-z0-9_]+")
_PIECE_BYTES = 2**20
_HINT = "leave this file out of the folder, or take all files as they are with --format raw"


class Placed(NamedTuple):
    """The samples of one file in order. `exact`: each range holds a sample as its maker reads it; else an equal share of an array's bytes."""

    places: list[Place]
    exact: bool = True


def place_samples(format_name: str, reader: Reader) -> Placed:
    """Where the samples of a file lie. Raises DatasetError, which names the file, for one that is not what the format says or has no samples."""
    try:
        placed = _PLACERS[format_name](reader)
        if not placed.places:
            raise DatasetError("holds no samples")
        if any(length < 1 for _, length in placed.places):
            raise DatasetError("holds a sample of 0 bytes")
        return placed
    except DatasetError as error:
        raise DatasetError(f"{reader.name} {error.message}", error.hint or _HINT) from None


def _whole(reader: Reader) -> Placed:
    return Placed([(0, reader.num_bytes)])


def _npy(reader: Reader) -> Placed:
    start, size, shape = npy_layout(reader.read(0, min(reader.num_bytes, MAX_HEADER_BYTES + 16)))
    if start + size != reader.num_bytes:
        raise DatasetError(f"has {reader.num_bytes} bytes, and its header says {start + size}: it is truncated, or bytes were added")
    several = len(shape) == 3 and _DLIO_NAME.fullmatch(reader.name.rpartition("/")[2]) is not None
    return _shares(start, size, shape[-1] if several else 1, shape)


def _npz(reader: Reader) -> Placed:
    """The array x, stored (not compressed) as the first member."""
    try:
        with zipfile.ZipFile(Seekable(reader)) as archive:
            entry = archive.infolist()[0]
            labels = _rows_of_y(archive)
    except (zipfile.BadZipFile, IndexError, ValueError, NotImplementedError) as error:
        raise DatasetError(f"is no zip archive that can be read ({error})") from None
    if entry.filename != "x.npy" or entry.header_offset != 0:
        raise DatasetError(f"has {entry.filename!r} as its first array, and DLIO and storagebench have x")
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0b1001:
        raise DatasetError("is compressed or encrypted: its samples have no bytes of their own in the file")
    name_length, extra_length = struct.unpack("<2H", reader.read(26, 4))
    start = 30 + name_length + extra_length
    if start + entry.file_size > reader.num_bytes:
        raise DatasetError("is truncated")
    header, size, shape = npy_layout(reader.read(start, min(entry.file_size, MAX_HEADER_BYTES + 16)))
    if header + size != entry.file_size:
        raise DatasetError(f"has an array x of {entry.file_size - header} bytes, and its header says {size}")
    first_axis = len(shape) > 1 and shape[0] == labels and shape[-1] != labels
    return _shares(start + header, size, labels if first_axis or (shape and shape[-1] == labels) else 1, shape, exact=first_axis)


def _rows_of_y(archive: zipfile.ZipFile) -> int:
    """How many labels there are; 1 where there is no y."""
    if "y.npy" not in archive.namelist():
        return 1
    with archive.open("y.npy") as member:
        _, _, shape = npy_layout(memoryview(member.read(MAX_HEADER_BYTES + 16)))
    return shape[0] if len(shape) == 1 else 1


def _shares(start: int, size: int, count: int, shape: tuple[int, ...], exact: bool = False) -> Placed:
    if count < 1 or size % count:
        raise DatasetError(f"has an array of shape {shape} that does not divide into {count} samples")
    each = size // count
    return Placed([(start + number * each, each) for number in range(count)], exact or count == 1)


def _hdf5(reader: Reader) -> Placed:
    import h5py

    try:
        with h5py.File(Seekable(reader), "r") as file:
            if not isinstance(file.get("records", getlink=True), h5py.HardLink) or not isinstance(file["records"], h5py.Dataset):
                raise DatasetError("has no dataset `records`, which is DLIO's name for its samples")
            return Placed(_hdf5_places(file["records"]))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DatasetError(f"is no HDF5 file that can be read ({' '.join(str(error).split())[:200]})") from None


def _hdf5_places(records: Any) -> list[Place]:
    if records.ndim < 1 or records.shape[0] < 1 or records.size == 0:
        return []
    count, each = int(records.shape[0]), int(records.nbytes) // int(records.shape[0])
    start = records.id.get_offset()
    if start is not None:
        return [(int(start) + number * each, each) for number in range(count)]
    per_chunk = records.chunks[0] if records.chunks else 0
    if not per_chunk or tuple(records.chunks[1:]) != tuple(records.shape[1:]) or records.id.get_create_plist().get_nfilters():
        raise DatasetError("keeps its records compressed or in chunks that cut through a sample: a sample is not one range of the file")
    places = {}
    for number in range(records.id.get_num_chunks()):
        info = records.id.get_chunk_info(number)
        first = int(info.chunk_offset[0])
        for row in range(first, min(first + per_chunk, count)):
            places[row] = (int(info.byte_offset) + (row - first) * each, each)
    if len(places) != count:
        raise DatasetError(f"has {count} records, of which {count - len(places)} were never written")
    return [places[row] for row in range(count)]


def _csv(reader: Reader) -> Placed:
    if reader.num_bytes >= 2 and bytes(reader.read(0, 2)) == b"\x1f\x8b":
        raise DatasetError("is compressed (gzip): its lines have no bytes of their own in the file")
    ends, position = [], 0
    while position < reader.num_bytes:
        piece = np.frombuffer(reader.read(position, min(_PIECE_BYTES, reader.num_bytes - position)), np.uint8)
        ends.append(np.flatnonzero(piece == 0x0A) + position)
        position += len(piece)
    lines = np.concatenate(ends).tolist() if ends else []
    if reader.num_bytes and (not lines or lines[-1] != reader.num_bytes - 1):
        lines.append(reader.num_bytes)  # a last line without its end
    starts = [0, *(end + 1 for end in lines[:-1])]
    window = Window(reader)
    # pandas: a header of column numbers behind an empty name, and in each line the row's number before its values.
    numbered = bool(lines) and bytes(window.get(0, 1)) == b","
    places = []
    for number, (start, end) in enumerate(zip(starts, lines, strict=True)):
        if numbered and number == 0:
            continue
        head = bytes(window.get(start, min(24, end - start))).find(b",") + 1 if numbered else 0
        places.append((start + head, end - start - head))
    return Placed(places)


def _indexed_binary(reader: Reader) -> Placed:
    offsets, lengths = (_numbers(reader, more) for more in SIDE_FILES["indexed_binary"])
    if len(offsets) != len(lengths):
        raise DatasetError(f"has {len(offsets)} offsets and {len(lengths)} lengths beside it")
    laid = np.concatenate([[0], np.cumsum(lengths, dtype=np.uint64)[:-1]]).astype(np.uint64) if len(lengths) else lengths
    # DLIO counts from 0 again for each buffer that it fills (2 GiB unless set), and its own reader then reads the first part again and again.
    restarts = len(offsets) > 1 and bool((np.diff(offsets.astype(np.int64)) <= 0).any())
    places = [(int(low), int(size)) for low, size in zip((laid if restarts else offsets).tolist(), lengths.tolist(), strict=True)]
    if places and max(low + size for low, size in places) > reader.num_bytes:
        raise DatasetError(f"has {reader.num_bytes} bytes, and its index goes beyond them")
    return Placed(places)


def _numbers(reader: Reader, more: str) -> Any:
    data = reader.beside(more)
    if data is None or len(data) % 8:
        raise DatasetError(f"has no whole index {reader.name}{more} beside it", "generate the data with DLIO's indexed_binary, or use --format raw")
    return np.frombuffer(data, "<u8")


_PLACERS: dict[str, Callable[[Reader], Placed]] = {
    "npz": _npz, "npy": _npy, "hdf5": _hdf5, "tfrecord": lambda reader: Placed(frames(reader)), "csv": _csv, "indexed_binary": _indexed_binary, "jpeg": _whole, "png": _whole,
    "raw": _whole,
}  # fmt: skip
