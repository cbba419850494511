"""The rigs themselves: what a test of a cluster may rely on. No storagebench but the reading of the environment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from storagebench.hostlist import expand_hosts
from storagebench.launchers import launched

pytestmark = pytest.mark.cluster

# What a command that a launcher starts finds out, one line of JSON; the world joined where torch is asked for.
TOLD = """
import json, os, socket
from dataclasses import asdict
from storagebench.launchers import launched
found = launched(os.environ)
print(json.dumps({"host": socket.gethostname(), **(asdict(found) if found else {"launcher": None})}), flush=True)
"""
SUMMED = """
import os, socket, torch, torch.distributed as dist
dist.init_process_group("gloo")
sum = torch.tensor([2 ** dist.get_rank()])
dist.all_reduce(sum)
print(dist.get_rank(), os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"], socket.gethostname(), int(sum), flush=True)
dist.destroy_process_group()
"""
PYTHON = [sys.executable, "-P", "-c"]


def lines(text: str) -> list[dict[str, Any]]:
    """The members' lines, by member. mpirun may put two of them on one line."""
    return sorted((json.loads(found) for found in re.findall(r"{[^{}]*}", text)), key=lambda row: row.get("member", 0))


def alive(pid: int) -> bool:
    """Neither gone nor waiting to be reaped."""
    return Path(f"/proc/{pid}/exe").exists()


# -- hosts of namespaces -----------------------------------------------------------------------------------------------------------------------------


def test_hosts_reach_each_other_by_name_until_the_cable_is_out(make_hosts: Any) -> None:
    hosts = make_hosts(3)
    server = hosts[0].start([sys.executable, "-c", "import socket\ns = socket.create_server(('', 5000))\nwhile True: s.accept()[0].close()"])
    dial = [sys.executable, "-c", "import socket; socket.create_connection(('node1', 5000), timeout=1); print(socket.gethostname())"]

    def reaches(number: int) -> str:
        return hosts[number].start(dial, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).communicate(timeout=10)[0].strip()

    end = time.monotonic() + 10
    while not reaches(1) and time.monotonic() < end:
        time.sleep(0.05)
    assert [reaches(1), reaches(2)] == ["node2", "node3"]
    hosts[1].unplug()
    assert [reaches(1), reaches(2)] == ["", "node3"]
    hosts[1].plug_in()
    assert reaches(1) == "node2"
    hosts[0].kill_all()
    assert server.wait(5) == -signal.SIGKILL
    begin = time.monotonic()
    assert reaches(2) == ""
    assert time.monotonic() - begin < 0.9  # refused at once: its network outlives its processes


def test_a_shaped_link_has_its_rate(make_hosts: Any) -> None:
    hosts = make_hosts(2)
    hosts[1].shape("80mbit")
    receive = "import socket\ns = socket.create_server(('', 5000)).accept()[0]\nwhile s.recv(1 << 20): pass\ns.send(b'.')"
    send = """
import socket, time
while True:
    try:
        s = socket.create_connection(('node1', 5000)); break
    except ConnectionRefusedError:
        time.sleep(0.05)
t = time.monotonic(); s.sendall(bytes(5_000_000)); s.shutdown(1); s.recv(1); print(5 / (time.monotonic() - t))
"""
    hosts[0].start([sys.executable, "-c", receive])
    measured = float(hosts[1].start([sys.executable, "-c", send], stdout=subprocess.PIPE).communicate(timeout=20)[0])
    assert 8.5 < measured < 10.2  # MB/s; 96 % of 10 is payload, and the burst is free


def test_nothing_outlives_a_killed_rig(tmp_path: Path, make_hosts: Any) -> None:
    """`make_hosts` only for its skip."""
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from namespaces import Hosts
with Hosts(2, Path({str(tmp_path)!r})) as hosts:
    hosts[1].start(["sleep", "1000"])
    while not hosts[1].processes(): time.sleep(0.01)
    print(hosts[0].pid, hosts[1].pid, *hosts[1].processes().values(), flush=True)
    time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) >= 3
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == []


