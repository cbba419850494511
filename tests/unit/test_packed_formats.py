"""Formats of many records to a shard, and PNG: other readers of the format find the same records, by its own index where it has one."""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storagebench.build import generate, verify
from storagebench.datasets.decode import decode_full
from storagebench.datasets.hdf5 import Hdf5Format
from storagebench.datasets.indexed_binary import IndexedBinaryFormat
from storagebench.datasets.litdata import LitDataFormat
from storagebench.datasets.mds import MdsFormat
from storagebench.datasets.payload import PayloadGenerator, make_text
from storagebench.datasets.png import MIN_PNG_BYTES, PngFormat, png_size, synthetic_png
from storagebench.datasets.synthetic import SyntheticSource
from storagebench.datasets.textlines import CsvFormat
from storagebench.datasets.tfrecord import Inflated, TFRecordFormat, TFRecordZlibFormat, example_head, masked, read_example, read_frames
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset, side_files
from storagebench.protocols import Format, Record, StoreSpec
from storagebench.registry import open_format
from storagebench.storage.posix import PosixStore
from storagebench.workload import PAYLOAD_OF_FORMAT, DatasetSpec, Workload

FORMATS: dict[str, Callable[[], Any]] = {
    "tfrecord": TFRecordFormat, "indexed_binary": IndexedBinaryFormat, "csv": CsvFormat, "hdf5": Hdf5Format, "mds": MdsFormat,
    "litdata": LitDataFormat,
}  # fmt: skip
INDEXED = ("tfrecord", "indexed_binary", "mds", "litdata")


def write(form: Format, payloads: list[bytes], labels: list[int] | None = None) -> tuple[bytes, list[int]]:
    sink = io.BytesIO()
    labels = labels or [3 * number for number in range(len(payloads))]
    records = [Record(7 + number, memoryview(payload), label, "bin") for number, (payload, label) in enumerate(zip(payloads, labels, strict=True))]
    offsets = form.write_shard(sink, iter(records), {})
    return sink.getvalue(), offsets


def a_dataset(folder: Path, name: str, num_samples: int = 150) -> tuple[Dataset, list[bytes], PosixStore]:
    """A dataset on disk, and its records as the generator has them."""
    spec = DatasetSpec(
        format=name, payload=PAYLOAD_OF_FORMAT.get(name, "bytes"), num_samples=num_samples, record_length_bytes=3000,
        record_length_bytes_stdev=0 if name == "png" else 500, samples_per_shard=4, num_subfolders=2,
    )  # fmt: skip
    store = PosixStore(StoreSpec("posix", str(folder)))
    dataset = generate(Workload(name="tests", dataset=spec), store)
    return dataset, [bytes(record.payload) for record in SyntheticSource(spec).records(0, num_samples)], store


def as_text(payload: bytes) -> bytes:
    data = bytearray(payload)
    make_text(memoryview(data))
    return bytes(data)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=9), st.integers(-(2**31), 2**31 - 1))
@pytest.mark.parametrize("name", FORMATS)
def test_records_lie_at_their_offsets_as_they_are(name: str, payloads: list[bytes], label: int) -> None:
    some = [as_text(payload) for payload in payloads] if name == "csv" else payloads
    labels = [label] * len(some)
    data, offsets = write(FORMATS[name](), some, labels)
    assert [data[offset : offset + len(payload)] for offset, payload in zip(offsets, some, strict=True)] == some
    assert write(FORMATS[name](), some, labels) == (data, offsets), "the same again"


@pytest.mark.parametrize("name", [*FORMATS, "png", "tfrecord_zlib"])
def test_a_dataset_is_whole_and_says_so(tmp_path: Path, name: str) -> None:
    dataset, records, store = a_dataset(tmp_path, name)
    assert dataset.num_samples == 150 and dataset.record_bytes == sum(map(len, records))
    assert verify(store, dataset) == []
    sides = dict(side_files(open_format(name), dataset))
    assert bool(sides) == (name in INDEXED)
    for key, data in sides.items():
        path = tmp_path / key
        assert path.read_bytes() == data
        path.write_bytes(data[:-1] + b"x")
        (problem,) = verify(store, dataset)
        assert problem.shard == key and problem.severity == "error" and "does not say what the manifest says" in problem.message
        path.unlink()
        (problem,) = verify(store, dataset)
        assert problem.shard == key and "is missing" in problem.message
        path.write_bytes(data)


