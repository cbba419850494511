"""Killed ranks, workers, commands and generators: the run ends soon with the right code, keeps its steps, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from storagebench.records import rank_trace_path
from storagebench.traces import read_trace

END_WITHIN_S = 10


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, as a terminal would have it; killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "storagebench", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def long_run(dataset: str, results: Path, loader: str, ranks: int, *more: str) -> list[str]:
    return [
        "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--loader", loader, "--num-accelerators", str(ranks),
        "--compute-time", "20ms", "--epochs", "1000", "--batch-size", "4", "--num-workers", "1", "--cache", "as-is", "--null-duration", "0", "--headroom-duration", "0", *more,
    ]  # fmt: skip


def wait_for_steps(results: Path, rank: int, steps: int, limit_s: float = 60) -> dict[str, Any]:
    """The rank's header, once its trace has so many steps."""
    path = rank_trace_path(results / "r", rank)
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if path.exists():
            trace = read_trace(path)
            if sum(step.kind != "null" for step in trace.steps) >= steps:
                return dict(trace.header)
        time.sleep(0.05)
    raise AssertionError(f"rank {rank} did not take {steps} steps within {limit_s} s")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    """All ended; orphans that only wait to be reaped by init count as gone."""
    end = time.monotonic() + 5
    alive = processes
    while alive and time.monotonic() < end:
        alive = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.05)
    assert not alive, alive


def assert_kept_and_incomplete(cli: Callable[..., Any], results: Path, at_least: int) -> dict[str, Any]:
    shown = cli("report", str(results / "r"))
    assert shown.returncode == 0, shown.stderr
    assert "INCOMPLETE" in shown.stdout
    summary: dict[str, Any] = json.loads((results / "r" / "summary.json").read_text())
    assert summary["status"] == "incomplete"
    assert summary["valid"] is False
    assert summary["measured_steps"] >= at_least
    assert summary["samples"] > 0
    return summary


@pytest.mark.parametrize("loader", ["direct", "files"])
def test_a_killed_rank_ends_the_run_and_is_named(loader: str, cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    with started(*long_run(dataset, tmp_path, loader, 2)) as process:
        victim = wait_for_steps(tmp_path, 1, 10)["pid"]
        family = descendants(process)
        os.kill(victim, signal.SIGKILL)
        begin = time.monotonic()
        _, stderr = process.communicate(timeout=30)
        assert time.monotonic() - begin < END_WITHIN_S
        assert process.returncode == 5
        assert "error: rank 1 of 2 killed by SIGKILL" in stderr
        assert "hint:" in stderr
        assert "Traceback" not in stderr
        assert "torch" not in stderr
        assert_gone(family)
    summary = assert_kept_and_incomplete(cli, tmp_path, 8)
    assert summary["exit_code"] == 5
    assert "rank 1" in summary["failure"]


def to_the_command(process: subprocess.Popen[str], signum: int) -> None:
    process.send_signal(signum)


def to_the_group(process: subprocess.Popen[str], signum: int) -> None:
    """As Ctrl-C in a terminal: to the command, the fork server, the ranks and their workers."""
    os.killpg(process.pid, signum)


@pytest.mark.parametrize(
    ("loader", "ranks", "signum", "send", "code"),
    [
        ("files", 2, signal.SIGINT, to_the_group, 130),
        ("files", 2, signal.SIGTERM, to_the_command, 143),
        ("direct", 1, signal.SIGINT, to_the_command, 130),
        ("direct", 1, signal.SIGTERM, to_the_command, 143),
    ],
)
def test_a_signal_ends_the_run_at_once(
    loader: str, ranks: int, signum: int, send: Callable[..., None], code: int, cli: Any, make_dataset: Any, tmp_path: Path
) -> None:
    dataset, _ = make_dataset()
    with started(*long_run(dataset, tmp_path, loader, ranks)) as process:
        wait_for_steps(tmp_path, ranks - 1, 10)
        family = descendants(process)
        send(process, signum)
        begin = time.monotonic()
        _, stderr = process.communicate(timeout=30)
        assert time.monotonic() - begin < END_WITHIN_S
        assert process.returncode == code
        assert sum(line.startswith("error:") for line in stderr.splitlines()) == 1
        assert "Traceback" not in stderr
        assert_gone(family)
    assert_kept_and_incomplete(cli, tmp_path, 8)


def test_ranks_and_workers_die_with_a_killed_command(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    with started(*long_run(dataset, tmp_path, "files", 2)) as process:
        wait_for_steps(tmp_path, 1, 10)
        family = descendants(process)
        assert len(family) >= 4  # the fork server, two ranks and their workers
        process.kill()
        process.communicate()
        assert_gone(family)
    assert_kept_and_incomplete(cli, tmp_path, 8)


def test_a_killed_loader_worker_ends_the_run(make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    with started(*long_run(dataset, tmp_path, "files", 1)) as process:
        wait_for_steps(tmp_path, 0, 10)
        family = descendants(process)
        workers = [child for child in family if child.ppid() != process.pid]  # forked from the fork server
        assert workers
        workers[0].kill()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 5
        assert "error: a loader worker died" in stderr
        assert_gone(family)


@pytest.mark.parametrize("form", ["npz", "webdataset"])
def test_killed_generate_goes_on_to_the_same_dataset(form: str, cli: Any, tmp_path: Path) -> None:
    """Killed at seeded moments of its progress, over and over; the end has the digest of an undisturbed one, and no stray file."""
    arguments = ["generate", "quick", "--format", form, "--payload", "bytes", "--num-samples", "800", "--record-length", "200kB", "--json"]
    whole = cli(*arguments, "--data-dir", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    rng = random.Random(7)
    kills = 0
    for _ in range(5):
        with started(*arguments, "--data-dir", str(tmp_path / "killed")) as process:
            wait_for_first_write(tmp_path / "killed", process)
            try:
                process.communicate(timeout=rng.uniform(0.0, 0.4))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
    assert kills >= 2
    again = cli(*arguments, "--data-dir", str(tmp_path / "killed"))
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["digest"] == json.loads(whole.stdout)["digest"]
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "killed")
    assert cli("verify", "--data-dir", str(tmp_path / "killed")).returncode == 0


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def wait_for_first_write(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until this process has made a temporary file, or has ended."""
    while process.poll() is None:
        if any(f".part-{process.pid}-" in path.name for path in folder.rglob("*.part-*")):
            return
        time.sleep(0.002)
