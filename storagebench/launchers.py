"""Who started this command: torchrun, srun, mpirun, Kubernetes, somebody who set the variables, or a person at a shell. Pure: an environment in, a
description out.

A *member* is one command process that a launcher started; each brings ranks of its own (`--num-accelerators`). This module joins nobody: where the
members meet is read here, and how they do is the matter of others. It resolves no name and opens no socket.

The launchers are asked from the inside out, since they nest: torchrun may run inside an srun step, and mpirun inside a Slurm job starts its daemons
as a step, so that its processes have both launchers' variables (seen with Slurm 22.05 and Open MPI 4.1), of which only mpirun's count them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from storagebench.errors import UsageError
from storagebench.hostlist import expand_hosts

# Where MASTER_PORT is not set: below the range from which kernels give ports to clients (32768 to 60999 on Linux) and Kubernetes to services (from 30000).
FIRST_PORT, NUM_PORTS = 20_000, 10_000
_STEPS_OF_A_JOB = 97  # prime: neighbouring jobs that share a node differ in their ports, up to so many steps each
_FIRST_RESERVED_STEP = 0xFFFFFFF0  # slurm.h: batch script, external, interactive and pending "steps" are above

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Launched:
    """One member of several, as its launcher describes it. `launcher` is torchrun, slurm, openmpi, kubernetes or environment.

    `member` is 0 .. num_members - 1, and those of one host need not follow each other (srun spreads them as its --distribution says). `local_member`
    counts the members of this host, 0 where the launcher does not say. `node` is the launcher's own id of this host (GROUP_RANK, SLURM_NODEID,
    JOB_COMPLETION_INDEX), or "". At `address`:`port`, on the host of member 0, all meet; with `agent_store` torchrun's agent already has a TCPStore
    listening there, else nobody has.
    """

    launcher: str
    member: int
    num_members: int
    local_member: int
    node: str
    address: str
    port: int
    agent_store: bool


@dataclass(frozen=True)
class _Launcher:
    """The variables of one launcher. `tells` is set by it alone; `meeting` gives address and port; `remedy` ends each error's hint."""

    name: str
    tells: str
    member: str
    num_members: str
    local_member: str
    node: str
    meeting: Callable[[Environment], tuple[str, int]]
    remedy: str