def test_the_package_tfrecord_reads_tfrecords_with_and_without_the_index(tmp_path: Path) -> None:
    from tfrecord.reader import tfrecord_loader

    dataset, records, _ = a_dataset(tmp_path, "tfrecord")
    for index in (False, True):
        found: list[tuple[int, int, bytes]] = []
        for name in dataset.names:
            path = tmp_path / name
            shapes = {"id": "int", "label": "int", "image": "byte"}
            for example in tfrecord_loader(str(path), str(path.with_suffix(".idx")) if index else None, shapes):
                found.append((int(example["id"][0]), int(example["label"][0]), bytes(example["image"])))
        # With an index it begins at any record of a file and goes on from the file's start.
        assert sorted(found) == [(number, number % 1000, record) for number, record in enumerate(records)]


def test_our_own_reader_of_tfrecords_checks_what_it_reads(tmp_path: Path) -> None:
    dataset, records, _ = a_dataset(tmp_path, "tfrecord")
    with (tmp_path / dataset.names[1]).open("rb") as stream:
        found = [read_example(data) for data in read_frames(stream)]
    first, count = int(dataset.first_sample[1]), int(dataset.shard_samples[1])
    assert [(one.sample_id, one.label, bytes(one.record)) for one in found] == [
        (id_, id_ % 1000, records[id_]) for id_ in range(first, first + count)
    ]
    whole = (tmp_path / dataset.names[1]).read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with pytest.raises(DatasetError, match="TFRecord"):
            list(read_frames(io.BytesIO(bytes(damaged))))
    for length in range(1, len(whole), 11):
        if length not in _frame_ends(whole):
            with pytest.raises(DatasetError, match="ends within"):
                list(read_frames(io.BytesIO(whole[:length])))


