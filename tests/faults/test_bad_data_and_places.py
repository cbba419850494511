"""Corrupt datasets, unreachable storage, full disks, misspelt names: one sentence, one hint, the right exit code, and no valid number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def assert_error(result: Any, code: int, *words: str) -> None:
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert errors, result.stderr
    assert any(line.startswith("hint: ") and len(line) > 10 for line in result.stderr.splitlines()), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert any(word in line for line in errors), (word, result.stderr)


def run_arguments(dataset: str, results: Path, *more: str) -> list[str]:
    return [
        "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--compute-time", "5ms", "--batch-size", "4",
        "--null-duration", "0", "--headroom-duration", "0", "--epochs", "1", *more,
    ]  # fmt: skip


@pytest.fixture
def dataset(make_dataset: Any, tmp_path: Path) -> tuple[Path, Any]:
    """A copy that a test may damage."""
    path, made = make_dataset()
    shutil.copytree(path, tmp_path / "data")
    return tmp_path / "data", made


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


@pytest.mark.parametrize("loader", ["direct", "files"])
def test_one_flipped_byte_is_named(loader: str, cli: Any, dataset: Any, tmp_path: Path) -> None:
    path, made = dataset
    sample = 17
    shard = made.shard_of(sample)
    flip(path / shard, int(made.index["offset"][sample]) + 1234)
    verified = cli("verify", "--data-dir", str(path))
    assert_error(verified, 3, shard)
    assert f"sample {sample}" in verified.stderr
    result = cli(*run_arguments(str(path), tmp_path / "res", "--verify", "full", "--decode", "none", "--loader", loader))
    assert_error(result, 3, shard, f"sample {sample} ")
    summary = json.loads((tmp_path / "res" / "r" / "summary.json").read_text())
    assert (summary["valid"], summary["exit_code"], summary["checksum_errors"]) == (False, 3, 1)
    assert summary["bad_samples"] == [{"sample": sample, "shard": shard}]


def test_a_truncated_shard_is_found_before_the_first_step(cli: Any, dataset: Any, tmp_path: Path) -> None:
    path, made = dataset
    os.truncate(path / made.names[3], int(made.shard_bytes[3]) - 1)
    assert_error(cli("verify", "--data-dir", str(path)), 3, made.names[3])
    result = cli(*run_arguments(str(path), tmp_path / "res"))
    assert_error(result, 3, made.names[3], str(int(made.shard_bytes[3])))
    assert not (tmp_path / "res").exists()


def test_a_missing_shard(cli: Any, dataset: Any, tmp_path: Path) -> None:
    path, made = dataset
    (path / made.names[5]).unlink()
    assert_error(cli("verify", "--data-dir", str(path)), 3, made.names[5])
    assert_error(cli(*run_arguments(str(path), tmp_path / "res")), 3, f"{made.names[5]} of the dataset", "missing")


def test_a_shard_that_shrinks_during_the_run_fails_it(dataset: Any) -> None:
    from storagebench.errors import DatasetError
    from storagebench.protocols import Extent
    from storagebench.storage import open_store

    path, made = dataset
    store = open_store(str(path))
    os.truncate(path / made.names[0], 100)
    with pytest.raises(DatasetError, match="truncated"):
        store.read([Extent(made.names[0], 0, int(made.shard_bytes[0]))])


@pytest.mark.parametrize("link", [True, False])
def test_links_and_folders_in_the_place_of_a_shard_are_refused(link: bool, cli: Any, dataset: Any, tmp_path: Path) -> None:
    path, made = dataset
    shard = path / made.names[2]
    shard.unlink()
    if link:
        shard.symlink_to("/etc/hostname")
    else:
        shard.mkdir()
    assert_error(cli(*run_arguments(str(path), tmp_path / "res")), 3, made.names[2])
    assert_error(cli("verify", "--data-dir", str(path)), 3, made.names[2])


def test_no_dataset_there(cli_here: Any, tmp_path: Path) -> None:
    assert_error(cli_here(*run_arguments(str(tmp_path / "none"), tmp_path / "res")), 3, "manifest.json is missing")
    assert_error(cli_here("verify", "--data-dir", str(tmp_path / "none")), 3, "manifest.json is missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(schema_version=99), "schema version 99"),
        (lambda data: data["shards"]["name"].__setitem__(0, "../../etc/passwd"), "not a plain relative path"),
        (lambda data: data["shards"]["bytes"].__setitem__(0, -5), "do not fit"),
        (lambda data: data.pop("index"), "not a manifest"),
        (lambda data: data.update(format="npy"), "digest"),
    ],
)
def test_a_manifest_that_lies_is_refused(change: Any, words: str, cli_here: Any, dataset: Any, tmp_path: Path) -> None:
    path, _ = dataset
    data = json.loads((path / "manifest.json").read_text())
    change(data)
    (path / "manifest.json").write_text(json.dumps(data))
    assert_error(cli_here("verify", "--data-dir", str(path)), 3, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loader", "fils"], "unknown loader 'fils'"),
        (["--loader", "parquet"], "loader parquet reads Parquet row groups, and the dataset is npz"),
        (["--loader", "s3"], "loader s3 works on s3 or shaped storage"),
        (["--set", "loader.prefetch=3"], "unknown key 'loader.prefetch'"),
        (["--set", "loader.num_workers"], "has no '='"),
        (["--cache", "hot"], "run.cache"),
        (["--storage-option", "i=buffered"], "unknown storage option 'i'"),
        (["--storage-option", "secret_key=x"], "looks like a credential"),
        (["--batch-size", "100000"], "make no full step of batch size 100000"),
        (["--memory-limit", "0.0000001"], "over 0% of"),
        (["--accelerator", "h100", "--compute-time", "-1"], "run.compute_time_s"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str, cli_here: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    assert_error(cli_here(*run_arguments(path, tmp_path / "res"), *arguments), 2, words)
    assert not (tmp_path / "res" / "r" / "summary.json").exists()


def test_suggestions_name_what_was_meant(cli_here: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    assert "did you mean 'files'?" in cli_here(*run_arguments(path, tmp_path / "res", "--loader", "fils")).stderr
    assert "did you mean 'prefetch_batches'?" in cli_here(*run_arguments(path, tmp_path / "res", "--set", "loader.prefetch=3")).stderr
    assert "did you mean 'unet3d'?" in cli_here("plan", "unet3").stderr
    assert "did you mean 'report'?" in cli_here("reprot").stderr


def test_a_run_id_is_never_used_twice(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    assert cli(*run_arguments(path, tmp_path)).returncode == 0
    before = (tmp_path / "r" / "trace" / "rank-00000.jsonl").read_bytes()
    assert_error(cli(*run_arguments(path, tmp_path)), 2, "run 'r' exists")
    assert (tmp_path / "r" / "trace" / "rank-00000.jsonl").read_bytes() == before


def test_generate_refuses_a_folder_with_other_files(cli_here: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = cli_here("generate", "quick", "--num-samples", "64", "--data-dir", str(tmp_path))
    assert result.returncode in (2, 3)
    assert "error:" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=False)
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
def test_a_full_disk_while_generating_and_going_on_after_it(cli: Any, small_disk: Path) -> None:
    arguments = ["generate", "quick", "--format", "npz", "--payload", "bytes", "--num-samples", "200", "--record-length", "64kB", "--data-dir"]
    assert_error(cli(*arguments, str(small_disk / "d")), 4, "No space left on device")
    assert not (small_disk / "d" / "manifest.json").exists()
    assert not list(small_disk.rglob("*.part-*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert cli(*arguments, str(small_disk / "d")).returncode == 0
    assert cli("verify", "--data-dir", str(small_disk / "d")).returncode == 0


@pytest.mark.root
def test_a_read_only_results_dir_is_refused_before_the_run(cli_here: Any, make_dataset: Any, small_disk: Path) -> None:
    path, _ = make_dataset()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert_error(cli_here(*run_arguments(path, small_disk / "results")), 4, "Read-only file system")


@pytest.mark.root
def test_a_dataset_in_memory_is_called_so(cli: Any, small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert cli("generate", "quick", "--format", "npz", "--payload", "bytes", "--num-samples", "64", "--record-length", "20kB", "--data-dir",
               str(small_disk / "d")).returncode == 0  # fmt: skip
    assert_error(cli(*run_arguments(str(small_disk / "d"), tmp_path, "--cache", "as-is")), 6, "lies on tmpfs")


@pytest.mark.parametrize(("arguments", "steps"), [(["--max-steps", "1"], 1), (["--warmup-steps", "16"], 16)])
def test_a_run_that_would_measure_nothing_is_refused(arguments: list[str], steps: int, cli_here: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    assert_error(cli_here(*run_arguments(path, tmp_path / "res"), *arguments), 2, f"the run has {steps} steps", "nothing would be measured")
