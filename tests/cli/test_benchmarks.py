"""Each benchmark starts, and stands in the table of benchmarks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("script", sorted(path for path in FOLDER.glob("*.py") if path.stem != "common"), ids=lambda path: path.stem)
def test_it_starts_and_is_described(script: Path) -> None:
    result = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "usage:" in result.stdout, result.stderr
    assert f"`python benchmarks/{script.name} " in (FOLDER / "README.md").read_text()


def test_generation_in_small(tmp_path: Path) -> None:
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    command = [sys.executable, str(FOLDER / "generation.py"), "--folder", str(tmp_path / "disk"), "--json", str(tmp_path / "all.json"), "--smoke"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = {row["name"]: row for row in json.loads((tmp_path / "all.json").read_text())}
    for name in ("npz of 20 MB", "webdataset of 115 KB, 500 a shard"):
        phase, whole = found[f"{name}, generation phase"], found[f"{name}, whole command"]
        assert phase["ours"][0]["rate"] > whole["ours"][0]["rate"] > 0 and phase["theirs"] == whole["theirs"]
    assert list((tmp_path / "disk").iterdir()) == [], "what was written is removed"
