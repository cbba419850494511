"""Each format: what is written is found again, by offset and by structure; damaged and hostile containers are errors, never data."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.adapters import FORMATS
from storagebench.datasets.decode import decode_full
from storagebench.datasets.image import MIN_JPEG_BYTES, _stretched, decode_image, synthetic_jpeg
from storagebench.datasets.jpeg import JpegFormat, RawFormat, jpeg_size
from storagebench.datasets.npy import NpyFormat
from storagebench.datasets.npyheader import npy_data
from storagebench.datasets.npz import NpzFormat, _Archive, _first_member
from storagebench.datasets.parquet import ParquetFormat, row_checksums, row_checksums_of_damaged, row_group_records
from storagebench.datasets.payload import PayloadGenerator
from storagebench.datasets.png import synthetic_png
from storagebench.datasets.webdataset import WebDatasetFormat, _header
from storagebench.errors import DatasetError, UsageError
from storagebench.protocols import Format, Record
from storagebench.registry import missing_modules, open_format

# Those of an extra that is not installed are left out: `.ci/loaders` has them.
ALL = sorted(name for name, row in FORMATS.items() if not row.extra or not missing_modules(row.needs))
SINGLE = [name for name in ALL if FORMATS[name].one_sample_per_shard]


def write(form: Format, payloads: list[bytes], options: dict[str, Any] | None = None) -> tuple[bytes, list[int]]:
    """Write through one buffer that is overwritten after each record, as the builder does."""
    buffer = bytearray(max(map(len, payloads)))
    view = memoryview(buffer)

    def records() -> Iterator[Record]:
        for sample_id, payload in enumerate(payloads, start=5):
            view[: len(payload)] = payload
            yield Record(sample_id, view[: len(payload)], sample_id * 3, "bin")
            view[:] = b"\xee" * len(buffer)

    sink = io.BytesIO()
    offsets = form.write_shard(sink, records(), options or {})
    return sink.getvalue(), offsets


def a_jpeg(num_bytes: int = 3000, sample_id: int = 1) -> bytes:
    return synthetic_jpeg(PayloadGenerator(42), sample_id, num_bytes)


def an_image(name: str) -> bytes:
    """A record that this format of one file a sample takes."""
    return synthetic_png(PayloadGenerator(42), 1, 3000) if name == "png" else a_jpeg()


@pytest.mark.parametrize("name", ALL)
def test_the_class_and_its_row_in_the_table_agree(name: str) -> None:
    form = open_format(name)
    assert form.name == name and form.suffix.startswith(".")
    assert form.one_sample_per_shard == FORMATS[name].one_sample_per_shard


@pytest.mark.parametrize("name", SINGLE)
def test_one_sample_formats_give_the_record_back_zero_copy(name: str) -> None:
    form = open_format(name)
    payload = an_image(name)
    data, (offset,) = write(form, [payload])
    assert data[offset : offset + len(payload)] == payload
    stored = memoryview(bytearray(data))
    record = form.parse(stored)
    assert bytes(record) == payload
    stored[offset] ^= 1
    assert record[0] == payload[0] ^ 1, "the record is a view of the stored bytes"
    assert write(form, [payload]) == (data, [offset]), "the same again"


@pytest.mark.parametrize("name", SINGLE)
def test_one_sample_formats_take_exactly_one(name: str) -> None:
    form = open_format(name)
    with pytest.raises(ValueError, match="got none"):
        form.write_shard(io.BytesIO(), [], {})
    with pytest.raises(ValueError, match="got more"):
        write(form, [an_image(name), an_image(name)])


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.integers(-(2**31), 2**31 - 1))
def test_npz_and_npy_round_trip(payload: bytes, label: int) -> None:
    for form in (NpzFormat(), NpyFormat()):
        sink = io.BytesIO()
        (offset,) = form.write_shard(sink, [Record(0, memoryview(payload), label, "bin")], {})
        assert offset % 64 == 0
        assert bytes(form.parse(memoryview(sink.getvalue()))) == payload


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=12), st.integers(1, 5))
def test_formats_of_many_samples_round_trip(payloads: list[bytes], group: int) -> None:
    tar, offsets = write(WebDatasetFormat(), payloads)
    assert [tar[offset : offset + len(payload)] for offset, payload in zip(offsets, payloads, strict=True)] == payloads
    assert len(tar) % 512 == 0 and tar[-1024:] == bytes(1024)
    parquet, rows = write(ParquetFormat(), payloads, {"row_group_samples": group})
    assert rows == list(range(len(payloads)))
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(parquet))
    found = [[bytes(record) for record in row_group_records(file.read_row_group(number))] for number in range(file.num_row_groups)]
    assert found == [payloads[start : start + group] for start in range(0, len(payloads), group)]


def test_parquet_is_plain_uncompressed_with_checksummed_small_pages() -> None:
    import pyarrow.parquet as pq

    payloads = [PayloadGenerator(1).payload(sample, 300_000) for sample in range(40)]
    data, _ = write(ParquetFormat(), payloads, {"row_group_samples": 16})
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    assert [metadata.row_group(number).num_rows for number in range(3)] == [16, 16, 8]
    column = metadata.row_group(0).column(3)
    assert (column.path_in_schema, column.compression, column.has_dictionary_page) == ("payload", "UNCOMPRESSED", False)
    assert set(column.encodings) <= {"PLAIN", "RLE"}
    assert len(data) < 40 * 300_000 * 1.002 + 8000
    assert write(ParquetFormat(), payloads, {"row_group_samples": 16})[0] == data
    middle = data.index(payloads[3][:64]) + 1000
    broken = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(io.BytesIO(broken), page_checksum_verification=True).read_row_group(0)
    assert np.flatnonzero(row_checksums(memoryview(broken)) != row_checksums(memoryview(data))).tolist() == [3]


def test_parquet_values_of_slices_and_chunks_are_views() -> None:
    import pyarrow as pa

    from storagebench.datasets.parquet import binary_values

    values = [b"zero", b"one", b"", b"three"]
    for kind in (pa.binary(), pa.large_binary()):
        array = pa.array(values, kind)
        assert [bytes(view) for view in binary_values(array[1:3])] == values[1:3]
        assert [bytes(view) for view in binary_values(pa.chunked_array([array, array[3:]]))] == [*values, b"three"]
        assert binary_values(array[4:]) == []
        with pytest.raises(DatasetError, match="null"):
            binary_values(pa.array([b"a", None], kind))


def test_parquet_rows_have_no_stored_bytes_of_their_own() -> None:
    with pytest.raises(UsageError, match="row group"):
        ParquetFormat().parse(memoryview(b"x"))


def test_a_damaged_parquet_file_is_decoded_elsewhere() -> None:
    payloads = [PayloadGenerator(1).payload(sample, 5000) for sample in range(6)]
    data, _ = write(ParquetFormat(), payloads, {"row_group_samples": 2})
    assert row_checksums_of_damaged(memoryview(data)) is not None
    assert row_checksums_of_damaged(memoryview(data[:-9])) is None
    with pytest.raises(DatasetError, match="does not decode"):
        row_checksums(memoryview(data[:-9]))


@pytest.mark.parametrize("suffix", ["JPG", "a.b", "../x", "", "cls", "a/b", "x" * 17, "jpg\n"])
def test_tar_members_have_plain_names(suffix: str) -> None:
    with pytest.raises(DatasetError, match="suffix"):
        WebDatasetFormat().write_shard(io.BytesIO(), [Record(1, memoryview(b"abc"), 0, suffix)], {})


@given(st.integers(0, 10**13), st.sampled_from(["bin", "cls", "jpg", "a" * 16]), st.integers(0, 8**11 + 5))
def test_tar_headers_are_those_of_the_standard_library(sample_id: int, suffix: str, num_bytes: int) -> None:
    info = tarfile.TarInfo(f"{sample_id:012d}.{suffix}")
    info.size, info.mode = num_bytes, 0o644
    expected = info.tobuf(tarfile.GNU_FORMAT if num_bytes >= 8**11 else tarfile.USTAR_FORMAT, "ascii", "strict")
    assert _header(info.name, num_bytes) == expected


class _Vast:
    """Stands for a payload over 4 GiB without its memory."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    def __len__(self) -> int:
        return self.num_bytes


