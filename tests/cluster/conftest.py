"""Rigs: hosts made of network namespaces, a real Slurm, a real Open MPI. `pytest -m cluster tests/cluster`, or `.ci/cluster`, which installs what they need.

The helper modules beside this file are imported by their bare names, by the tests of this folder only.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import namespaces
import slurm as slurm_rig

MakeHosts = Callable[..., namespaces.Hosts]


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[MakeHosts]:
    """So many hosts for one test (see `namespaces.Hosts`). Skips without root or the tools."""
    reason = namespaces.missing()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda number, **names: stack.enter_context(namespaces.Hosts(number, tmp_path, **names))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_rig.Slurm]:
    """Two nodes, rig1 and rig2, for all tests. Skips without root or the programs."""
    reason = slurm_rig.missing()
    if reason:
        pytest.skip(reason)
    with slurm_rig.Slurm(tmp_path_factory.mktemp("rig") / "slurm") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def machine() -> Iterator[namespaces.Namespace]:
    """One host with nothing but its loopback, for mpirun. Skips without root, the tools or mpirun."""
    reason = namespaces.missing() or (None if shutil.which("mpirun") else "mpirun is not there (Debian: openmpi-bin)")
    if reason:
        pytest.skip(reason)
    alone = namespaces.Namespace("machine")
    yield alone
    alone.close()


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., list[str]]:
    """torchrun's command line on host k with so many processes: torchrun(hosts, k, members, *command)."""

    def line(hosts: namespaces.Hosts, number: int, members: int, *command: str) -> list[str]:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0].address}:29400", "--rdzv-id", "rig"]
        # --local-addr: without it the agents name their hosts by getfqdn(), and their order (GROUP_RANK) is that of these names.
        here = ["--local-addr", hosts[number].address, "--nnodes", str(len(hosts)), "--nproc-per-node", str(members)]
        return [sys.executable, "-P", "-m", "torch.distributed.run", *meeting, *here, "--no-python", *command]

    return line


@pytest.fixture(scope="session")
def mpirun() -> list[str]:
    """mpirun as root, with more processes than cores (which also leaves them unbound)."""
    return ["mpirun", "--allow-run-as-root", "--oversubscribe"]
