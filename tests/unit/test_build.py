"""Building, resuming and verifying datasets: the same bytes whatever happens on the way, and nobody else's files touched."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storagebench import buildparts
from storagebench.adapters import FORMATS
from storagebench.build import Problem, generate, verify
from storagebench.buildparts import PARTS_FOLDER, SPEC_KEY, Layout
from storagebench.datasets.decode import IMAGE_PAYLOADS
from storagebench.datasets.payload import PayloadGenerator
from storagebench.errors import DatasetError, StorageError, UsageError
from storagebench.manifest import INDEX_KEY, MANIFEST_KEY, Dataset, load_dataset, side_files
from storagebench.protocols import StoreSpec
from storagebench.registry import missing_modules, open_format
from storagebench.storage.posix import PosixStore
from storagebench.workload import PAYLOAD_OF_FORMAT, DatasetSpec, Workload

# Those of an extra that is not installed are left out: `.ci/loaders` has them.
FORMAT_NAMES = sorted(name for name, row in FORMATS.items() if not row.extra or not missing_modules(row.needs))


def a_workload(**fields: Any) -> Workload:
    spec = {"num_samples": 130, "record_length_bytes": 2000, "record_length_bytes_stdev": 300, "samples_per_shard": 4, **fields}
    payload = PAYLOAD_OF_FORMAT.get(str(spec.get("format")), "bytes")
    if payload in IMAGE_PAYLOADS:
        spec |= {"record_length_bytes": 2500, "record_length_bytes_stdev": 0}
    if payload != "bytes":
        spec |= {"payload": payload}
    return Workload(name="tests", dataset=DatasetSpec.model_validate(spec))


def a_store(folder: Path) -> PosixStore:
    return PosixStore(StoreSpec("posix", str(folder)))


class Broken(Exception):
    """What the fault injection raises."""


class FaultyStore(PosixStore):
    """Raises after `budget` bytes were written through it, in the middle of whatever is being written then."""

    def __init__(self, folder: Path, budget: int, error: Exception | None = None) -> None:
        super().__init__(StoreSpec("posix", str(folder)))
        self.budget = budget
        self.error = error or Broken("injected")
        self.guard = threading.Lock()

    @contextmanager
    def create(self, key: str) -> Iterator[Any]:
        with super().create(key) as sink:
            yield _FaultySink(self, sink)


class _FaultySink:
    def __init__(self, store: FaultyStore, sink: Any) -> None:
        self.store, self.sink = store, sink

    def write(self, data: Any, /) -> None:
        with self.store.guard:
            self.store.budget -= len(data)
            if self.store.budget < 0:
                raise self.store.error
        self.sink.write(data)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 5 shards, so that small datasets have many."""
    monkeypatch.setattr(buildparts, "_UNIT_SHARDS", 5)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_what_is_built_is_there_and_whole(tmp_path: Path, name: str) -> None:
    store = a_store(tmp_path)
    seen: list[tuple[int, int]] = []
    dataset = generate(a_workload(format=name), store, progress=lambda done, total: seen.append((done, total)))
    assert dataset.digest() == load_dataset(store).digest()
    sides = dict(side_files(open_format(name), dataset))
    assert set(files_of(tmp_path)) == {MANIFEST_KEY, INDEX_KEY, *dataset.names, *sides}, "no other file and no temporary is left"
    assert dataset.num_shards == (130 if FORMATS[name].one_sample_per_shard else 64), "at least min(n, 64) shards"
    assert dataset.names[0] == "shards/000000" + open_format(name).suffix
    assert seen[-1] == (130, 130) and seen == sorted(seen)
    assert verify(store, dataset) == []
    assert dataset.origin["seed"] == 42 and dataset.origin["workload"] == "tests" and dataset.origin["generator_version"] == 1
    assert ("pyarrow" in dataset.origin["encoder"]) == (name == "parquet")
    assert ("pillow" in dataset.origin["encoder"]) == (name in ("jpeg", "png"))
    assert ("isal" in dataset.origin["encoder"]) == (name == "tfrecord_zlib")
    assert ("h5py" in dataset.origin["encoder"]) == (name == "hdf5")
    assert ("array_record" in dataset.origin["encoder"]) == (name == "arrayrecord")


