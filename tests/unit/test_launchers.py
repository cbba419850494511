"""What each launcher's environment says. The environments in data/launchers were recorded on this code's first machine from torchrun (torch 2.13), Slurm 22.05
and Open MPI 4.1 of Debian 12, and only paths were shortened; those of Kubernetes are as its documentation gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from storagebench.errors import UsageError
from storagebench.hostlist import expand_hosts
from storagebench.launchers import FIRST_PORT, NUM_PORTS, Launched, launched

RECORDED = Path(__file__).parent / "data" / "launchers"
POD = {"JOB_COMPLETION_INDEX": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "bench-0.bench", "MASTER_PORT": "29500"}
PYTORCHJOB = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "bench-master-0", "MASTER_PORT": "23456", "PYTHONUNBUFFERED": "1"}


def recorded(name: str) -> dict[str, str]:
    lines = (RECORDED / f"{name}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


MEMBERS = {
    # launcher, member, num_members, local_member, node, address, port, agent_store
    "torchrun": (recorded("torchrun"), Launched("torchrun", 1, 2, 1, "0", "localhost", 42119, True)),
    "torchrun --master-addr": (recorded("torchrun-static"), Launched("torchrun", 2, 3, 0, "1", "127.0.0.1", 29871, True)),
    "torchrun in an srun step of one task": (recorded("torchrun-in-srun"), Launched("torchrun", 1, 2, 1, "0", "localhost", 39091, True)),
    "torchrun in a step of many": (
        {**recorded("srun"), **recorded("torchrun"), "TORCHELASTIC_USE_AGENT_STORE": "False"},
        Launched("torchrun", 1, 2, 1, "0", "localhost", 42119, False),
    ),
    "srun -N2 -n4": (recorded("srun"), Launched("slurm", 3, 4, 0, "1", "rig1", 20000 + 2 * 97, False)),
    "srun -m cyclic": (recorded("srun-cyclic"), Launched("slurm", 2, 3, 1, "0", "rig1", 20000 + 6 * 97, False)),
    "srun --mpi=pmi2": (recorded("srun-pmi2"), Launched("slurm", 1, 2, 0, "1", "rig1", 20000 + 7 * 97, False)),
    "srun with its own meeting": (
        {**recorded("srun-arbitrary"), "MASTER_ADDR": "rig2", "MASTER_PORT": "29500"},
        Launched("slurm", 0, 3, 0, "1", "rig2", 29500, False),
    ),
    # Two components, the first one on rig2: the step's list is sorted, and task 0 is not on its first host.
    "srun of a heterogeneous job": (recorded("srun-het-1"), Launched("slurm", 1, 3, 0, "1", "rig2", 20000 + 97, False)),
    "its task 0": (recorded("srun-het-0"), Launched("slurm", 0, 3, 0, "0", "rig2", 20000 + 97, False)),
    "a step of another component": (
        {**recorded("srun-het-1"), "SLURM_STEP_NODELIST": "rig1"},
        Launched("slurm", 1, 3, 0, "1", "rig1", 20000 + 97, False),
    ),
    "mpirun -np 3": (recorded("mpirun"), Launched("openmpi", 2, 3, 2, "", "127.0.0.1", 23919, False)),
    "mpirun -x MASTER_ADDR": ({**recorded("mpirun-in-sbatch"), "MASTER_ADDR": "rig1"}, Launched("openmpi", 2, 3, 0, "", "rig1", 21012, False)),
    "Indexed Job": (POD, Launched("kubernetes", 2, 4, 0, "2", "bench-0.bench", 29500, False)),
    "Indexed Job that sets RANK": ({**POD, "RANK": "3"}, Launched("environment", 3, 4, 0, "", "bench-0.bench", 29500, False)),
    "PyTorchJob": (PYTORCHJOB, Launched("environment", 1, 3, 0, "", "bench-master-0", 23456, False)),
    "variables set by hand": ({**PYTORCHJOB, "LOCAL_RANK": "1"}, Launched("environment", 1, 3, 1, "", "bench-master-0", 23456, False)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_what_its_launcher_says(name: str) -> None:
    environment, expected = MEMBERS[name]
    assert launched(environment) == expected


BY_HAND = {
    "a shell": {"HOME": "/root"},
    "a batch script, which is one process of a job of three tasks": recorded("sbatch"),
    "salloc's shell": recorded("salloc"),
    "an interactive step": {**recorded("srun"), "SLURM_STEP_ID": "4294967290"},
    "a step of one task": recorded("srun-alone"),
    "torchrun with one process, in a step of many": {**recorded("srun"), **recorded("torchrun"), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
    "a Job of one pod": {"JOB_COMPLETION_INDEX": "0", "WORLD_SIZE": "1"},
    "variables of one process": {"RANK": "0", "WORLD_SIZE": "1"},
    "variables that a template left empty": {"RANK": "", "WORLD_SIZE": "", "JOB_COMPLETION_INDEX": ""},
    "a size of one": {"WORLD_SIZE": "1"},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_one_process_is_as_one_started_by_hand(name: str) -> None:
    assert launched(BY_HAND[name]) is None


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


REFUSED = [
    # environment, what the message has, what the hint has
    (without(recorded("torchrun"), "WORLD_SIZE"), "WORLD_SIZE is not set", "torchrun"),
    ({**recorded("torchrun"), "RANK": "2"}, "RANK=2 is not a whole number from 0 to 1, as WORLD_SIZE=2", "torchrun"),
    ({**recorded("torchrun"), "LOCAL_RANK": "2"}, "LOCAL_RANK=2 ", "torchrun"),
    (without(recorded("torchrun"), "MASTER_PORT"), "MASTER_PORT is not set", "MASTER_PORT"),
    ({**recorded("srun"), "SLURM_PROCID": "4"}, "SLURM_PROCID=4 is not a whole number from 0 to 3, as SLURM_STEP_NUM_TASKS=4", "srun"),
    (without(recorded("srun"), "SLURM_STEP_NUM_TASKS"), "SLURM_STEP_NUM_TASKS is not set", "unset SLURM_STEP_ID"),
    (without(recorded("srun"), "SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST is not set", "MASTER_ADDR"),
    ({**recorded("srun"), "SLURM_STEP_NODELIST": "rig[1-"}, "'rig[1-' is not a list of hosts", "MASTER_ADDR"),
    (recorded("srun-arbitrary"), "task 0 is on SLURMD_NODENAME=rig2, and the others would look for it on rig1", "--distribution=arbitrary"),
    (
        recorded("mpirun-in-sbatch"),
        "MASTER_ADDR is not set, and 3 processes of mpirun have to meet, of which this host has 1",
        "mpirun -x MASTER_ADDR=",
    ),
    (without(recorded("mpirun"), "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"), "neither MASTER_PORT nor PMIX_NAMESPACE", "mpirun -x MASTER_PORT="),
    ({**recorded("mpirun"), "OMPI_COMM_WORLD_SIZE": "many"}, "OMPI_COMM_WORLD_SIZE=many is not a whole number at least 1", "mpirun"),
    ({"JOB_COMPLETION_INDEX": "3"}, "WORLD_SIZE is not set, and JOB_COMPLETION_INDEX=3", "completions"),
    ({**POD, "WORLD_SIZE": "2"}, "JOB_COMPLETION_INDEX=2 is not a whole number from 0 to 1", "completions"),
    (without(POD, "MASTER_ADDR", "MASTER_PORT"), "MASTER_ADDR and MASTER_PORT are not set, and WORLD_SIZE=4", "MASTER_ADDR"),
    ({**POD, "MASTER_PORT": "tcp://10.0.0.7:80"}, "MASTER_PORT=tcp://10.0.0.7:80 is not a port", "MASTER_PORT"),
    ({**POD, "MASTER_PORT": "65536"}, "MASTER_PORT=65536 is not a port from 1 to 65535", "MASTER_PORT"),
    ({"RANK": "1"}, "WORLD_SIZE is not set, and RANK=1", "unset RANK"),
    ({**PYTORCHJOB, "RANK": "-1"}, "RANK=-1 is not a whole number from 0 to 2", "RANK"),
    ({**PYTORCHJOB, "WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not a whole number at least 1", "WORLD_SIZE"),
    ({"WORLD_SIZE": "4", "MASTER_ADDR": "host-0"}, "WORLD_SIZE=4 is set, and neither RANK nor JOB_COMPLETION_INDEX", "unset WORLD_SIZE"),
]


@pytest.mark.parametrize(("environment", "message", "hint"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_is_missing_or_contradicts_is_named(environment: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        launched(environment)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_all_members_of_a_step_or_job_find_the_same_place_and_neighbours_another() -> None:
    """Two jobs that share a node, and two steps of one job, must not meet at one port."""
    ports = set()
    for job in range(41, 45):
        for step in range(5):
            found = [
                launched(
                    {**recorded("srun"), "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step), "SLURM_PROCID": str(task), "SLURMD_NODENAME": node}
                )
                for task, node in enumerate(("rig1", "rig1", "rig1", "rig2"))
            ]
            places = {(member.address, member.port) for member in found if member is not None}
            assert len(found) == 4 and len(places) == 1
            ports |= {port for _, port in places}
    assert len(ports) == 20
    assert all(FIRST_PORT <= port < FIRST_PORT + NUM_PORTS for port in ports)


HOSTLISTS = [
    ("rig1", ["rig1"]),
    ("a,b", ["a", "b"]),
    ("rig[1-2]", ["rig1", "rig2"]),
    ("node[01-04,7]", ["node01", "node02", "node03", "node04", "node7"]),
    ("node[098-101]", ["node098", "node099", "node100", "node101"]),
    ("login,node[3,1],gpu-[08-09].site", ["login", "node3", "node1", "gpu-08.site", "gpu-09.site"]),
    ("r[1-2]n[0-1]", ["r1n0", "r1n1", "r2n0", "r2n1"]),
    ("r[1-2]n7", ["r1n7", "r2n7"]),
    ("", []),
]


@pytest.mark.parametrize(("nodelist", "hosts"), HOSTLISTS)
def test_host_lists_are_written_out(nodelist: str, hosts: list[str]) -> None:
    assert list(expand_hosts(nodelist)) == hosts


def test_the_first_host_of_a_large_list_is_found_at_once() -> None:
    assert next(expand_hosts("node[000000001-999999999],other")) == "node000000001"


@pytest.mark.parametrize("nodelist", ["n[1-", "n]1[", "n[]", "n[a]", "n[4-2]", ",a", "a,,b", "n[1[2]]"])
def test_what_is_no_host_list_is_refused(nodelist: str) -> None:
    with pytest.raises(UsageError, match="not a list of hosts"):
        list(expand_hosts(nodelist))
