"""Every command in the README runs. Blocks tagged `bash` run here, one shell for each; the two make commands are run by .ci/run."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's machine: /mnt is this folder; it has photographs, and a workload file of DLIO."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("readme")
    for index in range(24):
        target = folder / "mnt" / "photos" / f"class{index % 2}"
        target.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((96, 96), 20 + index).convert("RGB").save(target / f"{index}.jpg")
    theirs = folder / "mnt" / "dlio" / "unet3d_h100.yaml"
    theirs.parent.mkdir()
    theirs.write_bytes((ROOT / "tests" / "data" / "dlio" / "release-2.0.0" / theirs.name).read_bytes())
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shortened(block: str) -> str:
    """The same commands; only what is measured is less: at most 8 steps, a twentieth of a second of the null loader, short rungs climbed once, no fio."""
    block = re.sub(r"^storagebench diagnose .*", r"\g<0> --repeats 1 --rung-duration 0.5s --no-trial", block, flags=re.MULTILINE)
    block = re.sub(r"^storagebench run .*", r"\g<0> --null-duration 0.05 --headroom-duration 0.1s --max-steps 8", block, flags=re.MULTILINE)
    few = r"\g<0> --confidence 0.75 --confirmations 2 --max-steps 8 --null-duration 0 --headroom-duration 0.1s"
    block = re.sub(r"^storagebench search .*", few, block, flags=re.MULTILINE).replace("--max-accelerators 4", "--max-accelerators 1")
    block = re.sub(r"^(storagebench tune .*)--time 10min", r"\1--time 5s --trial-duration 0.2s --null-duration 0", block, flags=re.MULTILINE)
    return re.sub(r"^storagebench probe .*", r"\g<0> --seconds 0.02 --no-fio", block, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[0][:40] for block in BLOCKS])
def test_commands_run(block: str, place: Path) -> None:
    script = shortened(block).replace("/mnt/", f"{place}/mnt/").replace("9444", str(free_port()))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=place, env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_every_storagebench_command_stands_in_a_block_that_is_run() -> None:
    fenced = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    others = [block for block in fenced if block not in BLOCKS]
    assert len(BLOCKS) >= 4
    assert not any(line.startswith("storagebench ") for block in others for line in block.splitlines())


def test_the_two_commands_are_targets_that_ci_runs() -> None:
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    for target in ("demo", "test"):
        assert f"make {target} " in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert re.search(rf"^make {target}$", ci, re.MULTILINE)


def test_the_readme_shows_an_output_of_the_demo() -> None:
    """The table in the README is one that the demo printed: all ten runs, and the columns of today's table."""
    from storagebench.demo import LOADER_FORMATS

    table = README.split("```text\n")[1].split("```")[0]
    for name in ("synthetic", "photos"):
        for loader in LOADER_FORMATS:
            assert f"{name}-{loader}" in table
    for column in ("AU", "in the way", "AU null", "samples/s", "MB/s", "fetch p50", "fetch p99", "cached", "CPU s/GB"):
        assert column in table