# Of Parquet and JPEG the bytes depend on their encoders' versions.
DIGESTS = [
    ("npz", 0.0, "1a82ee4ca843c542206350529318a1252b4ba8c0e77d058afd49f7177bcb90d2"),
    ("npz", 0.5, "0b9bf49749d52726292ed035c817aff0f5c727d310dd8e9e9864a79ef6e71b78"),
    ("npy", 0.0, "59c61ea6488fad725db87a6250cd32fb595ebe41c09c332acf2c06efb63cdffc"),
    ("npy", 0.5, "628c2e37c10bd4e3b55b4dc70ae712d4f6f68b5fb60d96a5c9ae0c89e6603993"),
    ("raw", 0.0, "844280d3b830c36e3830398d8a1af96a91b507d9179308a2b01be26107ab17b5"),
    ("raw", 0.5, "5d6779b00af8d381991860810c89bd58971a27906b5aef6e707126363622d2a4"),
    ("webdataset", 0.0, "e40632e0808a85103cfad9837b6303945f31f7ea0d88cb2927337989c4a0c88c"),
    ("webdataset", 0.5, "3842bed20c65ead9d4d1fb06c3c354d749f2a38c0a0bd115b68520965cd11584"),
]


@pytest.mark.parametrize(("name", "compressibility", "digest"), DIGESTS)
def test_a_seed_gives_the_bytes_that_it_always_gave(tmp_path: Path, name: str, compressibility: float, digest: str) -> None:
    workload = a_workload(format=name, record_length_bytes=20_000, record_length_bytes_stdev=3000, compressibility=compressibility)
    assert generate(workload, a_store(tmp_path)).digest() == digest


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_number_of_threads_changes_nothing(tmp_path: Path, name: str) -> None:
    generate(a_workload(format=name, num_subfolders=3), a_store(tmp_path / "one"), num_threads=1)
    generate(a_workload(format=name, num_subfolders=3), a_store(tmp_path / "eight"), num_threads=8)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "eight")


@pytest.mark.parametrize(
    ("num_samples", "per_shard", "shards"), [(1, 100, 1), (63, 100, 63), (64, 100, 64), (130, 100, 64), (130, 1, 130), (129, 2, 65)]
)
def test_there_are_enough_shards(tmp_path: Path, num_samples: int, per_shard: int, shards: int) -> None:
    dataset = generate(a_workload(format="webdataset", num_samples=num_samples, samples_per_shard=per_shard), a_store(tmp_path))
    assert dataset.num_shards == shards and dataset.num_samples == num_samples


def test_subfolders_share_the_shards(tmp_path: Path) -> None:
    dataset = generate(a_workload(format="raw", num_samples=10, num_subfolders=4), a_store(tmp_path))
    assert dataset.names == tuple(f"shards/{shard % 4:04d}/{shard:06d}.bin" for shard in range(10))


def test_a_grown_dataset_keeps_its_old_samples(tmp_path: Path) -> None:
    generate(a_workload(format="npz", num_samples=20), a_store(tmp_path / "small"))
    generate(a_workload(format="npz", num_samples=40), a_store(tmp_path / "large"))
    small, large = files_of(tmp_path / "small"), files_of(tmp_path / "large")
    assert all(large[name] == data for name, data in small.items() if name.startswith("shards/"))


