"""Data sets as DLIO 2.0.0 writes them (dlio_benchmark/data_generator/), made without it: the same calls of the same libraries, small."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

FILES, SIDE = 3, 20
Bytes = NDArray[np.uint8]


def array(seed: int, *shape: int) -> Bytes:
    """Other bytes for each seed."""
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def npz(path: Path, seed: int, samples: int) -> list[bytes]:
    x = array(seed, SIDE, SIDE, samples)
    np.savez(path, x=x, y=[0] * samples)
    return [bytes(part) for part in np.split(x.reshape(-1), samples)]


def npy(path: Path, seed: int, samples: int) -> list[bytes]:
    x = array(seed, SIDE, SIDE, samples)
    np.save(path, x)
    return [bytes(part) for part in np.split(x.reshape(-1), samples)]


def hdf5(path: Path, seed: int, samples: int) -> list[bytes]:
    import h5py

    x = array(seed, samples, SIDE, SIDE)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("records", x.shape, chunks=None, compression=None, compression_opts=None, dtype=np.uint8)
        dataset[0:samples] = x
        file.create_dataset("labels", data=[0] * samples)
    return [bytes(one) for one in x]


def tfrecord(path: Path, seed: int, samples: int) -> list[bytes]:
    """An Example of `image` and `size`; a map's order is the library's affair, so every other one has `size` first."""
    images = [bytes(one) for one in array(seed, samples, SIDE, SIDE)]
    with open(path, "wb") as file:
        for number, image in enumerate(images):
            entries = [_entry(b"image", _part(1, _part(1, image))), _entry(b"size", _part(3, _part(1, bytes([SIDE]))))]
            data = _part(1, b"".join(entries[:: -1 if number % 2 else 1]))
            head = struct.pack("<Q", len(data))
            file.write(head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data)))
    (path.parent.parent / "index" / "train").mkdir(parents=True, exist_ok=True)
    (path.parent.parent / "index" / "train" / f"{path.name}.idx").write_text("0 1\n")
    return images


def _part(number: int, data: bytes) -> bytes:
    length, size = b"", len(data)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def _entry(key: bytes, feature: bytes) -> bytes:
    return _part(1, _part(1, key) + _part(2, feature))


def masked(data: bytes) -> int:
    checksum = crc32c(data)
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def csv(path: Path, seed: int, samples: int) -> list[bytes]:
    """pandas.DataFrame.to_csv of one row, repeated."""
    row = ",".join(str(value) for value in array(seed, SIDE * SIDE)).encode()
    header = b"".join(b",%d" % column for column in range(SIDE * SIDE))
    path.write_bytes(header + b"\n" + b"".join(b"%d,%s\n" % (number, row) for number in range(samples)))
    return [row] * samples


def indexed_binary(path: Path, seed: int, samples: int) -> list[bytes]:
    """With a buffer of two samples: DLIO's offsets then begin at 0 again for every two."""
    images = [bytes(one) for one in array(seed, samples, SIDE, SIDE)]
    path.write_bytes(b"".join(images))
    offsets = [(number % 2) * SIDE * SIDE for number in range(samples)]
    Path(f"{path}.off.idx").write_bytes(struct.pack(f"{samples}Q", *offsets))
    Path(f"{path}.sz.idx").write_bytes(struct.pack(f"{samples}Q", *[SIDE * SIDE] * samples))
    return images


def jpeg(path: Path, seed: int, samples: int) -> list[bytes]:
    return _image(path, seed, "JPEG")


def png(path: Path, seed: int, samples: int) -> list[bytes]:
    return _image(path, seed, "PNG")


def _image(path: Path, seed: int, form: str) -> list[bytes]:
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(array(seed, SIDE, SIDE)).save(encoded, format=form, bits=8)
    path.write_bytes(encoded.getvalue())
    return [encoded.getvalue()]


WRITERS: dict[str, Callable[[Path, int, int], list[bytes]]] = {
    "npz": npz, "npy": npy, "hdf5": hdf5, "tfrecord": tfrecord, "csv": csv, "indexed_binary": indexed_binary, "jpeg": jpeg, "png": png,
}  # fmt: skip


def write(folder: Path, form: str, samples: int) -> list[bytes]:
    """DLIO's tree below the folder; the bytes of all samples in the order of the files' names."""
    (folder / "train").mkdir(parents=True)
    (folder / "valid").mkdir()
    records = []
    for number in range(FILES):
        records += WRITERS[form](folder / "train" / f"img_{number}_of_{FILES}.{form}", 7 * number, samples)
    return records