def test_npz_over_4_gib_has_64_bit_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without 4 GiB: lengths are what the headers are made of, and the data is left out of the file."""
    parts: list[bytes] = []

    class Sink:
        def write(self, data: Any, /) -> None:
            if not isinstance(data, _Vast):
                parts.append(bytes(data))

    monkeypatch.setattr("storagebench.datasets.npz.crc32", lambda data, value=0: 7)
    archive = _Archive(Sink())
    size = 5 * 2**30
    offset = archive.add("x.npy", b"h" * 128, _Vast(size))  # type: ignore[arg-type]
    archive.add("y.npy", b"h" * 128, memoryview(b"12345678"))
    archive.finish()
    head = parts[0]
    assert offset % 64 == 0 and len(head) == offset
    name_length, extra_length = struct.unpack_from("<2H", head, 26)
    assert struct.unpack_from("<2I", head, 18) == (2**32 - 1, 2**32 - 1)
    assert struct.unpack_from("<2H2Q", head, 30 + name_length) == (1, 16, size + 128, size + 128)
    assert 30 + name_length + extra_length + 128 == offset
    tail = parts[-1]
    assert tail[:4] == b"PK\x05\x06" and struct.unpack_from("<I", tail, 16) == (2**32 - 1,)
    assert [part[:4] for part in parts[-3:]] == [b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"]
    with pytest.raises(DatasetError, match=str(size + 128)):
        _first_member(memoryview(head + bytes(100) + tail), b"x.npy")


def npy_file(text: str, data: bytes, version: int = 1) -> memoryview:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return memoryview(b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin1") + data)


def header(descr: str = "'|u1'", shape: str = "(4,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}          \n"


HOSTILE_NPY = {
    "object": npy_file(header("'|O'"), pickle.dumps([1])),
    "structured": npy_file(header("[('a', '|u1')]"), b"1234"),
    "structured with objects": npy_file(header("[('a', '|O')]"), b"1234"),
    "4 TiB": npy_file(header(shape="(4398046511104,)"), b"1234"),
    "product over 64 bits": npy_file(header(shape="(4294967296, 4294967296, 4294967296)"), b"1234"),
    "short": npy_file(header(), b"123"),
    "long": npy_file(header(), b"12345"),
    "negative": npy_file(header(shape="(-4,)"), b"1234"),
    "expression": npy_file(header(shape="(4+0,)"), b"1234"),
    "call": npy_file(header(descr="__import__('os')"), b"1234"),
    "header over 64 KiB": npy_file(header() + " " * 65_536, b"1234", version=2),
    "600 MB header": memoryview(b"\x93NUMPY\x02\x00" + struct.pack("<I", 600_000_000) + b"{" * 100),
    "header past the end": memoryview(b"\x93NUMPY\x01\x00" + struct.pack("<H", 500) + header().encode()),
    "nested": npy_file("{" * 5000, b"1234"),
    "version 9": npy_file(header(), b"1234", version=9),
    "no magic": memoryview(b"\x93NUMPX\x01\x00" + bytes(100)),
    "empty": memoryview(b""),
    "magic only": memoryview(b"\x93NUMPY\x01\x00"),
    "no header": npy_file("", b"1234"),
}


@pytest.mark.parametrize("case", HOSTILE_NPY)
def test_hostile_npy_is_refused(case: str) -> None:
    with pytest.raises(DatasetError) as caught:
        npy_data(HOSTILE_NPY[case])
    assert caught.value.hint and len(caught.value.message) < 400


@pytest.mark.parametrize(
    "array",
    [np.arange(12, dtype="<f4").reshape(3, 4), np.array(7, dtype="<i8"), np.array(["ab", "c"]), np.zeros((0, 5), np.uint16), np.array([True])],
)
def test_arrays_that_numpy_wrote_are_read(array: Any) -> None:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    assert bytes(npy_data(memoryview(file.getvalue()))) == array.tobytes()


def patched(data: bytes, position: int, new: bytes) -> memoryview:
    return memoryview(data[:position] + new + data[position + len(new) :])


def hostile_npz() -> dict[str, memoryview]:
    good, _ = write(NpzFormat(), [b"0123456789" * 20])
    compressed = io.BytesIO()
    np.savez_compressed(compressed, x=np.zeros(100_000, np.uint8), y=np.zeros(1))
    objects = io.BytesIO()
    np.savez(objects, x=np.array([{}], dtype=object), allow_pickle=True)
    other = io.BytesIO()
    np.savez(other, a=np.zeros(4, np.uint8))
    return {
        "bomb": memoryview(compressed.getvalue()),
        "object array": memoryview(objects.getvalue()),
        "another first member": memoryview(other.getvalue()),
        "truncated": memoryview(good[:-1]),
        "cut in the data": memoryview(good[:250]),
        "encrypted": patched(good, 6, b"\x01\x00"),
        "streamed": patched(good, 6, b"\x08\x00"),
        "size over the file": patched(good, 18, struct.pack("<2I", 2**31, 2**31)),
        "sizes differ": patched(good, 18, struct.pack("<I", 5)),
        "64-bit size without its field": patched(good, 18, struct.pack("<2I", 2**32 - 1, 2**32 - 1)),
        "name over the file": patched(good, 26, struct.pack("<H", 65_535)),
        "extra over the file": patched(good, 28, struct.pack("<H", 65_535)),
        "not a zip": memoryview(bytes(500)),
        "tiny": memoryview(b"PK"),
    }


@pytest.mark.parametrize("case", sorted(hostile_npz()))
def test_hostile_npz_is_refused(case: str) -> None:
    with pytest.raises(DatasetError) as caught:
        NpzFormat().parse(hostile_npz()[case])
    assert caught.value.hint and len(caught.value.message) < 400


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_container_raises_only_our_error(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from([NpzFormat(), NpyFormat(), JpegFormat()]))
    good = a_jpeg(1100) if form.name == "jpeg" else write(form, [b"0123456789" * 20])[0]
    stored = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    stored = stored[: data.draw(st.integers(0, len(stored)))]
    try:
        assert len(form.parse(memoryview(stored))) <= len(stored)
    except DatasetError as error:
        assert error.message


@pytest.mark.parametrize("num_bytes", [MIN_JPEG_BYTES, 1025, 1026, 1027, 1500, 7166, 66_000, 114_660, 400_000])
def test_synthetic_jpegs_have_the_exact_length_and_are_images(num_bytes: int) -> None:
    jpeg = a_jpeg(num_bytes, sample_id=1234)
    assert len(jpeg) == num_bytes and jpeg == a_jpeg(num_bytes, sample_id=1234) != a_jpeg(num_bytes, sample_id=1235)
    pixels = decode_image(memoryview(jpeg), 0)
    width, height = jpeg_size(memoryview(jpeg))
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
    assert (1234).to_bytes(8, "little") in jpeg
    if num_bytes > 20_000:
        bits_per_pixel = num_bytes * 8 / (width * height)
        assert 3.5 < bits_per_pixel < 4.9 and 5 < float(pixels.std()) < 100


@pytest.mark.parametrize("width", [16, 33 * 16, 64 * 16])
def test_fields_are_stretched_as_pillow_resizes(width: int) -> None:
    from PIL import Image

    for height in (*range(16, 1040, 16), 4096):
        field = np.frombuffer(PayloadGenerator(height).payload(width, 64), np.uint8).reshape(8, 8)
        expected = Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR)
        assert np.array_equal(_stretched(field, width, height), np.asarray(expected)), height


def test_a_long_comment_is_cut_and_stamped() -> None:
    from PIL import Image

    from storagebench.datasets.image import _with_comments

    generator = PayloadGenerator(42)
    image = a_jpeg(1100)
    for room in (12, 13, 65_027, 65_028, 65_029, 65_035, 65_040, 65_041, 200_000):
        filled = _with_comments(memoryview(image), generator.payload(77, room))
        assert len(filled) == len(image) + room
        with Image.open(io.BytesIO(filled)) as opened:
            opened.load()
            comments = [data for kind, data in opened.applist if kind == "COM"]
        ours = [data for data in comments if data[:8] == (77).to_bytes(8, "little")]
        assert sum(4 + len(data) for data in ours) == room
        assert all(data[place : place + 8] == (77).to_bytes(8, "little") for data in ours for place in range(0, len(data) - 8, 512))


def test_a_jpeg_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="1024"):
        a_jpeg(MIN_JPEG_BYTES - 1)


def test_jpeg_format_takes_jpegs_only() -> None:
    with pytest.raises(DatasetError, match=r"sample 5.*start-of-image") as caught:
        write(JpegFormat(), [b"\x89PNG" + bytes(100)])
    assert "raw" in caught.value.hint
    assert bytes(RawFormat().parse(memoryview(b"anything"))) == b"anything"


JPEG_CASES = {
    "fill bytes": (b"\xff\xd8\xff\xff\xff\xc0\x00\x0b\x08\x00\x10\x00\x20\x01\x01\x11\x00", (32, 16)),
    "restart marker first": (b"\xff\xd8\xff\xd0\xff\xc2\x00\x0b\x08\x00\x10\x00\x20\x01\x01\x11\x00", (32, 16)),
    "scan before frame": (b"\xff\xd8\xff\xda\x00\x04\x00\x00\xff\xc0\x00\x0b\x08\x00\x10\x00\x20\x01\x01\x11\x00", None),
    "zero width": (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x00\x01\x01\x11\x00", None),
    "segment past the end": (b"\xff\xd8\xff\xe0\xff\xff\x00\x00", None),
    "length 1": (b"\xff\xd8\xff\xe0\x00\x01\x00\x00", None),
    "short frame": (b"\xff\xd8\xff\xc0\x00\x04\x08\x00", None),
    "only fill": (b"\xff\xd8" + b"\xff" * 1000, None),
    "no marker": (b"\xff\xd8\x00\x00\x00\x00", None),
}


@pytest.mark.parametrize("case", JPEG_CASES)
def test_walking_jpeg_markers(case: str) -> None:
    data, size = JPEG_CASES[case]
    if size is not None:
        assert jpeg_size(memoryview(data)) == size
    else:
        with pytest.raises(DatasetError, match="JPEG"):
            jpeg_size(memoryview(data))


def test_full_decode_hands_over_what_the_workload_says() -> None:
    record = memoryview(bytes(range(200)))
    for asked, size in ((50, 50), (0, 200), (200, 200), (1000, 200)):
        value, handover = decode_full("bytes", record, asked)
        assert handover == size and value.tobytes() == bytes(record[:size])
        assert np.shares_memory(value, np.frombuffer(record, np.uint8))  # copying it is up to who hands it over
    jpeg = memoryview(a_jpeg(114_660))
    width, height = jpeg_size(jpeg)
    for asked, shape in ((150_528, (224, 224, 3)), (3, (1, 1, 3)), (0, (height, width, 3)), (150_000, (height, width, 3))):
        value, handover = decode_full("jpeg", jpeg, asked)
        assert value.shape == shape and handover == shape[0] * shape[1] * 3
    text, size = decode_full("text", record, 0)
    assert text.tobytes() == bytes(record) and size == 200
    with pytest.raises(UsageError, match="'sound'"):
        decode_full("sound", record, 0)


def test_a_broken_image_is_a_dataset_error() -> None:
    jpeg = a_jpeg(5000)
    for broken in (jpeg[:2500], jpeg[:20], b"GIF89a" + bytes(50)):
        with pytest.raises(DatasetError, match="does not decode"):
            decode_image(memoryview(broken), 150_528)


def test_resizing_by_draft_shows_the_same_image() -> None:
    from PIL import Image

    jpeg = a_jpeg(300_000)
    whole = Image.fromarray(decode_image(memoryview(jpeg), 0)).resize((64, 64), Image.Resampling.BOX)
    fast = decode_image(memoryview(jpeg), 3 * 64 * 64)
    assert np.abs(np.asarray(whole).astype(int) - fast.astype(int)).mean() < 4
