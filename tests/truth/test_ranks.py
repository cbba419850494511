"""Real process groups over gloo: uneven samples, every sync mode, slow and stopped ranks; and what one rank does without torch."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from storagebench.records import rank_trace_path
from storagebench.traces import read_trace


def arguments(dataset: str, results: Path, ranks: int, *more: str) -> list[str]:
    return [
        "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--num-accelerators", str(ranks), "--batch-size", "4",
        "--compute-time", "10ms", "--cache", "as-is", "--null-duration", "0", "--headroom-duration", "0", *more,
    ]  # fmt: skip


def summary_of(results: Path) -> dict[str, Any]:
    return dict(json.loads((results / "r" / "summary.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["step", *(pytest.param(other, marks=pytest.mark.catalogue) for other in ("epoch", "none"))])
def test_three_ranks_with_an_uneven_number_of_samples(sync: str, cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    """65 samples over 3 ranks of batch 4: five full global batches and 5 samples left, spread 2, 2, 1."""
    path, dataset = make_dataset(num_samples=65)
    result = cli(*arguments(path, tmp_path, 3, "--sync", sync, "--remainder", "keep", "--verify", "full", "--loader", "direct"))
    assert result.returncode == 0, result.stderr
    summary = summary_of(tmp_path)
    assert summary["delivered_bytes"] == 2 * dataset.record_bytes
    assert [row["samples"] for row in summary["per_rank"]] == [44, 44, 42]
    assert (summary["missing_samples"], summary["duplicate_samples"], summary["dropped_samples"]) == (0, 0, 0)
    assert summary["verified_samples"] == 130
    assert (summary["world_size"], summary["num_hosts"], summary["status"], summary["valid"]) == (3, 1, "complete", True)


def test_a_rank_without_a_batch_takes_idle_steps(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    """One sample left for two ranks: the second has an idle step, recorded apart and outside of its AU."""
    path, dataset = make_dataset(num_samples=65)
    result = cli(*arguments(path, tmp_path, 2, "--remainder", "keep", "--loader", "direct"))
    assert result.returncode == 0, result.stderr
    summary = summary_of(tmp_path)
    assert summary["idle_steps"] == 2
    assert summary["delivered_bytes"] == 2 * dataset.record_bytes
    kinds = [step.kind for step in read_trace(rank_trace_path(tmp_path / "r", 1)).steps if step.kind != "null"]
    assert kinds == ["warmup", *["step"] * 7, "idle", *["step"] * 8, "idle"]


def test_dropped_samples_are_counted(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset(num_samples=65)
    assert cli(*arguments(path, tmp_path, 2, "--loader", "direct", "--batch-size", "6")).returncode == 0
    summary = summary_of(tmp_path)
    assert (summary["samples"], summary["dropped_samples"], summary["missing_samples"]) == (120, 10, 0)


def test_duration_stops_all_ranks_after_the_same_step(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    result = cli(*arguments(path, tmp_path, 2, "--loader", "direct", "--epochs", "1000", "--duration", "1s"))
    assert result.returncode == 0, result.stderr
    steps = [len([step for step in read_trace(rank_trace_path(tmp_path / "r", rank)).steps if step.kind != "null"]) for rank in range(2)]
    assert steps[0] == steps[1]
    assert 20 <= steps[0] <= 110
    assert summary_of(tmp_path)["missing_samples"] == 0


@pytest.mark.catalogue
def test_a_stopped_rank_only_costs_its_time(make_dataset: Any, tmp_path: Path) -> None:
    """SIGSTOP for three seconds: no timeout ends the run, all ranks wait, and the time is in the numbers."""
    path, _ = make_dataset(num_samples=600)  # 75 steps an epoch, so that the stop does not fall between two epochs
    command = [sys.executable, "-P", "-m", "storagebench", *arguments(path, tmp_path, 2, "--loader", "direct", "--compute-time", "20ms")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    trace = rank_trace_path(tmp_path / "r", 1)
    end = time.monotonic() + 60
    while not (trace.exists() and sum(step.kind == "step" for step in read_trace(trace).steps) > 5) and time.monotonic() < end:
        time.sleep(0.02)
    victim = read_trace(trace).header["pid"]
    os.kill(victim, signal.SIGSTOP)
    time.sleep(3)
    os.kill(victim, signal.SIGCONT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    summary = summary_of(tmp_path)
    assert summary["measured_steps"] == 149
    assert summary["window_s"] > 2.98 + 2.5
    assert summary["au_nominal"] < 2.98 / (2.98 + 2.5)


def test_one_rank_of_direct_imports_no_torch(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    code = "import sys; from storagebench.cli import run_program; code = run_program(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments(path, tmp_path, 1, "--loader", "direct")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_terminal_gets_a_live_line(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    controller, terminal = pty.openpty()
    command = [sys.executable, "-P", "-m", "storagebench", *arguments(path, tmp_path, 1, "--loader", "direct", "--epochs", "12")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            data = os.read(controller, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(controller)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"\rstep " in shown
    assert b" of 192, AU " in shown
    assert b" left" in shown
    assert b"\r" not in stdout  # the live line is on stderr alone
