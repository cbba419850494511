"""`probe` on real storage: scratch comes and goes, nothing else is touched, datasets are only read, S3 through our own server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from storagebench.build import generate
from storagebench.cli import run_program
from storagebench.configfile import load_workload
from storagebench.probe import fio
from storagebench.storage import open_store

FAST = ("--seconds", "0.02", "--no-fio")


@pytest.fixture(scope="session")
def disk_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on a file system with O_DIRECT."""
    folder = tmp_path_factory.mktemp("probe")
    path = folder / "try"
    path.write_bytes(bytes(4096))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the temporary folder has no O_DIRECT (set TMPDIR)")
    path.unlink()
    return folder


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and mtime of each file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def ceilings(result: Any) -> list[tuple[str, str, int, str]]:
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert all(row["bytes_per_s"] > 0 and row["requests_per_s"] > 0 for row in data["cells"])
    return [(row["direction"], row["pattern"], row["request_bytes"], row["mode"]) for row in data["ceilings"]]


def test_scratch_is_removed_and_foreign_files_stay(cli: Any, disk_folder: Path) -> None:
    folder = disk_folder / "mine"
    folder.mkdir()
    (folder / "precious").write_bytes(b"not yours")
    before = contents(folder)
    result = cli("probe", str(folder), "--size", "4MiB", "--request-size", "128KiB", "--write", "--direct", "--buffered", "--json", *FAST)
    assert ceilings(result) == [
        (direction, pattern, 131072, mode)
        for direction, modes in (("read", ("direct", "cold")), ("write", ("direct", "buffered")))
        for mode in modes
        for pattern in ("sequential", "random")
    ]
    assert json.loads(result.stdout)["cold_proof"] in ("cachestat", "mincore")
    assert contents(folder) == before
    assert [path.name for path in folder.iterdir()] == ["precious"]


def test_a_dataset_is_only_read(cli: Any, make_dataset: Any, disk_folder: Path) -> None:
    source, dataset = make_dataset()
    folder = disk_folder / "dataset"
    shutil.copytree(source, folder)
    before = contents(folder)
    result = cli("probe", str(folder), "--json", *FAST)
    assert ceilings(result)[0] == ("read", "objects", round(dataset.stored_bytes / dataset.num_shards), "direct")
    data = json.loads(result.stdout)
    assert (data["source"], data["data_bytes"]) == ("dataset", dataset.stored_bytes)
    assert contents(folder) == before


