"""With the cores taken by others, AU of a storage-bound run does not rise, and the run says that the host took part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# What the wake-ups of a busy machine may add in a test; selfcheck and the closing note of the issue hold it to 0.005.
RISE_AT_MOST = 0.02


@contextmanager
def hogs() -> Iterator[None]:
    """As many spinning processes as there are cores."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(len(os.sched_getaffinity(0)))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(cli: Any, dataset: str, results: Path, name: str) -> dict[str, Any]:
    result = cli("run", "quick", "--data-dir", f"shaped+{dataset}", "--storage-option", "bandwidth=4MB", "--compute-time", "5ms", "--batch-size", "1",
                 "--max-steps", "320", "--epochs", "9", "--null-duration", "0", "--headroom-duration", "0", "--results-dir", str(results),
                 "--run-id", name)  # fmt: skip
    assert result.returncode == 0, result.stderr
    return dict(json.loads((results / name / "summary.json").read_text()))


@pytest.mark.slow
def test_au_does_not_rise_and_the_host_is_named(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset(num_samples=64, record_length_bytes=40_000, record_length_bytes_stdev=0)
    for attempt in (1, 2):
        quiet = run(cli, dataset, tmp_path, f"quiet-{attempt}")
        with hogs():
            busy = run(cli, dataset, tmp_path, f"busy-{attempt}")
        assert 0.3 < quiet["au_nominal"] < 0.7
        if busy["au_nominal"] <= quiet["au_nominal"] + RISE_AT_MOST and "HOST_LIMITED" in [finding["code"] for finding in busy["findings"]]:
            return
    pytest.fail(f"AU {quiet['au_nominal']} became {busy['au_nominal']} beside hogs, with {busy['findings']} and {busy['limits']}")
