"""Every command of docs/tta.md runs: blocks tagged `bash`, in one folder and in order. The real training is cut to two epochs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from storagebench.configfile import known_workloads

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tta.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TRAINING = [block for block in BLOCKS if "train:" in block or "entry.tsv" in block]


def shortened(block: str) -> str:
    """The same commands; only what is measured is less."""
    quick = r"\g<0> --null-duration 0.05 --headroom-duration 0.1s"
    block = re.sub(
        r"^storagebench run .*", lambda line: line[0] if "train:" in line[0] else line.expand(quick + " --max-steps 4"), block, flags=re.MULTILINE
    )
    block = re.sub(r"^storagebench run .*train:.*", quick + " --epochs 2 --target-quality 0.2", block, flags=re.MULTILINE).replace(
        "--repeat 3", "--repeat 2"
    )
    return block.replace("--num-samples 1600", "--num-samples 400")


def run(blocks: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    script = "\n".join(map(shortened, blocks)).replace("/mnt/", f"{folder}/mnt/")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=170, check=False)


def test_commands_of_a_projection_run(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    done = run([block for block in BLOCKS if block not in TRAINING], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "time to accuracy, projected: first: train-resnet50" in done.stdout
    assert "price: h100 2.5 EUR per accelerator and hour (our offer 4711, 2026-10-01)" in done.stdout
    assert (tmp_path / "cost.csv").read_text().count("\n") == 2


@pytest.mark.skipif("digits" not in known_workloads() or find_spec("storagebench.training") is None, reason="there is no real training yet")
@pytest.mark.catalogue
def test_commands_of_a_training_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    prices = [block for block in BLOCKS if "cat > prices.yaml" in block]
    head = "".join(prices[0].partition("END\nstoragebench")[:1]) + "END\n"
    done = run([head, *TRAINING], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 trainings that differ in their seed: digits" in done.stdout
    assert "DAWNBench: entry.tsv: resnet8 on" in done.stdout and "MLPerf log: result_0.txt: digits" in done.stdout
    assert "not reached" not in done.stdout and (tmp_path / "entry.json").exists()


def test_every_storagebench_command_stands_in_a_block_that_is_run() -> None:
    fenced = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(BLOCKS) == 4 and fenced == BLOCKS