def test_the_table_and_fio_beside_it(disk_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fio, "SETTINGS", (fio.Setting("psync", 2, 1), fio.Setting("no-such-engine", 1, 1)))
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    folder = disk_folder / "fio"
    folder.mkdir()
    assert run_program(["probe", str(folder), "--size", "8MiB", "--workload", "quick", "--seconds", "0.02", "--fio"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out[out.index("ceilings") :].splitlines() if line.startswith("read")]
    assert [(row[1], row[4]) for row in rows] == [("sequential", "direct"), ("random", "direct")]
    assert all(float(row[-5]) > 0 for row in rows)  # ours/fio
    assert [row[-4:] for row in rows] == [["psync", "2", "x", "1"]] * 2  # an engine that is not there is left out
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_removes_the_scratch(signum: signal.Signals, disk_folder: Path) -> None:
    folder = disk_folder / f"signal-{signum}"
    folder.mkdir()
    command = [sys.executable, "-P", "-m", "storagebench", "probe", str(folder), "--size", "16MiB", "--seconds", "30", "--no-fio"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not list(folder.glob("*/scratch-3")) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)  # into the first cell
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + signum, "")
    assert f"error: the probe was ended by {signum.name}" in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--size", "1024TiB"], 2, "free"),
        (["--size", "100KiB"], 2, "--size is 102400 bytes, under 4 requests of 1048576"),
        (["--request-size", "1000"], 2, "--request-size is 1000 bytes, and must be a multiple of 4096"),
        (["--request-size", "1MiB", "--workload", "quick"], 2, "both choose the request size"),
        (["--seconds", "0"], 2, "--seconds is 0, and must be"),
        (["--buffered", "--fio"], 2, "--fio reads local files with O_DIRECT only"),
    ],
)
def test_errors(arguments: list[str], code: int, words: str, cli_here: Any, tmp_path: Path) -> None:
    result = cli_here("probe", str(tmp_path), *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert words in result.stderr.splitlines()[0]
    assert result.stderr.splitlines()[1].startswith("hint: ")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_missing_shard(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    result = cli("probe", str(tmp_path / "nowhere"), *FAST)
    assert (result.returncode, (tmp_path / "nowhere").exists()) == (2, False)
    source, dataset = make_dataset()
    shutil.copytree(source, tmp_path / "data")
    (tmp_path / "data" / dataset.names[3]).unlink()
    assert cli("probe", str(tmp_path / "data"), *FAST).returncode == 3


@pytest.mark.s3
def test_s3_objects_and_ranges_and_writes(cli: Any, s3_environment: dict[str, str], s3_server: Any) -> None:
    overrides = [("dataset.num_samples", 8, "test"), ("dataset.record_length_bytes", 20_000, "test"), ("dataset.format", "npz", "test")]
    options = ("--storage-option", f"endpoint_url={s3_environment['endpoint_url']}")
    store = open_store("s3://bench/probed", s3_environment)
    generate(load_workload("quick", overrides).workload, store)
    before = sorted(store.list())
    result = cli("probe", "s3://bench/probed", "--request-size", "8KiB", "--json", *FAST, *options)
    assert [row[1:] for row in ceilings(result)] == [
        ("objects", round(sum(info.num_bytes for info in before if info.key.startswith("shards/")) / 8), "client"),
        ("sequential", 8192, "client"),
        ("random", 8192, "client"),
    ]
    assert json.loads(result.stdout)["cold_proof"] in ("cachestat", "mincore")  # our own server: its folder is treated too
    written = cli("probe", "s3://bench/elsewhere", "--request-size", "128KiB", "--size", "1MiB", "--write", "--json", *FAST, *options)
    assert ("write", "objects", 131072, "client") in ceilings(written)
    assert sorted(store.list()) == before
    left = open_store("s3://bench", s3_environment)
    assert [info.key for info in left.list() if not info.key.startswith("probed/")] == []
    for each in (store, left):
        each.close()


def run_with_ceiling(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`run --ceiling` with short cells, in a process of its own."""
    code = "import sys; from storagebench.probe import ceiling; ceiling.SECONDS = 0.02; from storagebench.cli import run_program; sys.exit(run_program(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-P", "-c", code, "run", "quick", "--ceiling", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.catalogue
def test_a_run_is_set_beside_the_ceiling_of_its_storage(make_dataset: Any, disk_folder: Path, tmp_path: Path) -> None:
    source, dataset = make_dataset(num_samples=256, record_length_bytes=65536)
    shutil.copytree(source, disk_folder / "ceiling")
    result = run_with_ceiling("--data-dir", str(disk_folder / "ceiling"), "--results-dir", str(tmp_path), "--run-id", "a",
                              "--compute-time", "5ms", "--null-duration", "0", "--json")  # fmt: skip
    assert result.returncode in (0, 6), result.stderr  # cells of 20 ms on a busy disk may well be slower than the run
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    low, high = summary["ceiling_range_bytes_per_s"]
    assert 0 < low <= summary["ceiling_bytes_per_s"] <= high
    rate = summary["delivered_bytes_per_s"] * summary["storage_bytes"] / summary["delivered_bytes"]
    assert summary["fraction_of_ceiling"] == pytest.approx(rate / summary["ceiling_bytes_per_s"])
    group = json.loads((tmp_path / "a" / "run.json").read_text())["ceiling"]
    assert group == {
        "direction": "read",
        "pattern": "objects",
        "request_bytes": round(dataset.stored_bytes / dataset.num_samples),
        "mode": "direct",
    }
    saved = (tmp_path / "a" / "summary.json").read_bytes()
    (tmp_path / "a" / "summary.json").unlink()
    assert run_program(["report", str(tmp_path / "a"), "--json"]) == 0
    assert (tmp_path / "a" / "summary.json").read_bytes() == saved


def test_a_ceiling_that_would_mean_nothing_is_refused(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    for arguments, words in ((("--loader", "null"), "loader null"), (("--cache", "as-is"), "--cache as-is")):
        result = run_with_ceiling("--data-dir", path, "--compute-time", "1ms", "--results-dir", str(tmp_path / "results"), *arguments)
        assert (result.returncode, (tmp_path / "results").exists()) == (2, False)
        assert words in result.stderr
