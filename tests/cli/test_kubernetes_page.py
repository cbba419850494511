"""Every command of docs/kubernetes.md runs: blocks tagged `bash` here, in one folder and in order; those that need kfp in tests/kubeflow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def shortened(block: str) -> str:
    """The same commands; only what is measured is less."""
    return re.sub(r"^storagebench run .*", r"\g<0> --null-duration 0.05 --headroom-duration 0.1s --max-steps 8", block, flags=re.MULTILINE)


def test_commands_run(tmp_path: Path) -> None:
    script = "\n".join(map(shortened, BLOCKS)).replace("/mnt/", f"{tmp_path}/mnt/")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^au=[0-9.]+$", done.stdout, re.MULTILINE)
    named = re.findall(r"(?:-f|sbatch.*) ((?:manifests|scripts)/\S+)", PAGE)
    assert len(named) == 2 and all((tmp_path / name).exists() for name in named)
    for manifest in (tmp_path / "manifests").iterdir():
        assert list(yaml.safe_load_all(manifest.read_text()))


def test_every_storagebench_command_stands_in_a_block_that_is_run() -> None:
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(BLOCKS) >= 5
    assert {tag for tag, block in fenced if re.search("^storagebench ", block, re.MULTILINE)} == {"bash", "bash kubeflow"}


@pytest.mark.parametrize("target", ["job", "jobset", "trainjob", "pytorchjob", "kfp", "katib", "kueue", "slurm"])
def test_every_target_has_a_row_and_a_command(target: str) -> None:
    assert f"| `{target}` |" in PAGE and f"--target {target} " in PAGE
