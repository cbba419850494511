"""A run with writers beside its ranks: what they wrote is in the summary to the byte, it is gone afterwards, and it dies with the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from storagebench.records import writer_traces
from storagebench.traces import read_trace

RECOMPUTE = Path(__file__).parents[1] / "independent" / "recompute.py"
END_WITHIN_S = 10


def arguments(dataset: str, results: Path, *more: str) -> list[str]:
    return ["run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--batch-size", "4", "--compute-time", "10ms",
            "--null-duration", "0.1", "--writers", "2", *more]  # fmt: skip


def rows_of(results: Path) -> list[dict[str, Any]]:
    """The shards that the writers' traces have."""
    return [dict(row) for path in writer_traces(results / "r") for row in read_trace(path).of_kind("shard")]


def files_of(folder: str | Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))


def agrees(results: Path) -> str:
    return subprocess.run([sys.executable, "-E", "-s", str(RECOMPUTE), str(results / "r")], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("form", "loader", "ranks"),
    [("tfrecord", ("direct",), ()), pytest.param("tfrecord_zlib", ("tfrecord",), ("--num-accelerators", "2"), marks=pytest.mark.catalogue)],
)
def test_a_run_with_writers(form: str, loader: tuple[str, ...], ranks: tuple[str, ...], cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    dataset, facts = make_dataset(format=form, num_samples=192, samples_per_shard=3)
    before = files_of(dataset)
    result = cli(*arguments(dataset, tmp_path, "--loader", *loader, *ranks, "--write-rate", "300kB", "--json"))
    assert result.returncode == 0, result.stderr
    summary, rows = json.loads(result.stdout), rows_of(tmp_path)
    assert summary["valid"] is True
    assert (summary["written_shards"], summary["written_bytes"]) == (len(rows), sum(row["bytes"] for row in rows))
    assert summary["written_samples"] == 3 * len(rows) > 0
    assert 0 < summary["write_bytes_per_s"] <= summary["written_bytes"] / summary["window_s"]
    assert summary["write_cpu_s"] > 0
    assert len({row["key"] for row in rows}) == len(rows)
    assert len(writer_traces(tmp_path / "r")) == 2
    assert files_of(dataset) == before  # shards, their index files and the folder are gone
    assert (summary["delivered_bytes"], summary["dropped_samples"]) == (2 * facts.record_bytes, 0)
    assert agrees(tmp_path) == "1 runs: every figure agrees\n"
    saved = (tmp_path / "r" / "summary.json").read_bytes()
    (tmp_path / "r" / "summary.json").unlink()
    report = cli("report", str(tmp_path / "r"))
    assert (tmp_path / "r" / "summary.json").read_bytes() == saved
    assert report.returncode == 0
    csv = cli("report", str(tmp_path / "r"), "--csv").stdout.splitlines()
    assert dict(zip(csv[0].split(","), csv[1].split(","), strict=False))["written_bytes"] == str(summary["written_bytes"])


def test_writers_write_no_faster_than_asked(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    """What a loaded machine cannot change: no shard is begun before its share of the rate allows it, and all that was written is deleted once."""
    dataset, _ = make_dataset(format="tfrecord", num_samples=192, samples_per_shard=3)
    more = ("--loader", "direct", "--write-rate", "400kB", "--write-shard-samples", "2", "--write-keep-shards", "1")
    result = cli(*arguments(dataset, tmp_path, *more))
    assert result.returncode == 0, result.stderr
    assert "Writers beside the ranks" in result.stdout
    for path in writer_traces(tmp_path / "r"):
        rows = read_trace(path).of_kind("shard")
        assert len(rows) > 1
        assert {row["samples"] for row in rows} == {2}
        (start,) = read_trace(path).of_kind("start")
        num_bytes = 0
        for row in rows:
            assert row["begin_ns"] - start["begin_ns"] >= int(num_bytes / 200e3 * 1e9)
            num_bytes += row["bytes"]
        removed = [record for host in (tmp_path / "r" / "trace").glob("host-*") for record in read_trace(host).of_kind("written")]
        assert removed[0]["keys"] == 2 * len(rows_of(tmp_path))  # shards, and the index beside each


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "storagebench", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_shards(results: Path, writers: int = 2, limit_s: float = 60) -> list[psutil.Process]:
    """The writers' processes, once each has written a shard."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        traces = [read_trace(path) for path in writer_traces(results / "r")]
        if len(traces) == writers and all(trace.of_kind("shard") for trace in traces):
            return [psutil.Process(trace.header["pid"]) for trace in traces]
        time.sleep(0.02)
    raise AssertionError("no writer wrote")


def assert_gone(processes: list[psutil.Process]) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end and any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
        time.sleep(0.05)
    assert not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.catalogue)])
def test_ctrl_c_ends_the_writers_at_once_and_leaves_nothing(ranks: str, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset(format="tfrecord", num_samples=192, samples_per_shard=3)
    before = files_of(dataset)
    with started(*arguments(dataset, tmp_path, "--loader", "direct", "--num-accelerators", ranks, "--epochs", "1000")) as process:
        writers = wait_for_shards(tmp_path)
        os.killpg(process.pid, signal.SIGINT)
        begin = time.monotonic()
        _, stderr = process.communicate(timeout=30)
        assert time.monotonic() - begin < END_WITHIN_S
        assert process.returncode == 130
        assert "Traceback" not in stderr
        assert_gone(writers)
    assert files_of(dataset) == before
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["status"] == "incomplete"
    assert [finding["code"] for finding in summary["findings"] if finding["code"].startswith("WRIT")] == []
    assert agrees(tmp_path) == "1 runs: every figure agrees\n"


def test_a_killed_command_takes_its_writers_along_and_the_report_names_what_is_left(cli_here: Any, tmp_path: Path) -> None:
    dataset = str(tmp_path / "data")
    made = cli_here(
        "generate", "quick", "--format", "tfrecord", "--payload", "bytes", "--num-samples", "192", "--record-length", "9kB", "--data-dir", dataset
    )
    assert made.returncode == 0, made.stderr
    with started(*arguments(dataset, tmp_path, "--loader", "direct", "--epochs", "1000")) as process:
        writers = wait_for_shards(tmp_path)
        process.kill()
        process.communicate()
        assert_gone(writers)
    shown = cli_here("report", str(tmp_path / "r"), "--json")
    (found,) = [finding for finding in json.loads(shown.stdout)[0]["findings"] if finding["code"] == "WRITTEN_LEFT"]
    assert f"{dataset}/written/r" in found["message"]
    assert list((tmp_path / "data" / "written" / "r").iterdir())


def test_a_killed_writer_makes_the_run_invalid(make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset(format="tfrecord", num_samples=192, samples_per_shard=3)
    before = files_of(dataset)
    with started(*arguments(dataset, tmp_path, "--loader", "direct", "--duration", "2s", "--epochs", "1000")) as process:
        wait_for_shards(tmp_path)[1].kill()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 6
        assert "error: 1 of 2 writers ended before the run" in stderr
    assert files_of(dataset) == before


def test_a_writer_that_cannot_write_makes_the_run_invalid_in_its_own_words(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    """A file lies where their folder is to be."""
    dataset, _ = make_dataset(format="tfrecord", num_samples=191, samples_per_shard=3)
    (Path(dataset) / "written").write_text("")
    result = cli(*arguments(dataset, tmp_path, "--loader", "direct"))
    assert result.returncode == 6
    assert "error: writer 0: cannot write written/r/00000-00000000.tfrecord" in result.stderr
    assert (Path(dataset) / "written").read_text() == ""


def test_a_writer_that_cannot_start_ends_the_run_in_its_own_words(cli: Any, cli_here: Any, tmp_path: Path) -> None:
    """Real images may be shorter than any that can be made."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for index in range(64):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "photos" / f"{index}.jpg")
    assert cli_here("import", str(tmp_path / "photos"), "--format", "tfrecord", "--data-dir", str(tmp_path / "data")).returncode == 0
    result = cli(*arguments(str(tmp_path / "data"), tmp_path, "--loader", "direct"))
    assert result.returncode == 2
    assert "error: writer 0: no record like the dataset's shortest can be made" in result.stderr
    assert "hint: use --writers 0" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.s3
@pytest.mark.catalogue
def test_a_run_with_writers_on_s3(cli: Any, s3_environment: dict[str, str], s3_server: Any, tmp_path: Path) -> None:
    url, endpoint = "s3://bench/writers", f"endpoint_url={s3_environment['endpoint_url']}"
    made = cli(
        "generate",
        "quick",
        "--format",
        "npz",
        "--payload",
        "bytes",
        "--num-samples",
        "64",
        "--record-length",
        "9kB",
        "--data-dir",
        url,
        "--storage-option",
        endpoint,
    )
    assert made.returncode == 0, made.stderr
    result = cli(*arguments(url, tmp_path, "--storage-option", endpoint, "--loader", "direct", "--write-rate", "200kB", "--json"))
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["written_bytes"] == sum(row["bytes"] for row in rows_of(tmp_path)) > 0
    left = [path for path in files_of(s3_server.directory) if "written" in path and not (Path(s3_server.directory) / path).is_dir()]
    assert left == []
    assert agrees(tmp_path) == "1 runs: every figure agrees\n"


def test_diagnose_is_of_readers_alone(cli_here: Any, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    result = cli_here("diagnose", "quick", "--data-dir", dataset, "--compute-time", "10ms", "--writers", "2", "--results-dir", str(tmp_path))
    assert result.returncode == 2
    assert "--writers is 2" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_memory_is_of_one_process(cli_here: Any) -> None:
    made = cli_here("generate", "quick", "--format", "npz", "--payload", "bytes", "--num-samples", "64", "--data-dir", "memory://writers")
    assert made.returncode == 0, made.stderr
    result = cli_here(*arguments("memory://writers", Path("unused"), "--num-workers", "0", "--loader", "direct"))
    assert result.returncode == 2
    assert "--writers 0" in result.stderr
