"""Several accelerators in one process, as commands: known AU in real time, whole figures, no torch, and one failure ends all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from storagebench.build import generate
from storagebench.configfile import load_workload
from storagebench.experiments.cells import Check, quick_checks
from storagebench.experiments.selfcheck import run_checks
from storagebench.launch import handling_signals
from storagebench.records import rank_trace_path
from storagebench.storage import open_store
from storagebench.traces import read_trace


def arguments(dataset: str, results: Path, ranks: int, share: int, *more: str) -> list[str]:
    return [
        "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--num-accelerators", str(ranks),
        "--accelerators-per-process", str(share), "--batch-size", "2", "--compute-time", "20ms", "--cache", "as-is", "--null-duration", "0",
        "--headroom-duration", "0", *more,
    ]  # fmt: skip


def summary_of(results: Path) -> dict[str, Any]:
    return dict(json.loads((results / "r" / "summary.json").read_text()))


@pytest.mark.catalogue
@pytest.mark.slow
def test_known_answer_in_real_time() -> None:
    """Four ranks in one process ask for 1.5 times what the wire gives. Within 0.05, as its neighbours, since the machine that tests is busy."""
    (check,) = [check for check in quick_checks(2) if check.cells[0].per_process > 1]
    assert isinstance(check, Check)
    with handling_signals():
        (row,) = run_checks([check], tolerance=0.05)
    assert row.expected == pytest.approx(2 / 3, abs=0.001)
    assert abs(row.difference) <= 0.05


@pytest.mark.parametrize(("ranks", "share"), [(6, 6), (5, 2)])
@pytest.mark.parametrize("loader", ["null", "direct"])
def test_each_rank_has_its_own_shard_window_and_trace(loader: str, ranks: int, share: int, cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, dataset = make_dataset(num_samples=70)
    result = cli(*arguments(path, tmp_path, ranks, share, "--loader", loader, "--verify", "full", "--epochs", "2", "--remainder", "keep"))
    assert result.returncode == 0, result.stderr
    summary = summary_of(tmp_path)
    assert (summary["world_size"], summary["num_hosts"], summary["status"], summary["valid"]) == (ranks, 1, "complete", True)
    assert sum(row["samples"] for row in summary["per_rank"]) == summary["samples"] == 140
    assert (summary["missing_samples"], summary["duplicate_samples"]) == (0, 0)
    traces = [read_trace(rank_trace_path(tmp_path / "r", rank)) for rank in range(ranks)]
    assert [trace.header["rank"] for trace in traces] == list(range(ranks))
    assert len({trace.header["pid"] for trace in traces}) == -(-ranks // share)
    if loader == "direct":
        assert summary["storage_bytes"] == 2 * dataset.stored_bytes
        assert summary["verified_samples"] == 140
    ends = [trace.of_kind("epoch_end") for trace in traces]
    for rank, records in enumerate(ends):
        assert len(records) == 2
        if rank % share:
            assert {record["rank_cpu_s"] for record in records} == {0.0}


def test_one_process_imports_no_torch(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    code = "import sys; from storagebench.cli import run_program; code = run_program(sys.argv[1:]); sys.exit(code or 77 * ('torch' in sys.modules))"
    command = [sys.executable, "-P", "-c", code, *arguments(path, tmp_path, 4, 4, "--loader", "direct", "--max-steps", "5")]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0


def test_other_loaders_are_refused(cli_here: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    result = cli_here(*arguments(path, tmp_path, 4, 2, "--loader", "files"))
    assert result.returncode == 2
    assert "error: --accelerators-per-process is 2, and loader files takes a process for each accelerator" in result.stderr
    assert "hint: use --loader null or direct, or --accelerators-per-process 1" in result.stderr
    assert not (tmp_path / "r").exists()


def test_an_error_in_one_rank_ends_all_and_is_named(cli: Any, tmp_path: Path) -> None:
    """A shard that is damaged while the run is on: the sample and the shard are named, with the exit code of a broken dataset."""
    path = tmp_path / "data"
    generate(load_workload("quick", [("dataset.num_samples", 40, "t"), ("dataset.format", "npz", "t")]).workload, open_store(str(path)))
    shard = sorted((path / "shards").iterdir())[7]
    size = shard.stat().st_size
    shard.write_bytes(bytes(size))
    result = cli(*arguments(str(path), tmp_path, 5, 5, "--loader", "direct", "--decode", "parse", "--epochs", "1000"))
    assert result.returncode == 3
    assert f"in shard shards/{shard.name} is damaged" in result.stderr
    assert "Traceback" not in result.stderr
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["exit_code"]) == ("failed", 3)


def test_an_interrupt_ends_all_ranks_of_the_process(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    command = [sys.executable, "-P", "-m", "storagebench", *arguments(path, tmp_path, 8, 8, "--loader", "direct", "--epochs", "100000")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        trace, end = rank_trace_path(tmp_path / "r", 7), time.monotonic() + 60
        while time.monotonic() < end and not (trace.exists() and len(read_trace(trace).steps) > 5):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "error: the run was ended by SIGINT" in stderr
    assert "Traceback" not in stderr
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["exit_code"]) == ("incomplete", 130)
    assert all(row["samples"] > 0 for row in summary["per_rank"])
