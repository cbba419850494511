"""Each benchmark starts, and stands in the table of benchmarks."""

from __future__ import annotations

import json
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


@pytest.mark.s3
def test_loaders_vs_plain_compares_each_loader_with_its_library(tmp_path: Path) -> None:
    """The plain programs and our adapters hand over the same samples and bytes, or the benchmark ends with an error."""
    written = tmp_path / "results.json"
    command = [sys.executable, str(FOLDER / "loaders_vs_plain.py"), "--smoke", "--folder", str(tmp_path), "--json", str(written)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(written.read_text())
    assert {case["name"].split()[0] for case in found} == {"files", "webdataset", "parquet", "s3"}
    for case in found:
        assert len(case["ratios"]) == 1
        assert case["ours"][0]["samples"] == case["plain"][0]["samples"] > 0
