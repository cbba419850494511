"""A bucket that is not there, wrong credentials, a server that dies in mid-run: exit code 4, a sentence that names it, no secret, no valid number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from storagebench import s3server
from storagebench.records import rank_trace_path
from storagebench.traces import read_trace

pytestmark = pytest.mark.s3
CANARY = "CANARYsecret0123456789"


def run_arguments(url: str, options: dict[str, str], results: Path, *more: str) -> list[str]:
    return [
        "run", "quick", "--data-dir", url, "--storage-option", f"endpoint_url={options['endpoint_url']}", "--results-dir", str(results), "--run-id", "r",
        "--compute-time", "5ms", "--batch-size", "4", "--null-duration", "0", "--headroom-duration", "0", *more,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def s3_dataset(cli: Any, s3_server: s3server.Server) -> str:
    """64 small npz shards, made through S3."""
    url = "s3://bench/faults"
    made = cli("generate", "quick", "--format", "npz", "--payload", "bytes", "--num-samples", "64", "--record-length", "20kB", "--data-dir", url,
               "--storage-option", f"endpoint_url={s3_server.endpoint_url}", env=dict(s3_server.environment()))  # fmt: skip
    assert made.returncode == 0, made.stderr
    return url


def assert_failed(result: Any, code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert sum(line.startswith("error:") for line in result.stderr.splitlines()) == 1
    assert "hint: " in result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize("loader", ["s3", "direct"])
def test_a_missing_bucket(loader: str, cli: Any, s3_environment: dict[str, str], tmp_path: Path) -> None:
    assert_failed(cli(*run_arguments("s3://nosuchbucket/x", s3_environment, tmp_path, "--loader", loader)), 4, "nosuchbucket")


@pytest.mark.parametrize("loader", ["s3", "direct"])
def test_wrong_credentials_and_no_secret_anywhere(loader: str, cli: Any, s3_environment: dict[str, str], s3_dataset: str, tmp_path: Path) -> None:
    environment = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": CANARY}
    result = cli(*run_arguments(s3_dataset, s3_environment, tmp_path, "--loader", loader), env=environment)
    assert_failed(result, 4, s3_environment["endpoint_url"])
    assert CANARY not in result.stdout + result.stderr


def test_no_credentials(cli: Any, s3_environment: dict[str, str], s3_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    environment = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    assert_failed(cli(*run_arguments(s3_dataset, s3_environment, tmp_path), env=environment), 4, "AWS_ACCESS_KEY_ID")


def test_no_secret_in_a_run_folder(cli: Any, s3_server: s3server.Server, s3_environment: dict[str, str], s3_dataset: str, tmp_path: Path) -> None:
    result = cli(*run_arguments(s3_dataset, s3_environment, tmp_path, "--epochs", "1", "--num-accelerators", "2"))
    assert result.returncode == 0, result.stderr
    assert cli("report", str(tmp_path / "r"), "--html", str(tmp_path / "page.html")).returncode == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert s3_server.secret_key not in path.read_text(), path
            assert s3_server.access_key not in path.read_text(), path


def test_a_server_that_dies_in_mid_run(cli: Any, s3_dataset: str, s3_server: s3server.Server, tmp_path: Path) -> None:
    """A server of its own over the same folder, killed after some steps: the run fails, bounded in time, with its steps kept."""
    with s3server.start(s3_server.directory) as server:
        options = {"endpoint_url": server.endpoint_url}
        arguments = run_arguments(s3_dataset, options, tmp_path, "--loader", "direct", "--epochs", "10000", "--cache", "as-is",
                                  "--storage-option", "retries=4")  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "storagebench", *arguments],
            env={**os.environ, **server.environment()}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        trace = rank_trace_path(tmp_path / "r", 0)
        end = time.monotonic() + 60
        while not (trace.exists() and len(read_trace(trace).steps) > 20) and time.monotonic() < end:
            time.sleep(0.05)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 4, stderr
    assert sum(line.startswith("error:") for line in stderr.splitlines()) == 1
    assert "Traceback" not in stderr
    assert cli("report", str(tmp_path / "r")).returncode == 0
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["status"], summary["valid"], summary["exit_code"]) == ("failed", False, 4)
    assert summary["measured_steps"] > 10
