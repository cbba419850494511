"""Each benchmark starts, and stands in the table of benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_it_starts_and_is_described(script: Path) -> None:
    result = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "usage:" in result.stdout, result.stderr
    assert f"`python benchmarks/{script.name} " in (FOLDER / "README.md").read_text()
