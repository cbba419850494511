"""The command that compares the prober with fio works; what it measures is its own affair."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_probe_vs_fio_runs(tmp_path: Path) -> None:
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "probe_vs_fio.py"), "--smoke", "--folder", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines() if ": fio" in line] == ["1024 KiB", "128 KiB"]
    assert result.stdout.count("ours/fio") == result.stdout.count("fio/fio") == 2
    assert list(tmp_path.iterdir()) == []
