"""The benchmarks of traces in their short form: they run, and the summary of simulated ranks is that of their schedule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("script", "rows"), [("trace_record.py", 4), ("merge_traces.py", 4)])
def test_smoke(script: str, rows: int, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, str(FOLDER / script), "--folder", str(tmp_path), "--smoke"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == rows
    assert not list(tmp_path.iterdir())
