"""Data that DLIO wrote, measured where they lie: the right samples and bytes at every level, by two loaders, and not a byte beside theirs."""

from __future__ import annotations

import importlib.util
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storagebench.build import verify
from storagebench.errors import DatasetError, UsageError
from storagebench.inplace import InPlace, import_in_place
from storagebench.manifest import Dataset, load_dataset
from storagebench.protocols import LoadJob
from storagebench.registry import open_loader
from storagebench.storage import data_spec, open_store


def _load_writers() -> Any:
    spec = importlib.util.spec_from_file_location("dlio_writers", Path(__file__).parent / "data" / "dlio_writers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


theirs = _load_writers()
FORMS = list(theirs.WRITERS)
SINGLE = ("jpeg", "png")
SAMPLES = 4


def samples_of(form: str) -> int:
    return 1 if form in SINGLE else SAMPLES


def imported(source: Path, place: Path, **options: Any) -> InPlace:
    store = open_store(str(place))
    try:
        return import_in_place(str(source), store, **options)
    finally:
        store.close()


def tree(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything below a folder: kind and rights, times, bytes."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        found[str(path)] = (info.st_mode, info.st_mtime_ns, info.st_ctime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def delivered(place: Path, dataset: Dataset, loader: str, decode: str) -> tuple[dict[int, bytes], int]:
    """What one rank gets in an epoch: the record of each sample, and all record bytes as counted; checksums are compared where they were taken."""
    spec = data_spec(open_store(str(place)).spec, dataset)
    job = LoadJob(spec, dataset, 0, 1, 2, keep_remainder=True, decode=decode)
    run, found, record_bytes = open_loader(loader).open(job), {}, 0
    try:
        run.start(0)
        while (batch := run.next()) is not None:
            record_bytes += batch.record_bytes
            flat = [bytes(one) for part in batch.data for one in part]
            if batch.checksums is not None:
                assert (batch.checksums[batch.checked] == dataset.index["crc32c"][batch.sample_ids][batch.checked]).all()
            found.update(zip(batch.sample_ids.tolist(), flat, strict=True))
        run.drain()
    finally:
        run.close()
    return found, record_bytes


@pytest.mark.parametrize("form", FORMS)
def test_every_format_in_place(form: str, tmp_path: Path) -> None:
    """Samples and bytes are those that were written, at all levels, by both loaders; the manifest verifies; theirs is untouched."""
    records = theirs.write(tmp_path / "theirs", form, samples_of(form))
    before = tree(tmp_path / "theirs")
    dataset = imported(tmp_path / "theirs", tmp_path / "ours").dataset
    assert (dataset.format, dataset.num_samples, dataset.num_shards) == (form, len(records), theirs.FILES)
    assert dataset.record_bytes == sum(len(record) for record in records)
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["manifest.json", "samples.idx"]
    store = open_store(str(tmp_path / "ours"))
    assert load_dataset(store).digest() == dataset.digest()
    assert verify(store, load_dataset(store)) == []
    for loader in ("files", "direct", *(("tfrecord",) if form == "tfrecord" else ())):
        for decode in ("none", "touch", "parse") if loader != "tfrecord" else ("parse",):
            found, record_bytes = delivered(tmp_path / "ours", dataset, loader, decode)
            assert [found[number] for number in range(len(records))] == records, (loader, decode)
            assert record_bytes == dataset.record_bytes
    assert tree(tmp_path / "theirs") == before


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_one_sample_a_file_is_parsed_out_of_its_container(form: str, tmp_path: Path) -> None:
    records = theirs.write(tmp_path / "theirs", form, 1)
    found = imported(tmp_path / "theirs", tmp_path / "ours")
    assert found.notes == ()
    assert found.dataset.whole_shards and not found.dataset.options
    assert delivered(tmp_path / "ours", found.dataset, "direct", "parse")[0] == dict(enumerate(records))


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_several_samples_in_an_array_are_equal_shares_and_it_is_said(form: str, tmp_path: Path) -> None:
    theirs.write(tmp_path / "theirs", form, 4)
    found = imported(tmp_path / "theirs", tmp_path / "ours")
    assert found.dataset.options == {"ranges": True} and not found.dataset.whole_shards
    assert found.dataset.origin["samples"] == "equal shares of each array"
    assert "DLIO reads the whole file" in found.notes[0]


def test_samples_along_the_first_axis_are_exact(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    x = theirs.array(1, 5, 8, 6)
    np.savez(tmp_path / "theirs" / "a.npz", x=x, y=np.arange(5))
    found = imported(tmp_path / "theirs", tmp_path / "ours")
    assert found.notes == () and found.dataset.num_samples == 5
    assert delivered(tmp_path / "ours", found.dataset, "direct", "touch")[0] == {number: bytes(x[number]) for number in range(5)}


def test_an_array_of_others_with_three_axes_is_one_sample(tmp_path: Path) -> None:
    """Only files with DLIO's names have their samples on the last axis: a photograph has its colours there."""
    (tmp_path / "theirs").mkdir()
    np.save(tmp_path / "theirs" / "photo.npy", theirs.array(1, 8, 6, 3))
    assert imported(tmp_path / "theirs", tmp_path / "ours").dataset.num_samples == 1


def test_any_files_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "a").mkdir(parents=True)
    (tmp_path / "theirs" / "a" / "one.dat").write_bytes(b"12345")
    (tmp_path / "theirs" / "two").write_bytes(b"678")
    dataset = imported(tmp_path / "theirs", tmp_path / "ours", format="raw").dataset
    assert (dataset.names, dataset.record_bytes) == (("a/one.dat", "two"), 8)


def test_a_damaged_or_changed_file_is_found(tmp_path: Path) -> None:
    theirs.write(tmp_path / "theirs", "npy", 2)
    dataset = imported(tmp_path / "theirs", tmp_path / "ours").dataset
    victim = tmp_path / "theirs" / dataset.names[1]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    store = open_store(str(tmp_path / "ours"))
    assert [(problem.shard, problem.sample_id) for problem in verify(store, dataset)] == [(dataset.names[1], 3)]
    victim.write_bytes(data[:-5])
    assert ["truncated" in problem.message for problem in verify(store, dataset)] == [True]
    victim.unlink()
    assert ["missing" in problem.message for problem in verify(store, dataset)] == [True]


def test_where_it_lies_is_no_part_of_the_digest(tmp_path: Path) -> None:
    theirs.write(tmp_path / "theirs", "npy", 2)
    first = imported(tmp_path / "theirs", tmp_path / "ours").dataset
    (tmp_path / "theirs").rename(tmp_path / "moved")
    second = imported(tmp_path / "moved", tmp_path / "again").dataset
    assert first.digest() == second.digest()
    assert first.data_root != second.data_root


def test_the_same_import_again_is_no_error_and_another_is(tmp_path: Path) -> None:
    theirs.write(tmp_path / "theirs", "npy", 2)
    imported(tmp_path / "theirs", tmp_path / "ours")
    before = tree(tmp_path / "ours")
    imported(tmp_path / "theirs", tmp_path / "ours")
    assert tree(tmp_path / "ours") == before
    theirs.write(tmp_path / "others", "npz", 1)
    with pytest.raises(UsageError, match="another dataset already"):
        imported(tmp_path / "others", tmp_path / "ours")


Spoil = Callable[[Path], None]


def _compressed(folder: Path) -> None:
    np.savez_compressed(folder / "img_0_of_1.npz", x=theirs.array(1, 4, 4, 1), y=[0])


def _foreign_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("other.npy", b"x" * 200)


def _objects(folder: Path) -> None:
    np.save(folder / "a.npy", np.array([{}], dtype=object), allow_pickle=True)


def _cut(folder: Path) -> None:
    np.save(folder / "a.npy", theirs.array(1, 40))
    os.truncate(folder / "a.npy", 140)


def _two_kinds(folder: Path) -> None:
    theirs.npy(folder / "a.npy", 1, 1)
    theirs.npz(folder / "a.npz", 1, 1)


def _train_and_valid(folder: Path) -> None:
    for name in ("train", "valid"):
        (folder / name).mkdir()
        theirs.npy(folder / name / "a.npy", 1, 1)


def _link(folder: Path) -> None:
    theirs.npy(folder / "a.npy", 1, 1)
    (folder / "b.npy").symlink_to("a.npy")


def _empty(folder: Path) -> None:
    (folder / "a.jpeg").write_bytes(b"")


def _nothing(folder: Path) -> None:
    (folder / ".hidden.npy").write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (_compressed, DatasetError, "is compressed"),
        (_foreign_zip, DatasetError, "has 'other.npy' as its first array"),
        (_objects, DatasetError, "plain"),
        (_cut, DatasetError, "truncated"),
        (_two_kinds, UsageError, "1 npz, 1 npy"),
        (_train_and_valid, UsageError, "folders train and valid"),
        (_link, UsageError, "is a link"),
        (_empty, DatasetError, "0 bytes"),
        (_nothing, UsageError, "no files with a name that is known"),
    ],
)
def test_what_cannot_be_measured_in_place_is_refused(spoil: Spoil, error: type[Exception], says: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    spoil(tmp_path / "theirs")
    with pytest.raises(error) as caught:
        imported(tmp_path / "theirs", tmp_path / "ours")
    assert says in str(caught.value)
    assert caught.value.hint  # type: ignore[attr-defined]
    assert not (tmp_path / "ours").exists() or not any((tmp_path / "ours").iterdir())


@pytest.mark.parametrize(("options", "good"), [({"chunks": (1, 20, 20)}, True), ({"chunks": (1, 5, 20)}, False), ({"compression": "gzip"}, False)])
def test_hdf5_chunks(options: dict[str, Any], good: bool, tmp_path: Path) -> None:
    import h5py

    (tmp_path / "theirs").mkdir()
    x = theirs.array(1, 3, 20, 20)
    with h5py.File(tmp_path / "theirs" / "a.h5", "w") as file:
        file.create_dataset("records", data=x, **options)
    if not good:
        with pytest.raises(DatasetError, match="compressed or in chunks"):
            imported(tmp_path / "theirs", tmp_path / "ours")
        return
    dataset = imported(tmp_path / "theirs", tmp_path / "ours").dataset
    assert delivered(tmp_path / "ours", dataset, "direct", "touch")[0] == {number: bytes(x[number]) for number in range(3)}


def test_tfrecord_frames_of_others_are_whole_records_and_damage_is_seen(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "a.tfrecord"
    theirs.tfrecord(file, 1, 2)
    data = file.read_bytes().replace(b"image", b"pixel")
    file.write_bytes(data)
    frame = len(data) // 2 - 16
    assert imported(tmp_path / "theirs", tmp_path / "ours", format="tfrecord").dataset.index["record_bytes"].tolist() == [frame, frame]
    file.write_bytes(data[:-3])
    with pytest.raises(DatasetError, match="ends within a frame"):
        imported(tmp_path / "theirs", tmp_path / "again", format="tfrecord")
    file.write_bytes(b"\x00" + data[1:])
    with pytest.raises(DatasetError, match="no frame of TFRecord at byte 0"):
        imported(tmp_path / "theirs", tmp_path / "again", format="tfrecord")


def test_a_tfrecord_file_that_changed_is_seen_by_the_loader_of_whole_files(tmp_path: Path) -> None:
    theirs.write(tmp_path / "theirs", "tfrecord", 2)
    dataset = imported(tmp_path / "theirs", tmp_path / "ours").dataset
    file = tmp_path / "theirs" / dataset.names[0]
    data = file.read_bytes()
    file.write_bytes(data + data)
    with pytest.raises(DatasetError, match="more than the 2 frames"):
        delivered(tmp_path / "ours", dataset, "tfrecord", "parse")
    theirs.tfrecord(file, 1, 1)
    with pytest.raises(DatasetError):
        delivered(tmp_path / "ours", dataset, "tfrecord", "parse")


def test_the_manifest_never_lies_among_their_files(tmp_path: Path) -> None:
    theirs.write(tmp_path / "theirs", "npy", 1)
    before = tree(tmp_path / "theirs")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    for inside in (tmp_path / "theirs", tmp_path / "theirs" / "sub", tmp_path / "link" / "sub"):
        with pytest.raises(UsageError, match="lies inside the source"):
            imported(tmp_path / "theirs", inside)
    assert tree(tmp_path / "theirs") == before


def test_objects_in_place(tmp_path: Path) -> None:
    """Another store than files: the source is a URL, and no name of theirs has a manifest beside it."""
    name = f"memory://{tmp_path.name}"
    source, place = open_store(f"{name}/theirs"), open_store(f"{name}/ours")
    for number in range(3):
        with source.create(f"part/{number}.png") as sink:
            sink.write(bytes([number]) * 50)
    dataset = import_in_place(f"{name}/theirs", place, format="raw").dataset
    assert (dataset.num_samples, dataset.record_bytes) == (3, 150)
    assert verify(place, load_dataset(place)) == []
    assert sorted(info.key for info in source.list()) == ["part/0.png", "part/1.png", "part/2.png"]
    with pytest.raises(UsageError, match="lies on memory storage and the data dir"):
        import_in_place(f"{name}/theirs", open_store(str(tmp_path / "x")))


@pytest.mark.s3
def test_s3_in_place(s3_environment: dict[str, str], tmp_path: Path) -> None:
    """Ranges of their objects, and no object beside them."""
    source, place = (open_store(f"s3://bench/{tmp_path.name}/{name}", s3_environment) for name in ("theirs", "ours"))
    records = theirs.npy(tmp_path / "img_0_of_1.npy", 1, 4)
    with source.create("train/img_0_of_1.npy") as sink:
        sink.write((tmp_path / "img_0_of_1.npy").read_bytes())
    dataset = import_in_place(source.url, place).dataset
    assert dataset.record_bytes == sum(map(len, records))
    assert verify(place, load_dataset(place)) == []
    job = LoadJob(data_spec(place.spec, dataset), dataset, 0, 1, 4, keep_remainder=True, decode="parse", shuffle=False)
    run = open_loader("direct").open(job)
    run.start(0)
    batch = run.next()
    assert batch is not None and [bytes(one) for part in batch.data for one in part] == records
    run.drain()
    run.close()
    assert [info.key for info in source.list()] == ["train/img_0_of_1.npy"]
    source.close()
    place.close()


def test_a_manifest_that_names_another_kind_of_storage_is_refused(tmp_path: Path) -> None:
    theirs.write(tmp_path / "theirs", "npy", 1)
    dataset = imported(tmp_path / "theirs", tmp_path / "ours").dataset
    for root in ("s3://bucket/x", "relative/path", "memory://x"):
        with pytest.raises(DatasetError, match="is no root on posix storage"):
            data_spec(open_store(str(tmp_path / "ours")).spec, replace(dataset, data_root=root))


def test_the_verbs_import_verify_run_and_probe(cli_here: Callable[..., Any], tmp_path: Path) -> None:
    """A whole run in place, cold, with their folder as it was; `probe --write` and loaders that read whole files are refused."""
    theirs.write(tmp_path / "theirs", "npz", 1)
    before = tree(tmp_path / "theirs")
    place = str(tmp_path / "ours")
    made = cli_here("import", str(tmp_path / "theirs"), "--in-place", "--data-dir", place, "--json")
    assert json.loads(made.stdout)["num_samples"] == theirs.FILES, made.stderr
    assert json.loads(made.stdout)["data_root"] == str(tmp_path / "theirs")
    assert cli_here("verify", "--data-dir", place).returncode == 0
    done = cli_here(
        *(
            "run",
            "quick",
            "--data-dir",
            place,
            "--loader",
            "direct",
            "--batch-size",
            "1",
            "--compute-time",
            "1ms",
            "--epochs",
            "2",
            "--verify",
            "full",
        ),
        *(
            "--listing",
            "list",
            "--null-duration",
            "0",
            "--headroom-duration",
            "0",
            "--results-dir",
            str(tmp_path / "runs"),
            "--run-id",
            "one",
            "--json",
        ),
    )
    summary = json.loads(done.stdout)
    assert (summary["valid"], summary["samples"], summary["checksum_errors"]) == (True, 2 * theirs.FILES, 0)
    assert summary["delivered_bytes"] == 2 * theirs.FILES * theirs.SIDE**2
    saved = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    assert (saved["store"]["root"], saved["manifest_store"]["root"]) == (str(tmp_path / "theirs"), place)
    assert cli_here("report", str(tmp_path / "runs" / "one")).returncode == 0
    refused = cli_here("probe", place, "--write", "--seconds", "0.01")
    assert (refused.returncode, "measured in place" in refused.stderr) == (2, True)
    for wrong in (("--column", "x"), ("--format", "parquet"), ("--samples-per-shard", "3")):
        assert cli_here("import", str(tmp_path / "theirs"), "--in-place", "--data-dir", str(tmp_path / "no"), *wrong).returncode == 2
    assert tree(tmp_path / "theirs") == before
    os.truncate(tmp_path / "theirs" / "train" / "img_1_of_3.npz", 100)
    damaged = cli_here("verify", "--data-dir", place)
    assert (damaged.returncode, "truncated" in damaged.stderr, "remove" in damaged.stderr) == (3, True, False)
    assert cli_here("run", "quick", "--data-dir", place, "--compute-time", "1ms", "--results-dir", str(tmp_path / "runs")).returncode == 3