def test_content_does_not_compress_or_repeat(tmp_path: Path) -> None:
    dataset = generate(a_workload(format="webdataset", num_samples=256, record_length_bytes=60_000, record_length_bytes_stdev=0), a_store(tmp_path))
    blocks: list[bytes] = []
    for name in dataset.names:
        data = (tmp_path / name).read_bytes()
        rows = dataset.index[dataset.index["shard"] == dataset.names.index(name)]
        payloads = [data[int(row["offset"]) : int(row["offset"] + row["record_bytes"])] for row in rows]
        assert len(pa.Codec("zstd").compress(b"".join(payloads))) / sum(map(len, payloads)) >= 0.99
        blocks += [data[start : start + 4096] for start in range(0, len(data), 4096)]
    assert len(set(blocks)) / len(blocks) >= 0.9999


def stamps_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("shards/*") if path.is_file()}


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_resume_gives_what_an_undisturbed_build_gives(tmp_path: Path, name: str) -> None:
    workload = a_workload(format=name)
    reference = generate(workload, a_store(tmp_path / "reference"))
    total = sum(len(data) for data in files_of(tmp_path / "reference").values())
    chance = random.Random(name)
    for trial in range(5):
        folder = tmp_path / str(trial)
        budget = chance.randrange(total)
        kept: dict[str, tuple[int, int]] = {}
        for threads in (3, 1):
            try:
                generate(workload, FaultyStore(folder, budget), num_threads=threads)
            except Broken:
                assert not (folder / MANIFEST_KEY).exists(), "an unfinished dataset has no manifest"
            else:
                assert threads == 1, "the first attempt cannot succeed, its budget is below the size"
            assert kept.items() <= stamps_of(folder).items(), "finished files are not written again"
            kept = finished_files(folder)
            budget = chance.randrange(1, total // 4)
        assert generate(workload, a_store(folder)).digest() == reference.digest()
        assert kept.items() <= stamps_of(folder).items()
        assert files_of(folder) == files_of(tmp_path / "reference")


def finished_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Stamps of the shards whose unit has its sidecar."""
    units = {int(path.stem) for path in folder.glob(f"{PARTS_FOLDER}/[0-9]*.json")}
    return {name: stamp for name, stamp in stamps_of(folder).items() if int(Path(name).name.partition(".")[0]) // 5 in units}


def interrupt(workload: Workload, folder: Path, budget: int = 120_000) -> None:
    with pytest.raises(Broken):
        generate(workload, FaultyStore(folder, budget), num_threads=1)
    assert finished_files(folder)


def test_resume_makes_again_what_does_not_fit_its_sidecar(tmp_path: Path) -> None:
    workload = a_workload(format="npz")
    reference = generate(workload, a_store(tmp_path / "reference"))
    for number, damage in enumerate(("shard gone", "shard short", "sidecar empty", "sidecar foreign", "sidecar flipped")):
        folder = tmp_path / str(number)
        interrupt(workload, folder)
        sidecar = folder / PARTS_FOLDER / "000001.json"
        shard = folder / "shards/000006.npz"
        entry = json.loads(sidecar.read_text())
        match damage:
            case "shard gone":
                shard.unlink()
            case "shard short":
                shard.write_bytes(shard.read_bytes()[:-1])
            case "sidecar empty":
                sidecar.write_bytes(b"")
            case "sidecar foreign":
                sidecar.write_text(json.dumps({**entry, "spec": "0" * 64}))
            case "sidecar flipped":
                sidecar.write_text(json.dumps({**entry, "index": "A" * len(entry["index"])}))
        assert generate(workload, a_store(folder)).digest() == reference.digest(), damage
        assert files_of(folder) == files_of(tmp_path / "reference"), damage


def test_a_complete_dataset_is_returned_untouched(tmp_path: Path) -> None:
    workload = a_workload(format="webdataset")
    dataset = generate(workload, a_store(tmp_path))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert generate(workload, FaultyStore(tmp_path, 0)).digest() == dataset.digest(), "not a byte is written"
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_sidecars_left_by_a_kill_after_the_manifest_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = a_workload(format="raw")
    monkeypatch.setattr(buildparts.Ledger, "remove_sidecars", lambda self: None)
    generate(workload, a_store(tmp_path))
    (tmp_path / PARTS_FOLDER / "mine.txt").write_text("a user's own")
    monkeypatch.undo()
    monkeypatch.setattr(buildparts, "_UNIT_SHARDS", 5)
    assert (tmp_path / SPEC_KEY).exists()
    generate(workload, a_store(tmp_path))
    assert {path.name for path in (tmp_path / PARTS_FOLDER).iterdir()} == {"mine.txt"}


CHANGES = [
    ({"seed": 43}, r"seed 42 \(asked: 43\)"),
    ({"num_samples": 131}, r"num_samples 130 \(asked: 131\)"),
    ({"format": "npy"}, r"format 'npz' \(asked: 'npy'\)"),
    ({"record_length_bytes": 2001, "compressibility": 0.5}, r"record_length_bytes 2000 \(asked: 2001\), .*compressibility 0.0 \(asked: 0.5\)"),
    ({"num_subfolders": 2}, r"num_subfolders 0 \(asked: 2\)"),
]


@pytest.mark.parametrize("complete", [True, False])
def test_another_dataset_is_refused_with_the_differences(tmp_path: Path, complete: bool) -> None:
    if complete:
        generate(a_workload(format="npz"), a_store(tmp_path))
    else:
        interrupt(a_workload(format="npz"), tmp_path)
    before = files_of(tmp_path)
    for fields, message in CHANGES:
        with pytest.raises(UsageError, match=message) as caught:
            generate(a_workload(**{"format": "npz", **fields}), a_store(tmp_path))
        assert "empty --data-dir" in caught.value.hint
    assert files_of(tmp_path) == before


def test_what_does_not_change_the_bytes_may_differ(tmp_path: Path) -> None:
    dataset = generate(a_workload(format="npz", samples_per_shard=4), a_store(tmp_path))
    other = a_workload(format="npz", samples_per_shard=9, row_group_bytes=100).model_copy(update={"name": "another"})
    assert generate(other, a_store(tmp_path)).digest() == dataset.digest()


def test_an_upgraded_encoder_continues_nothing_and_leaves_complete_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = a_workload(format="parquet")
    interrupt(workload, tmp_path / "unfinished")
    complete = generate(workload, a_store(tmp_path / "complete"))
    monkeypatch.setattr(pa, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"encoder .*'99\.0'"):
        generate(workload, a_store(tmp_path / "unfinished"))
    assert generate(workload, a_store(tmp_path / "complete")).digest() == complete.digest()


@pytest.mark.parametrize("name", ["notes.txt", "shards/000000.npz", f"{PARTS_FOLDER}/000000.json", ".hidden", "deep/er/x", INDEX_KEY])
def test_a_folder_with_foreign_files_is_refused_and_not_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UsageError, match="not empty") as caught:
        generate(a_workload(format="npz"), a_store(tmp_path))
    assert "empty --data-dir" in caught.value.hint
    assert files_of(tmp_path) == {name: b"precious"}


def test_users_files_put_beside_an_unfinished_dataset_survive(tmp_path: Path) -> None:
    workload = a_workload(format="npz")
    interrupt(workload, tmp_path)
    planted = {"notes.txt", "shards/999999.npz", "shards/.000001.npz.backup", f"{PARTS_FOLDER}/x.json", f"shards/.mine.part-{os.getpid()}-ab"}
    for name in planted:
        (tmp_path / name).write_bytes(b"precious")
    dataset = generate(workload, a_store(tmp_path))
    assert {name for name, data in files_of(tmp_path).items() if data == b"precious"} == planted
    problems = verify(a_store(tmp_path), dataset)
    assert {problem.shard for problem in problems} == planted
    assert all(problem.severity == "note" for problem in problems)


def test_temporaries_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    workload = a_workload(format="npz")
    interrupt(workload, tmp_path)
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f"shards/.000100.npz.part-{dead.pid}-0a1b2c3d").write_bytes(b"half")
    (tmp_path / f"shards/.000101.npz.part-{os.getppid()}-0a1b2c3d").write_bytes(b"half")
    generate(workload, a_store(tmp_path))
    assert [name for name in files_of(tmp_path) if ".part-" in name] == [f"shards/.000101.npz.part-{os.getppid()}-0a1b2c3d"]


def test_a_kill_before_anything_was_claimed_does_not_lock_the_folder(tmp_path: Path) -> None:
    (tmp_path / PARTS_FOLDER).mkdir()
    (tmp_path / PARTS_FOLDER / ".spec.json.part-999999-0a1b2c3d").write_bytes(b"{")
    assert generate(a_workload(format="npz"), a_store(tmp_path)).num_samples == 130


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"seed": 1}'])
def test_a_damaged_spec_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / PARTS_FOLDER).mkdir()
    (tmp_path / SPEC_KEY).write_text(text)
    with pytest.raises((DatasetError, UsageError), match=r"damaged|unfinished"):
        generate(a_workload(format="npz"), a_store(tmp_path))


def test_a_full_disk_is_a_storage_error_and_the_same_command_goes_on(tmp_path: Path) -> None:
    workload = a_workload(format="parquet")
    with pytest.raises(StorageError, match="No space left") as caught:
        generate(workload, FaultyStore(tmp_path, 100_000, OSError(28, "No space left on device")))
    assert "free space" in caught.value.hint
    assert not [name for name in files_of(tmp_path) if ".part-" in name]
    assert verify(a_store(tmp_path), generate(workload, a_store(tmp_path))) == []


def test_impossible_wishes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"format": "nppz"}, "did you mean|nppz"),
        ({"format": "raw", "payload": "jpeg", "record_length_bytes": 500, "record_length_bytes_stdev": 0}, "JPEG needs 1024"),
        ({"format": "raw", "payload": "jpeg", "record_length_bytes": 5000, "compressibility": 0.5}, "compressibility"),
    ]
    for fields, message in cases:
        with pytest.raises(UsageError, match=message):
            generate(a_workload(**fields), a_store(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_memory_is_bounded_by_threads_and_records(tmp_path: Path) -> None:
    workload = a_workload(format="webdataset", num_samples=640, record_length_bytes=200_000, record_length_bytes_stdev=0, samples_per_shard=10)
    generate(a_workload(format="webdataset"), a_store(tmp_path / "warm"))
    tracemalloc.start()
    dataset = generate(workload, a_store(tmp_path / "out"), num_threads=2)
    built = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert verify(a_store(tmp_path / "out"), dataset, num_threads=1) == []
    verified = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.record_bytes == 128_000_000
    assert built < 3_000_000, "two records of 200 kB, and what goes around them"
    assert verified < 12 * 2**20, "one buffer of 8 MiB"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def errors(folder: Path, dataset: Dataset) -> list[Problem]:
    return verify(a_store(folder), dataset, num_threads=2)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_flipped_byte_names_shard_and_sample(tmp_path: Path, name: str) -> None:
    dataset = generate(a_workload(format=name, num_samples=200, row_group_bytes=4000), a_store(tmp_path))
    compressed = name == "tfrecord_zlib"  # a record has no bytes of its own there
    for sample in (0, 77, 199):
        key = dataset.shard_of(sample)
        path = tmp_path / key
        record_bytes = int(dataset.index["record_bytes"][sample])
        if name in ("parquet", "arrayrecord"):
            place = path.read_bytes().index(PayloadGenerator(42).payload(sample, record_bytes)) + record_bytes - 1
        else:
            place = path.stat().st_size // 2 if compressed else int(dataset.index["offset"][sample]) + record_bytes - 1
        flip(path, place)
        found = errors(tmp_path, dataset)
        assert [(problem.shard, problem.sample_id, problem.severity) for problem in found] == [(key, None if compressed else sample, "error")]
        assert ("can no longer be decoded" if compressed else f"sample {sample}") in found[0].message
        flip(path, place)
    assert errors(tmp_path, dataset) == []


@pytest.mark.parametrize("name", ["npz", "npy", "webdataset", "parquet"])
def test_a_flipped_byte_outside_of_the_records_names_the_shard(tmp_path: Path, name: str) -> None:
    dataset = generate(a_workload(format=name), a_store(tmp_path))
    for place in (1, -2) if name != "npy" else (1,):
        flip(tmp_path / dataset.names[5], place)
        (found,) = errors(tmp_path, dataset)
        assert found.shard == dataset.names[5] and found.sample_id is None and found.severity == "error"
        assert f"sample{'' if dataset.shard_samples[5] == 1 else 's'} {dataset.first_sample[5]}" in found.message
        flip(tmp_path / dataset.names[5], place)


def test_truncated_missing_and_grown_shards_have_their_own_messages(tmp_path: Path) -> None:
    dataset = generate(a_workload(format="webdataset"), a_store(tmp_path))
    paths = [tmp_path / name for name in dataset.names]
    paths[3].write_bytes(paths[3].read_bytes()[:-1])
    paths[4].unlink()
    paths[5].write_bytes(paths[5].read_bytes() + b"\0")
    paths[6].write_bytes(b"")
    paths[7].unlink()
    paths[7].symlink_to(paths[8])
    (tmp_path / "extra.txt").write_text("hello")
    found = errors(tmp_path, dataset)
    assert [problem.shard for problem in found] == [*dataset.names[3:8], "extra.txt"]
    said = [problem.message for problem in found]
    assert "truncated" in said[0] and "missing" in said[1] and "bytes were added" in said[2] and "has 0 bytes" in said[3] and "missing" in said[4]
    assert [problem.severity for problem in found] == ["error"] * 5 + ["note"]
    assert (tmp_path / "extra.txt").exists()


def test_a_shard_of_zeros_does_not_flood_the_report(tmp_path: Path) -> None:
    workload = a_workload(format="webdataset", num_samples=64 * 150, record_length_bytes=16, record_length_bytes_stdev=0, samples_per_shard=150)
    dataset = generate(workload, a_store(tmp_path))
    path = tmp_path / dataset.names[2]
    path.write_bytes(bytes(path.stat().st_size))
    found = errors(tmp_path, dataset)
    assert len(found) == 101 and found[0].sample_id == 300 and "150 of its 150 samples" in found[-1].message


@pytest.mark.parametrize(("field", "value"), [("offset", 2**40), ("offset", 2**64 - 1), ("record_bytes", 2**63), ("offset", 0)])
def test_an_index_that_points_nowhere_is_named(tmp_path: Path, field: str, value: int) -> None:
    dataset = generate(a_workload(format="webdataset"), a_store(tmp_path))
    index = dataset.index.copy()
    index[field][9] = value
    from dataclasses import replace

    found = verify(a_store(tmp_path), replace(dataset, index=index))
    assert found and {problem.shard for problem in found} == {dataset.shard_of(9)}


def test_units_follow_shards_bytes_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def units(approx: list[int], per_shard: int) -> list[tuple[int, int]]:
        layout = Layout.plan(np.array(approx, np.int64), per_shard, False, ".x", 0)
        return [(unit.first, unit.stop) for unit in layout.units]

    assert units([1] * 600, 1) == [(0, 256), (256, 512), (512, 600)]
    assert units([100 * 10**6] * 5, 1) == [(0, 2), (2, 4), (4, 5)]
    assert units([10**9] * 3, 1) == [(0, 1), (1, 2), (2, 3)], "a shard over the limit is a unit of its own"
    assert units([1] * 64 * 20_000, 20_000)[:2] == [(0, 3), (3, 6)]