def test_a_compressed_tfrecord_is_one_zlib_stream_of_frames(tmp_path: Path) -> None:
    dataset, records, _ = a_dataset(tmp_path, "tfrecord_zlib")
    stored = (tmp_path / dataset.names[1]).read_bytes()
    first, count = int(dataset.first_sample[1]), int(dataset.shard_samples[1])
    plain = zlib.decompress(stored)  # the interpreter's own zlib
    some = [read_example(data) for data in read_frames(io.BytesIO(plain))]
    assert [bytes(one.record) for one in some] == records[first : first + count]
    assert [bytes(data) for data in read_frames(Inflated(io.BytesIO(stored)))] == [bytes(data) for data in read_frames(io.BytesIO(plain))]
    assert list(dataset.index["offset"][first : first + count]) == list(range(count))
    for broken in (stored[:-1], stored[: len(stored) // 2], stored + b"x"):
        with pytest.raises(DatasetError, match="TFRecord"):
            list(read_frames(Inflated(io.BytesIO(broken))))
        assert TFRecordZlibFormat().row_checksums(memoryview(broken), trusted=False) is None
    large = zlib.compress(bytes(5 * 2**20))
    assert len(Inflated(io.BytesIO(large)).read(2**23)) == 5 * 2**20, "a piece of input may hold many of output"


def _frame_ends(whole: bytes) -> set[int]:
    ends, position = {0}, 0
    while position < len(whole):
        position += 16 + struct.unpack_from("<Q", whole, position)[0]
        ends.add(position)
    return ends


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\x05hello", b"\xff" * 20, b"\x0a\x02\x0a\x00", example_head(1, 2, 3)])
def test_a_frame_that_is_no_example_of_ours_is_an_error(data: bytes) -> None:
    with pytest.raises(DatasetError, match="holds no Example"):
        read_example(memoryview(data))


def test_masked_checksums_are_those_of_tensorflow() -> None:
    """`crc32c::Mask` of the checksum of "foo", worked out by hand from its definition, and the frame of an empty record as TensorFlow writes it."""
    assert masked(0xCFC4AE1D) == ((0xCFC4AE1D >> 15 | 0xCFC4AE1D << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert struct.pack("<I", masked(0)) == bytes.fromhex("d8ea82a2")


def test_megatrons_layout_of_indexed_binary(tmp_path: Path) -> None:
    """Read as `megatron/core/datasets/indexed_dataset.py` reads its index: magic, version, type code, counts, lengths, pointers, documents."""
    dataset, records, _ = a_dataset(tmp_path, "indexed_binary")
    found = []
    for name in dataset.names:
        index = (tmp_path / name).with_suffix(".idx").read_bytes()
        stream = io.BytesIO(index)
        assert stream.read(9) == b"MMIDIDX\x00\x00"
        assert struct.unpack("<Q", stream.read(8)) == (1,)
        assert struct.unpack("<B", stream.read(1)) == (1,), "the code of uint8"
        sequences, documents = struct.unpack("<QQ", stream.read(16))
        offset = stream.tell()
        lengths = np.frombuffer(index, np.int32, sequences, offset)
        pointers = np.frombuffer(index, np.int64, sequences, offset + lengths.nbytes)
        starts = np.frombuffer(index, np.int64, documents, offset + lengths.nbytes + pointers.nbytes)
        assert offset + lengths.nbytes + pointers.nbytes + starts.nbytes == len(index)
        assert starts.tolist() == list(range(sequences + 1)), "a document a sequence, and the end"
        bin_buffer = np.memmap(tmp_path / name, np.uint8, "r")
        found += [bytes(bin_buffer[pointer : pointer + length]) for pointer, length in zip(pointers.tolist(), lengths.tolist(), strict=True)]
    assert found == records


def test_the_csv_module_reads_lines(tmp_path: Path) -> None:
    dataset, records, _ = a_dataset(tmp_path, "csv")
    rows = [row for name in dataset.names for row in csv.reader((tmp_path / name).open(newline="", encoding="ascii"))]
    assert [(int(row[0]), int(row[1]), row[2].encode()) for row in rows] == [(number, number % 1000, record) for number, record in enumerate(records)]


@pytest.mark.parametrize("bad", [b"a,b", b'a"b', b"a\nb", b"\x00", b"\xff", b"a\tb"])
def test_csv_takes_plain_text_only(bad: bytes) -> None:
    with pytest.raises(DatasetError, match="sample 7 has the byte") as caught:
        write(CsvFormat(), [bad])
    assert "--payload text" in caught.value.hint


def test_h5py_reads_hdf5(tmp_path: Path) -> None:
    dataset, records, _ = a_dataset(tmp_path, "hdf5")
    found, labels = [], []
    for name in dataset.names:
        with h5py.File(tmp_path / name) as file:
            for key in file["records"]:
                assert file["records"][key].chunks is None and file["records"][key].compression is None
                assert int(key) == len(found)
                found.append(file["records"][key][:].tobytes())
            labels += file["labels"][:].tolist()
    assert found == records
    assert labels == [number % 1000 for number in range(len(records))]


def test_mds_is_what_mosaics_reader_expects(tmp_path: Path) -> None:
    """By the layout of `streaming/base/format/mds/reader.py`; the library itself reads it in `benchmarks/mds_reader.py` (an environment of its own)."""
    dataset, records, _ = a_dataset(tmp_path, "mds")
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    assert index["version"] == 2 and len(index["shards"]) == dataset.num_shards
    found = []
    for row in index["shards"]:
        path = tmp_path / "shards" / row["raw_data"]["basename"]
        data = path.read_bytes()
        assert row["raw_data"]["bytes"] == len(data)
        (count,) = struct.unpack_from("<I", data)
        assert count == row["samples"]
        places = struct.unpack_from(f"<{count + 1}I", data, 4)
        config = json.loads(data[4 * (count + 2) : places[0]])
        assert config["column_names"] == ["x", "y"] == row["column_names"] and row["column_sizes"] == [None, 8]
        assert places[-1] == len(data)
        for low, high in pairwise(places):
            (size,) = struct.unpack_from("<I", data, low)
            assert high - low == 4 + size + 8
            assert struct.unpack_from("<q", data, high - 8) == (len(found) % 1000,)
            found.append(data[low + 4 : low + 4 + size])
    assert found == records


def test_litdata_is_what_its_reader_expects(tmp_path: Path) -> None:
    """By the layout in `litdata/streaming/item_loader.py`; `tests/contract/test_library_formats.py` compares with the library's writer where it is installed."""
    dataset, records, _ = a_dataset(tmp_path, "litdata")
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    assert index["config"]["data_format"] == ["int", "bytes", "int"] and len(index["chunks"]) == dataset.num_shards
    found = []
    for row in index["chunks"]:
        data = (tmp_path / "shards" / row["filename"]).read_bytes()
        assert row["chunk_bytes"] == len(data)
        (count,) = struct.unpack_from("<I", data)
        assert count == row["chunk_size"]
        places = struct.unpack_from(f"<{count + 1}I", data, 4)
        assert (places[0], places[-1]) == (4 * (count + 2), len(data))
        for low, high in pairwise(places):
            sizes = struct.unpack_from("<3I", data, low)
            assert (sizes[0], sizes[2]) == (8, 8) and high - low == 12 + sum(sizes)
            assert struct.unpack_from("<q", data, low + 12) == (len(found),)
            assert struct.unpack_from("<q", data, high - 8) == (len(found) % 1000,)
            found.append(data[low + 20 : low + 20 + sizes[1]])
    assert found == records


@pytest.mark.parametrize(("module", "form"), [("mds", MdsFormat), ("litdata", LitDataFormat)])
def test_a_shard_that_is_too_long_for_its_table_is_refused(module: str, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"storagebench.datasets.{module}._LONGEST", 1000)
    with pytest.raises(DatasetError, match="over its limit of 1000") as caught:
        write(form(), [bytes(600), bytes(600)])
    assert "--samples-per-shard" in caught.value.hint


@pytest.mark.parametrize("num_bytes", [MIN_PNG_BYTES, 2000, 9999, 60_000, 300_000])
def test_a_synthetic_png_has_its_length_and_is_an_image(num_bytes: int) -> None:
    data = synthetic_png(PayloadGenerator(42), 77, num_bytes)
    assert len(data) == num_bytes == len(synthetic_png(PayloadGenerator(42), 77, num_bytes))
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.load()
        assert image.mode == "RGB" and image.size == png_size(memoryview(data))
        assert image.width * image.height * 3 > num_bytes / 2, "most of it is image, not filling"
    pixels, size = decode_full("png", memoryview(data), 3 * 32 * 32)
    assert pixels.shape == (32, 32, 3) and size == 3 * 32 * 32
    assert (77).to_bytes(8, "little") in data
    assert synthetic_png(PayloadGenerator(42), 78, num_bytes) != data


def test_png_refuses_what_is_none() -> None:
    data = synthetic_png(PayloadGenerator(1), 1, 3000)
    for damaged in (b"", data[:20], data[:-1], b"x" + data[1:], data[:17] + b"\x00\x00\x00\x09" + data[21:]):
        with pytest.raises(DatasetError, match="PNG"):
            png_size(memoryview(damaged))
    with pytest.raises(DatasetError, match="sample 7: PNG") as caught:
        write(PngFormat(), [b"\xff\xd8 a jpeg"])
    assert "--format raw" in caught.value.hint
    with pytest.raises(ValueError, match=f"{MIN_PNG_BYTES} bytes at least"):
        synthetic_png(PayloadGenerator(1), 1, MIN_PNG_BYTES - 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"payload": "png", "format": "png", "record_length_bytes": 1000}, "a synthetic PNG needs 1280"),
        ({"payload": "png", "format": "png", "compressibility": 0.5}, "a PNG is compressed already"),
        ({"payload": "text", "format": "csv", "compressibility": 0.5}, "text is made of printable bytes"),
    ],
)
def test_impossible_payloads_are_refused_with_a_way_out(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SyntheticSource(DatasetSpec(**fields))
    assert "--" in caught.value.hint
