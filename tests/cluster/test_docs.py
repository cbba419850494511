"""Every command of docs/cluster.md, run where the comment above its block says."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ends, said, start

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"^<!-- (on|in) (.*?) -->\n```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# So that a page takes a minute: few steps, and nothing beside them.
_SHORT = "--null-duration 0.05 --headroom-duration 0 --max-steps 8"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What /mnt/data is on the reader's hosts; the page makes its dataset there first."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "data").mkdir()
    return folder


def script(block: str, place: Path, tmp_path: Path) -> str:
    short = re.sub(r"(storagebench run (?:.*\\\n)*.*)", rf"\1 {_SHORT}", block)
    return "set -euo pipefail\n" + short.replace("/mnt/data", str(place / "data")).replace("/tmp/results", str(tmp_path / "$(hostname)"))


def environment() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_every_command_of_the_page_stands_in_a_block_that_says_where_it_runs() -> None:
    fenced = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert fenced == [block for _, _, block in BLOCKS] and len(BLOCKS) >= 5


@pytest.mark.parametrize(("where", "block"), [(where, block) for _, where, block in BLOCKS], ids=[where for _, where, _ in BLOCKS])
def test_commands_run(where: str, block: str, place: Path, tmp_path: Path, make_hosts: Any, request: pytest.FixtureRequest) -> None:
    text = script(block, place, tmp_path)
    if where.startswith("a Slurm"):
        slurm = request.getfixturevalue("slurm")
        done = slurm.run("bash", "-c", text, folder=tmp_path, environment=environment())
        assert done.returncode == 0, done.stderr + slurm.logs()
        return
    number = 1 if where == "one machine" else int(re.findall(r"\d+", where)[0])
    hosts = make_hosts(number)
    if "/nvme" in text:  # each host's own disk, at the same path
        (tmp_path / "nvme").mkdir()
        text = text.replace("/nvme", str(tmp_path / "nvme"))
        for k in range(number):
            (hosts[k].folder / "disk").mkdir()
            hosts[k].inside("mount", "--bind", str(hosts[k].folder / "disk"), str(tmp_path / "nvme"))
    started = [start(hosts[k], ["bash", "-c", text], {**environment(), **({"RANK": str(k)} if "RANK=" in where else {})}) for k in range(number)]
    assert ends(started, 150) == [0] * number, said(started)
    assert "Traceback" not in said(started)
    assert [bool(each.out) for each in started] == [True] + [False] * (number - 1)
