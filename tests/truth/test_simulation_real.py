"""Real runs of 1, 2, 4 and 8 accelerators against what the simulation foretells, one setting. All of them: `python benchmarks/simulate_real.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.nightly
def test_the_simulation_foretells_real_runs(tmp_path: Path) -> None:
    pytest.importorskip("simpy")
    script = Path(__file__).parents[2] / "benchmarks" / "simulate_real.py"
    result = subprocess.run(
        [sys.executable, str(script), "--smoke", "--folder", str(tmp_path)], capture_output=True, text=True, check=False, timeout=170
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert {line.split(":")[0] for line in lines[:-1]} == {f"mixed, {number}" for number in (1, 2, 4, 8)}
    assert lines[-1].startswith("largest difference ")
