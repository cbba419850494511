"""The datasets are what the world's own libraries read: each test gives one library the files and compares exact bytes with the generator's."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from storagebench.build import generate
from storagebench.datasets.payload import PayloadGenerator
from storagebench.manifest import Dataset
from storagebench.storage import open_store
from storagebench.workload import DatasetSpec, Workload

NUM_SAMPLES = 150
SEED = 7


def make(folder: Path, **fields: object) -> Dataset:
    spec = {"num_samples": NUM_SAMPLES, "record_length_bytes": 3000, "record_length_bytes_stdev": 700, "seed": SEED, "samples_per_shard": 2, **fields}
    return generate(Workload(name="consumers", dataset=DatasetSpec.model_validate(spec)), open_store(str(folder)))


def expected(dataset: Dataset) -> list[bytes]:
    generator = PayloadGenerator(SEED)
    return [generator.payload(sample, int(size)) for sample, size in enumerate(dataset.index["record_bytes"])]


def test_numpy_reads_npz(tmp_path: Path) -> None:
    dataset = make(tmp_path, format="npz")
    for sample, payload in enumerate(expected(dataset)):
        with np.load(tmp_path / dataset.shard_of(sample), allow_pickle=False) as archive:
            assert archive.files == ["x", "y"]
            assert archive["x"].dtype == np.uint8 and archive["x"].tobytes() == payload
            assert archive["y"].tolist() == [sample % 1000] and archive["y"].dtype == np.int64


def test_numpy_reads_npy_and_maps_it(tmp_path: Path) -> None:
    dataset = make(tmp_path, format="npy")
    for sample, payload in enumerate(expected(dataset)):
        assert np.load(tmp_path / dataset.shard_of(sample), allow_pickle=False).tobytes() == payload
        assert np.load(tmp_path / dataset.shard_of(sample), mmap_mode="r", allow_pickle=False).tobytes() == payload


def test_tarfile_reads_tar_shards(tmp_path: Path) -> None:
    dataset = make(tmp_path, format="webdataset")
    found = {}
    for name in dataset.names:
        with tarfile.open(tmp_path / name) as tar:
            for member in tar:
                assert member.isreg() and (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                opened = tar.extractfile(member)
                assert opened is not None
                found[member.name] = opened.read()
    assert len(found) == 2 * NUM_SAMPLES
    for sample, payload in enumerate(expected(dataset)):
        assert found[f"{sample:012d}.bin"] == payload and found[f"{sample:012d}.cls"] == b"%d" % (sample % 1000)


def test_webdataset_reads_tar_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    dataset = make(tmp_path, format="webdataset")
    urls = [str(tmp_path / name) for name in dataset.names]
    pipeline = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode().to_tuple("__key__", "bin", "cls")
    samples = list(pipeline)
    assert [key for key, _, _ in samples] == [f"{sample:012d}" for sample in range(NUM_SAMPLES)]
    assert [payload for _, payload, _ in samples] == expected(dataset)
    assert [label for _, _, label in samples] == [sample % 1000 for sample in range(NUM_SAMPLES)]


def test_pyarrow_reads_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from crc32c import crc32c

    dataset = make(tmp_path, format="parquet", row_group_bytes=3000, samples_per_shard=4)
    payloads = expected(dataset)
    rows = [row for name in dataset.names for row in pq.read_table(tmp_path / name, page_checksum_verification=True).to_pylist()]
    assert [row["payload"] for row in rows] == payloads
    assert [row["sample_id"] for row in rows] == list(range(NUM_SAMPLES))
    assert [row["label"] for row in rows] == [sample % 1000 for sample in range(NUM_SAMPLES)]
    assert [row["crc32c"] for row in rows] == [crc32c(payload) for payload in payloads]
    groups = [pq.ParquetFile(tmp_path / name).metadata for name in dataset.names]
    sizes = [metadata.row_group(number).num_rows for metadata in groups for number in range(metadata.num_row_groups)]
    assert sizes == dataset.row_groups()[2].tolist(), "the manifest and the files agree on row groups"


def test_duckdb_reads_parquet(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    dataset = make(tmp_path, format="parquet")
    rows = duckdb.sql(f"select sample_id, payload from read_parquet('{tmp_path}/shards/*.parquet') order by sample_id").fetchall()
    assert [sample for sample, _ in rows] == list(range(NUM_SAMPLES))
    assert [bytes(payload) for _, payload in rows] == expected(dataset)


def test_pillow_reads_jpeg(tmp_path: Path) -> None:
    from PIL import Image

    from storagebench.datasets.image import synthetic_jpeg

    dataset = make(tmp_path, format="jpeg", payload="jpeg", record_length_bytes=20_000, record_length_bytes_stdev=3000, num_samples=70)
    generator = PayloadGenerator(SEED)
    for sample in range(70):
        data = (tmp_path / dataset.shard_of(sample)).read_bytes()
        assert data == synthetic_jpeg(generator, sample, int(dataset.index["record_bytes"][sample]))
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.format == "JPEG" and image.mode == "RGB" and min(image.size) >= 64


def test_plain_files_are_the_records(tmp_path: Path) -> None:
    dataset = make(tmp_path, format="raw")
    assert [(tmp_path / dataset.shard_of(sample)).read_bytes() for sample in range(NUM_SAMPLES)] == expected(dataset)
