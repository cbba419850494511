"""Real data becomes a dataset with its bytes unchanged; what is not plain data is refused with its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storagebench.build import import_dataset, verify
from storagebench.datasets.image import synthetic_jpeg
from storagebench.datasets.importers import NO_LABEL, open_source
from storagebench.datasets.payload import PayloadGenerator
from storagebench.errors import DatasetError, StorageBenchError, UsageError
from storagebench.manifest import Dataset
from storagebench.storage import open_store


def plant(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def imported(source: Path, target: Path, **options: Any) -> tuple[Dataset, list[bytes]]:
    """Import, verify, and read all records back by the index."""
    store = open_store(str(target))
    dataset = import_dataset(source, store, **{"format": "raw", **options})
    assert verify(store, dataset) == []
    records = []
    for sample in range(dataset.num_samples if dataset.format != "parquet" else 0):
        extent = dataset.extent(sample, whole_shard=False)
        records.append(bytes(store.read([extent])[0]))
    return dataset, records


FOLDER = {
    "b.bin": b"bee",
    "a/z.TXT": b"zet" * 100,
    "a/c.d.e": b"cde",
    "x": b"no suffix",
    "ä ö.bin": b"umlaut",
    ".hidden": b"no",
    "a/.git/config": b"no",
}
SORTED = [b"cde", b"zet" * 100, b"bee", b"no suffix", b"umlaut"]


@pytest.mark.parametrize("form", ["raw", "npz", "npy", "webdataset"])
def test_a_folder_keeps_its_bytes_in_sorted_order(tmp_path: Path, form: str) -> None:
    source = plant(tmp_path / "source", FOLDER)
    dataset, records = imported(source, tmp_path / "out", format=form, samples_per_shard=2)
    assert records == SORTED
    assert set(dataset.index["label"].tolist()) == {NO_LABEL}
    assert dataset.payload == "bytes" and dataset.origin["source_kind"] == "folder" and dataset.origin["classes"] == []
    assert dataset.origin["source"] == "source"
    assert str(tmp_path) not in repr(dataset.origin), "an absolute path may hold what is nobody's business"


def test_a_folder_into_parquet(tmp_path: Path) -> None:
    source = plant(tmp_path / "source", FOLDER)
    dataset, _ = imported(source, tmp_path / "out", format="parquet", row_group_bytes=200)
    rows = [row["payload"] for name in dataset.names for row in pq.read_table(tmp_path / "out" / name).to_pylist()]
    assert rows == SORTED and dataset.options == {"row_group_samples": 200 // (sum(map(len, SORTED)) // 5)}


def test_an_imagefolder_tree_gives_labels(tmp_path: Path) -> None:
    generator = PayloadGenerator(1)
    images = [synthetic_jpeg(generator, sample, 1500 + sample) for sample in range(4)]
    names = ["train/cat/1.JPEG", "train/cat/2.jpg", "train/ant/deep/3.jpeg", "train/dog/4.jpg"]
    source = plant(tmp_path, dict(zip(names, images, strict=True))) / "train"
    dataset, records = imported(source, tmp_path / "out", format="jpeg")
    assert records == [images[2], images[0], images[1], images[3]]
    assert dataset.origin["classes"] == ["ant", "cat", "dog"] and dataset.origin["source_kind"] == "imagefolder"
    assert dataset.index["label"].tolist() == [0, 1, 1, 2] and dataset.payload == "jpeg"


def test_a_file_at_the_top_makes_it_a_plain_folder(tmp_path: Path) -> None:
    dataset, _ = imported(plant(tmp_path / "s", {"cat/1.jpg": b"1", "readme.txt": b"2"}), tmp_path / "out")
    assert dataset.origin["classes"] == [] and dataset.payload == "bytes"


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def test_parquet_rows_over_files_and_row_groups(tmp_path: Path) -> None:
    values = [b"%d" % number * (1 + number % 7) for number in range(100)]
    column = pa.array(values, pa.large_binary())
    write_parquet(tmp_path / "s/b.parquet", {"text": ["t"] * 40, "data": column[60:], "label": range(60, 100)}, row_group_size=7)
    write_parquet(tmp_path / "s/a.parquet", {"text": ["t"] * 60, "data": column[:60], "label": range(60)}, row_group_size=11)
    dataset, records = imported(tmp_path / "s", tmp_path / "out", format="webdataset", samples_per_shard=9)
    assert records == values
    assert dataset.index["label"].tolist() == list(range(100))
    assert dataset.origin["column"] == "data" and dataset.origin["source_kind"] == "parquet"


def test_an_image_column_as_hugging_face_writes_it(tmp_path: Path) -> None:
    images = [synthetic_jpeg(PayloadGenerator(1), sample, 1500 + sample) for sample in range(10)]
    column = pa.array([{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(images)])
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": column, "label": pa.array([0, 1, None, 0, 1, 0, 1, 0, 1, 0])})
    import json

    path = tmp_path / "train.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path, row_group_size=4)
    dataset, records = imported(path, tmp_path / "out", format="jpeg")
    assert records == images and dataset.payload == "jpeg"
    assert dataset.origin["classes"] == ["cat", "dog"] and dataset.index["label"].tolist() == [0, 1, NO_LABEL, 0, 1, 0, 1, 0, 1, 0]
    assert dataset.origin["source"] == "train.parquet"


def test_which_parquet_column(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, {"left": [b"1"], "right": [b"2"], "text": ["t"]})
    with pytest.raises(UsageError, match=r"2 binary or image columns.*'left', 'right'"):
        open_source(path)
    assert [bytes(record.payload) for record in open_source(path, "right").records(0, 1)] == [b"2"]
    with pytest.raises(UsageError, match=r"column 'text'.*'left', 'right'"):
        open_source(path, "text")
    write_parquet(path, {"text": ["t"]})
    with pytest.raises(UsageError, match="0 binary or image columns"):
        open_source(path)


def test_parquet_that_cannot_be_records(tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "null": ({"data": [b"1", None]}, "without bytes"),
        "null in the struct": ({"image": pa.array([{"bytes": b"1", "path": ""}, {"bytes": None, "path": "x.jpg"}])}, "without bytes"),
        "empty value": ({"data": [b"1", b""]}, "row 1 .* is empty"),
        "no rows": ({"data": pa.array([], pa.binary())}, "has no rows"),
        "wide label": ({"data": [b"1"], "label": [2**40]}, "outside of 32 bits"),
    }
    for name, (columns, message) in cases.items():
        path = tmp_path / f"{name}.parquet"
        write_parquet(path, columns)
        with pytest.raises(DatasetError, match=message):
            list(open_source(path).records(0, 2))
    (tmp_path / "junk.parquet").write_bytes(b"PAR1" + os.urandom(300) + b"PAR1")
    with pytest.raises(DatasetError, match=r"junk.parquet' does not decode"):
        open_source(tmp_path / "junk.parquet")


def test_parquet_files_of_two_schemas(tmp_path: Path) -> None:
    write_parquet(tmp_path / "s/a.parquet", {"data": [b"1"]})
    write_parquet(tmp_path / "s/b.parquet", {"other": [b"1"]})
    with pytest.raises(DatasetError, match=r"b.parquet.*'data'"):
        open_source(tmp_path / "s")


def refused(tmp_path: Path, source: Path, message: str, **options: Any) -> None:
    with pytest.raises(StorageBenchError, match=message) as caught:
        imported(source, tmp_path / "out", **options)
    assert caught.value.hint
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for number, make in enumerate((lambda p: p.symlink_to(tmp_path / "secret"), lambda p: p.symlink_to(tmp_path), os.mkfifo)):
        source = plant(tmp_path / f"s{number}", {"a.bin": b"a"})
        make(source / "b.bin")
        refused(tmp_path, source, "b.bin' is (a link|not a regular file)")


def test_a_file_replaced_by_a_link_after_listing_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    source = open_source(plant(tmp_path / "s", {"d/a.bin": b"123456"}))
    (tmp_path / "s/d/a.bin").unlink()
    (tmp_path / "s/d/a.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(DatasetError, match="cannot be opened"):
        next(source.records(0, 1))
    (tmp_path / "s/d/a.bin").unlink()
    (tmp_path / "s/d").rmdir()
    plant(tmp_path / "elsewhere", {"a.bin": b"secret"})
    (tmp_path / "s/d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="cannot be opened"):
        next(source.records(0, 1))


@pytest.mark.parametrize("now", [b"12345", b"1234567", b""])
def test_a_file_that_changes_its_size_is_an_error(tmp_path: Path, now: bytes) -> None:
    source = open_source(plant(tmp_path / "s", {"a.bin": b"123456"}))
    (tmp_path / "s/a.bin").write_bytes(now)
    with pytest.raises(DatasetError, match="no longer has the 6 bytes"):
        next(source.records(0, 1))


def test_sources_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path / "nowhere", "cannot be read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "has no files")
    refused(tmp_path, plant(tmp_path / "s", {"a": b"", "b": b"b"}), "'a' is empty")
    refused(tmp_path, plant(tmp_path / "t", {"a.bin": b"a"}) / "a.bin", "only a .parquet file")
    refused(tmp_path, tmp_path / "t", "not Parquet", column="x")
    refused(tmp_path, tmp_path / "t", "plain bytes", format="jpeg")
    refused(tmp_path, plant(tmp_path / "u", {"a.jpg": b"\x89PNG not a jpeg"}), "sample 0.*start-of-image", format="jpeg")
    refused(tmp_path, tmp_path / "t", "samples_per_shard is 0", samples_per_shard=0)
    refused(tmp_path, tmp_path, "lies inside the source")


def test_a_changed_source_does_not_go_on_with_an_unfinished_import(tmp_path: Path) -> None:
    source = plant(tmp_path / "s", {f"{number}.bin": b"%d" % number for number in range(10)})
    store = open_store(str(tmp_path / "out"))

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        import_dataset(source, store, format="raw", progress=stop)
    (source / "10.bin").write_bytes(b"more")
    with pytest.raises(UsageError, match=r"num_samples 10 \(asked: 11\).*source_fingerprint"):
        import_dataset(source, store, format="raw")
    (source / "10.bin").unlink()
    assert import_dataset(source, store, format="raw").num_samples == 10
    assert np.array_equal(import_dataset(source, store, format="raw").shard_bytes, np.ones(10))