def launched(environment: Environment) -> Launched | None:
    """The member that the environment describes; None where the command was started by hand.

    A world of one member is None too, under every launcher: it has nobody to meet, so it needs no address, and its run is the one that the same
    command gives by hand. Raises UsageError where variables are missing or contradict each other.
    """
    launcher = next((launcher for launcher in _LAUNCHERS if _started_by(launcher, environment)), None)
    if launcher is None:
        _refuse_size_alone(environment)
        return None
    num_members = _number(environment, launcher.num_members, 1, None, launcher)
    member = _number(environment, launcher.member, 0, num_members, launcher)
    local_member = _number(environment, launcher.local_member, 0, num_members, launcher) if environment.get(launcher.local_member) else 0
    if num_members == 1:
        return None
    address, port = launcher.meeting(environment)
    return Launched(
        launcher=launcher.name,
        member=member,
        num_members=num_members,
        local_member=local_member,
        node=environment.get(launcher.node, ""),
        address=address,
        port=port,
        agent_store=launcher.name == "torchrun" and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _started_by(launcher: _Launcher, environment: Environment) -> bool:
    value = environment.get(launcher.tells, "")
    if launcher.name == "slurm" and value.isdecimal():
        return int(value) < _FIRST_RESERVED_STEP
    return value != ""


def _refuse_size_alone(environment: Environment) -> None:
    """A size without a place says that several were meant, and each would take itself for the whole world."""
    size = environment.get("WORLD_SIZE", "")
    if size not in ("", "1"):
        raise UsageError(
            f"WORLD_SIZE={size} is set, and neither RANK nor JOB_COMPLETION_INDEX says which of them this one is",
            "set RANK (0 to WORLD_SIZE - 1), MASTER_ADDR and MASTER_PORT, start it with torchrun, srun or mpirun, or unset WORLD_SIZE to run alone",
        )


def _number(environment: Environment, name: str, least: int, end: int | None, launcher: _Launcher) -> int:
    """The whole number in a variable, least <= number < end."""
    value = environment.get(name, "")
    if not value:
        raise UsageError(
            f"{name} is not set, and {launcher.tells}={environment[launcher.tells]} says that {launcher.name} started this", launcher.remedy
        )
    if not value.isdecimal() or int(value) < least or (end is not None and int(value) >= end):
        bound = f"at least {least}" if end is None else f"from {least} to {end - 1}, as {launcher.num_members}={end}"
        raise UsageError(f"{name}={value} is not a whole number {bound} ({launcher.name})", launcher.remedy)
    return int(value)


def _master(environment: Environment) -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT, both needed."""
    address = environment.get("MASTER_ADDR", "")
    port = _master_port(environment)
    if not address or port is None:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
        raise UsageError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, and WORLD_SIZE={environment['WORLD_SIZE']} processes have to meet",
            "set MASTER_ADDR to the host of process 0 as the others reach it, and MASTER_PORT to a free port of it; or WORLD_SIZE=1 to run alone",
        )
    return address, port


def _master_port(environment: Environment) -> int | None:
    value = environment.get("MASTER_PORT", "")
    if not value:
        return None
    if not value.isdecimal() or not 1 <= int(value) <= 65_535:
        raise UsageError(f"MASTER_PORT={value} is not a port from 1 to 65535", "set MASTER_PORT to a free port of the host of process 0")
    return int(value)


def _slurm_meeting(environment: Environment) -> tuple[str, int]:
    """The step's first host, unless MASTER_ADDR names another; a port that follows from the ids of job and step."""
    address, port = environment.get("MASTER_ADDR", ""), _master_port(environment)
    if not address:
        address = _first_host(environment)
        node = environment.get("SLURMD_NODENAME", address)
        if environment["SLURM_PROCID"] == "0" and node != address:
            raise UsageError(
                f"task 0 is on SLURMD_NODENAME={node}, and the others would look for it on {address}, the step's first host",
                "set MASTER_ADDR to the host of task 0, or leave out srun's --distribution=arbitrary",
            )
    if port is None:
        job, step = (_number(environment, name, 0, None, _SLURM) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = FIRST_PORT + (job * _STEPS_OF_A_JOB + step) % NUM_PORTS
    return address, port


def _first_host(environment: Environment) -> str:
    """The host of task 0: the step's first one. Of a heterogeneous job the step's list is sorted, and task 0 belongs to the first component."""
    step = environment.get("SLURM_STEP_NODELIST", "")
    if not step:
        raise UsageError("SLURM_STEP_NODELIST is not set, so the host of task 0 is not known", "set MASTER_ADDR to the host of task 0")
    component = environment.get("SLURM_JOB_NODELIST_HET_GROUP_0") or environment.get("SLURM_JOB_NODELIST_PACK_GROUP_0", "")
    of_component = next(expand_hosts(component), "")
    return of_component if of_component in expand_hosts(step) else next(expand_hosts(step))


def _openmpi_meeting(environment: Environment) -> tuple[str, int]:
    """Loopback where all processes are of this host, else MASTER_ADDR; a port that follows from the job's id."""
    address, port = environment.get("MASTER_ADDR", ""), _master_port(environment)
    size, local_size = (_number(environment, f"OMPI_COMM_WORLD_{name}", 1, None, _OPENMPI) for name in ("SIZE", "LOCAL_SIZE"))
    if not address:
        if local_size != size:
            raise UsageError(
                f"MASTER_ADDR is not set, and {size} processes of mpirun have to meet, of which this host has {local_size}",
                "mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=PORT ..., with the host of process 0 as the others reach it, and a free port of it",
            )
        address = "127.0.0.1"
    if port is None:
        job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid")
        if not job:
            raise UsageError("neither MASTER_PORT nor PMIX_NAMESPACE is set, so there is no port to meet at", "mpirun -x MASTER_PORT=PORT ...")
        port = FIRST_PORT + zlib.crc32(job.encode()) % NUM_PORTS
    return address, port


_START_AGAIN = "its launcher sets all of them: start it with {0}, or unset {1} to run alone"
_SLURM = _Launcher(
    "slurm",
    # A batch script has SLURM_PROCID=0 and SLURM_NTASKS too, and is one process; only what srun starts has SLURM_STEP_*.
    "SLURM_STEP_ID",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    _slurm_meeting,
    _START_AGAIN.format("srun", "SLURM_STEP_ID"),
)
_OPENMPI = _Launcher(
    "openmpi",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "",
    _openmpi_meeting,
    _START_AGAIN.format("mpirun", "OMPI_COMM_WORLD_RANK"),
)
_TORCHRUN = _Launcher(
    "torchrun",
    "TORCHELASTIC_RUN_ID",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "GROUP_RANK",
    _master,
    _START_AGAIN.format("torchrun", "TORCHELASTIC_RUN_ID"),
)
# Somebody who set RANK says more than the index that Kubernetes gives to every pod of an Indexed Job.
_ENVIRONMENT = _Launcher(
    "environment",
    "RANK",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "",
    _master,
    "set RANK (0 to WORLD_SIZE - 1), WORLD_SIZE, MASTER_ADDR and MASTER_PORT in every process, or unset RANK to run alone",
)
_KUBERNETES = _Launcher(
    "kubernetes",
    "JOB_COMPLETION_INDEX",
    "JOB_COMPLETION_INDEX",
    "WORLD_SIZE",
    "",
    "JOB_COMPLETION_INDEX",
    _master,
    "set WORLD_SIZE to the Job's completions, and MASTER_ADDR and MASTER_PORT to pod 0, in the pod's template; in a Job of one pod, WORLD_SIZE=1",
)
_LAUNCHERS = (_TORCHRUN, _OPENMPI, _SLURM, _ENVIRONMENT, _KUBERNETES)
