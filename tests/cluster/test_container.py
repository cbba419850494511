"""The command as process 1, as a container without an init starts it: it is the parent of what it starts, and still no orphan's new parent."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import namespaces
import pytest
from commands import RUN_ID, long_line, run_line, summary_of, wait_for_steps

pytestmark = pytest.mark.cluster

# --kill-child: with the test, all of it ends.
FIRST = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(autouse=True)
def needs_root() -> None:
    reason = namespaces.missing()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("accelerators", [1, 2])
def test_a_run_with_workers_in_processes(accelerators: int, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    line = run_line(dataset, tmp_path, accelerators, "--loader", "files")
    done = subprocess.run([*FIRST, *line], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path)["status"] == "complete"


def test_sigterm_ends_it(make_dataset: Any, tmp_path: Path) -> None:
    """As `kubectl delete pod` sends it. Process 1 gets only the signals that it handles."""
    dataset, _ = make_dataset()
    line = long_line(dataset, tmp_path, 2, "--loader", "files")
    process = subprocess.Popen([*FIRST, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_steps(tmp_path / RUN_ID, 1, 10, lambda: process.poll() is None)
    first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    os.kill(int(first), signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143, err
    assert summary_of(tmp_path)["status"] == "incomplete"