def test_torchrun_joins_uneven_hosts(make_hosts: Any, torchrun: Any) -> None:
    """2 + 1 + 1 processes. Gloo is told its interface: by itself it takes the address of the hostname, which need not be the one that others reach."""
    hosts = make_hosts(3)
    started = [
        hosts[k].start(torchrun(hosts, k, members, *PYTHON, SUMMED), {"GLOO_SOCKET_IFNAME": "eth1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for k, members in enumerate((2, 1, 1))
    ]
    output = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], output
    assert sorted(line for out, _ in output for line in out.splitlines()) == [
        "0 0 0 2 node1 15",
        "1 0 1 2 node1 15",
        "2 1 0 1 node2 15",
        "3 2 0 1 node3 15",
    ]


def test_torchrun_tells_who_is_who(make_hosts: Any, torchrun: Any) -> None:
    hosts = make_hosts(2)
    started = [hosts[k].start(torchrun(hosts, k, members, *PYTHON, TOLD), stdout=subprocess.PIPE) for k, members in enumerate((2, 1))]
    found = lines("".join(process.communicate(timeout=60)[0] for process in started))
    assert [(row["launcher"], row["member"], row["num_members"], row["local_member"], row["node"], row["host"]) for row in found] == [
        ("torchrun", 0, 3, 0, "0", "node1"),
        ("torchrun", 1, 3, 1, "0", "node1"),
        ("torchrun", 2, 3, 0, "1", "node2"),
    ]
    assert {(row["address"], row["agent_store"]) for row in found} == {(hosts[0].address, True)}


# -- Slurm -------------------------------------------------------------------------------------------------------------------------------------------


def test_slurm_steps_tell_who_is_who(slurm: Any) -> None:
    done = slurm.run("srun", "-N2", "-n4", *PYTHON, TOLD)
    assert done.returncode == 0, done.stderr + slurm.logs()
    found = lines(done.stdout)
    assert [(row["launcher"], row["member"], row["num_members"]) for row in found] == [("slurm", k, 4) for k in range(4)]
    assert {(row["node"], row["host"]) for row in found} == {("0", "rig1"), ("1", "rig2")}
    assert len({(row["address"], row["port"]) for row in found}) == 1
    assert found[0]["address"] == "rig1"


def test_a_heterogeneous_job_meets_at_its_first_component(slurm: Any) -> None:
    """Hosts of different size are asked for like this; the first component need not be on the first host of the list."""
    done = slurm.run("srun", "-N1", "-n1", "-w", "rig2", *PYTHON, TOLD, ":", "-N1", "-n2", "-w", "rig1", *PYTHON, TOLD)
    assert done.returncode == 0, done.stderr + slurm.logs()
    found = lines(done.stdout)
    assert [(row["member"], row["num_members"], row["host"]) for row in found] == [(0, 3, "rig2"), (1, 3, "rig1"), (2, 3, "rig1")]
    assert {row["address"] for row in found} == {"rig2"}


def test_a_batch_script_is_one_process_and_its_steps_are_many(slurm: Any, tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(TOLD)
    told = f"{sys.executable} -P told.py"
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/sh\n#SBATCH -N2 -n3\n{told} >alone\nsrun -n3 {told} >step\nmpirun --allow-run-as-root -x MASTER_ADDR=rig1 {told} >mpi\n"
    )
    assert slurm.batch(script, tmp_path) == 0, (tmp_path / "job.out").read_text() + slurm.logs()
    assert lines((tmp_path / "alone").read_text()) == [{"host": "rig1", "launcher": None}]
    assert [(row["launcher"], row["member"], row["num_members"]) for row in lines((tmp_path / "step").read_text())] == [
        ("slurm", k, 3) for k in range(3)
    ]
    # mpirun's daemon on the other node is a step of Slurm's, and what it starts is still mpirun's.
    mpi = lines((tmp_path / "mpi").read_text())
    assert [(row["launcher"], row["member"], row["num_members"], row["address"]) for row in mpi] == [("openmpi", k, 3, "rig1") for k in range(3)]
    assert {row["host"] for row in mpi} == {"rig1", "rig2"}


@pytest.mark.parametrize("nodelist", ["rig1", "node[01-04,7],login", "node[098-101]", "r[1-2]n[0-1]", "a,b[3,1]"])
def test_host_lists_are_written_out_as_scontrol_does(slurm: Any, nodelist: str) -> None:
    done = slurm.run("scontrol", "show", "hostnames", nodelist)
    assert done.stdout.split() == list(expand_hosts(nodelist))


# -- Open MPI ----------------------------------------------------------------------------------------------------------------------------------------


def test_mpirun_tells_who_is_who(machine: Any, mpirun: list[str]) -> None:
    done = subprocess.run(machine.enter([*mpirun, "-np", "3", *PYTHON, TOLD]), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = lines(done.stdout)
    assert [(row["launcher"], row["member"], row["num_members"], row["local_member"]) for row in found] == [("openmpi", k, 3, k) for k in range(3)]
    assert {row["address"] for row in found} == {"127.0.0.1"}
    assert len({row["port"] for row in found}) == 1
    assert launched(os.environ) is None
