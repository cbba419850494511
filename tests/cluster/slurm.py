"""A real Slurm of two nodes: munged, slurmctld and two slurmds on the loopback of a namespace of its own. Needs root and Debian's slurmctld, slurmd,
slurm-client and munge. No systemd, no cgroup, nothing in /etc or /var: configuration, key, state and logs lie in the folder that it is given.

The nodes are rig1 and rig2, with hostnames of these names (a UTS namespace each) and one address, 127.0.0.1, so that they differ in their ports.

    with Slurm(tmp_path / "slurm") as slurm:
        done = slurm.run("srun", "-N2", "-n4", "hostname")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import namespaces

NODES = ("rig1", "rig2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "sinfo", "scancel")
_UP_WITHIN_S = 30.0
# Ports are of the namespace's own loopback. config_overrides: each node has four CPUs, whatever the machine has.
# Heterogeneous jobs are started by the backfill scheduler only.
_CONF = """
ClusterName=rig
SlurmctldHost=control(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=6817
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName=rig1 NodeHostname=rig1 NodeAddr=127.0.0.1 Port=6818 CPUs=4 RealMemory=1000 State=UNKNOWN
NodeName=rig2 NodeHostname=rig2 NodeAddr=127.0.0.1 Port=6819 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"Slurm needs {', '.join(absent)} (Debian: slurmctld, slurmd, slurm-client, munge)"
    return namespaces.missing()


class Slurm:
    """The cluster, up within the block. `folder` is made; it is to be on a path of less than 80 characters, for the sockets' sake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._namespace: namespaces.Namespace | None = None

    def __enter__(self) -> Slurm:
        self.folder.mkdir()
        self.folder.chmod(0o755)  # munged wants all to reach its socket
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(_CONF.format(folder=self.folder))
        names = self.folder / "hosts"
        names.write_text(f"127.0.0.1 localhost control {' '.join(NODES)}\n")
        self._namespace = namespaces.Namespace("control", names)
        try:
            # A second address: where a machine has only loopback, slurmd's getaddrinfo(AI_ADDRCONFIG) finds nothing to bind to.
            self._namespace.inside("ip", "link", "add", "lan", "type", "bridge")
            self._namespace.inside("ip", "address", "add", "192.168.78.1/24", "dev", "lan")
            self._namespace.inside("ip", "link", "set", "lan", "up")
            self._start_daemons()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start_daemons(self) -> None:
        options = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        self._daemon("munged", "munged", "--foreground", "--force", *(f"--{name}={self.folder / file}" for name, file in options.items()))
        self._wait("munged's socket", lambda: (self.folder / "munge.socket").exists())
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self._daemon(f"slurmd.{node}", "unshare", "--uts", "--", "sh", "-c", 'hostname "$0" && exec slurmd -D -N "$0"', node)
        self._wait("both nodes to be idle", lambda: self.run("sinfo", "-h", "-N", "-o", "%t").stdout.split() == ["idle", "idle"])

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as out:
            self._daemons[name] = subprocess.Popen(
                self._enter(command, self.folder), env=self.environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _wait(self, what: str, there: object) -> None:
        assert callable(there)
        end = time.monotonic() + _UP_WITHIN_S
        while not there():
            dead = [name for name, process in self._daemons.items() if process.poll() is not None]
            if dead or time.monotonic() > end:
                raise RuntimeError(f"waited for {what}; ended: {dead}\n{self.logs()}")
            time.sleep(0.1)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), **(more or {})}

    def _enter(self, command: tuple[str, ...], folder: Path) -> list[str]:
        assert self._namespace is not None
        return self._namespace.enter(command, folder)

    def start(self, *command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A command at the cluster's login, in a folder (its own if none is given)."""
        return subprocess.Popen(
            self._enter(command, folder or self.folder),
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """The same to its end. What outlasts the time limit is ended with the cluster."""
        process = self.start(*command, folder=folder, environment=environment)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{' '.join(command)} took longer than {timeout} s\n{out[-2000:]}\n{err[-2000:]}\n{self.logs()}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def batch(self, script: Path, folder: Path, environment: Mapping[str, str] | None = None, timeout: float = 60) -> int:
        """Submit a batch script from this folder, its output into `job.out` there, and wait for its end; its exit code, or 128 and the signal.
        (sbatch --wait looks only now and then.)"""
        submitted = self.run("sbatch", "--parsable", "-o", "job.out", str(script), folder=folder, environment=environment)
        assert submitted.returncode == 0, submitted.stderr
        job = submitted.stdout.strip()
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            told = dict(field.partition("=")[::2] for field in self.run("scontrol", "-o", "show", "job", job).stdout.split())
            if told.get("EndTime") != "Unknown" and told["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"):
                code, _, signum = told["ExitCode"].partition(":")
                return int(code) or (128 + int(signum) if int(signum) else 0)
            time.sleep(0.2)
        raise AssertionError(f"job {job} of {script} did not end within {timeout} s\n{self.logs()}")

    def processes(self) -> dict[int, int]:
        """pid as the nodes see it -> pid from outside, daemons included."""
        assert self._namespace is not None
        return self._namespace.processes()

    def logs(self) -> str:
        """The last lines of each daemon."""
        files = sorted([*self.folder.glob("*.out"), *self.folder.glob("*.log")])
        return "\n".join(f"-- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._namespace is not None:
            self._namespace.close()
        for process in self._daemons.values():
            process.wait(10)
