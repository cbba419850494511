"""Hosts on one machine: network namespaces, joined by veth pairs to a bridge in a namespace of its own. Needs root, and touches nothing of the machine.

Each host has a hostname, an address (192.168.77.1 and so on), names for its neighbours in its own /etc/hosts, its own processes, /dev/shm and a folder.
The file system, the clock and the boot id are the machine's. Nothing here has a name outside: no `ip netns`, no interface, no rule of the machine's own
network. All of it ends with the process that made it, also when that is killed: each namespace lives as long as its first process, and this one dies
with its parent.

    with Hosts(3, tmp_path) as hosts:
        process = hosts[1].start(["hostname"], stdout=subprocess.PIPE)
        hosts[2].unplug()
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

# Above 127.*: which end of a gloo pair dials goes by their addresses, and a host that offers its loopback by mistake is dialled only by a greater one.
NETWORK = "192.168.77"
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "tc", "mount", "hostname")
_READY = "ready"
# First process of a host: nothing of the set-up reaches outside of its namespaces (private mounts). It takes over orphans, as init does.
_FIRST = """
set -e
hostname "$1"
ip link set lo up
mount -t tmpfs tmpfs /dev/shm
test -z "$2" || mount --bind "$2" /etc/hosts
echo ready
exec "$3" -I -S -c '
import os, time
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
'
"""


def missing() -> str | None:
    """Why there can be no hosts here, or None."""
    if os.geteuid() != 0:
        return "hosts made of network namespaces need root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"hosts made of network namespaces need {', '.join(absent)} (Debian: iproute2, util-linux, hostname)" if absent else None


def check(*command: str) -> str:
    """Run it to its end; its output. Raises with what it said on stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Namespace:
    """Namespaces of their own (network, names, mounts, processes, shared memory), held by a first process. `pid` is that of the first process, as seen
    from outside."""

    def __init__(self, name: str, names_file: Path | None = None) -> None:
        self.name = name
        unshare = ["unshare", "--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        first = ["sh", "-c", _FIRST, "first", name, str(names_file or ""), shutil.which("python3") or "python3"]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *unshare, *first],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != _READY:
            raise RuntimeError(f"the namespaces of {name} were not made: {self._holder.communicate(timeout=10)[1].strip()}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.pid = int(children[0])
        # An open one stays: when all processes of the host are killed, the host still answers its neighbours, with resets.
        self._network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._processes = os.readlink(f"/proc/{self.pid}/ns/pid")

    def enter(self, command: Sequence[str], folder: Path | str = "/") -> list[str]:
        """The command as it runs inside, in this folder."""
        return ["nsenter", "-t", str(self.pid), "-n", "-u", "-m", "-p", "-i", "--", "sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command]

    def inside(self, *command: str) -> str:
        """Run a tool inside to its end; its output."""
        return check(*self.enter(command))

    def in_network(self, *command: str) -> str:
        """The same in its network only, which outlives its processes."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/self/fd/{self._network}", "--", *command],
            pass_fds=[self._network],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} in {self.name} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def processes(self) -> dict[int, int]:
        """The processes inside but the first: pid as seen inside -> pid as seen from outside."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != self.pid:
                with suppress(OSError):
                    if os.readlink(folder / "ns" / "pid") == self._processes:
                        status = (folder / "status").read_text()
                        if "\nState:\tZ" not in status:
                            found[int(status.partition("NSpid:")[2].partition("\n")[0].split()[-1])] = int(folder.name)
        return found

    def close(self) -> None:
        """End everything inside. May be called twice."""
        self._holder.kill()  # and with it, by --kill-child, the first process, and by the kernel all others
        self._holder.communicate()
        if self._network >= 0:
            os.close(self._network)
            self._network = -1


class Host(Namespace):
    """One host. `number` from 0, `address` on the common network, `folder` its own."""

    def __init__(self, number: int, folder: Path, names_file: Path, switch: Namespace) -> None:
        self.number = number
        self.address = f"{NETWORK}.{number + 1}"
        self.folder = folder
        self._port = f"port{number}"
        self._switch = switch
        super().__init__(f"node{number + 1}", names_file)

    def connect(self) -> None:
        """Its interface eth1 on the switch."""
        # In the switch's network only: inside of all its namespaces nobody could see this host's process, by which its network is named.
        self._switch.in_network("ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth1", "netns", str(self.pid))
        self._switch.in_network("ip", "link", "set", self._port, "master", "switch", "up")
        self.inside("ip", "address", "add", f"{self.address}/24", "dev", "eth1")
        self.inside("ip", "link", "set", "eth1", "up")

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None, **popen: Any) -> subprocess.Popen[str]:
        """The command, in the host's folder and with a TMPDIR of its own. The process that is returned stands outside and ends as the command does; a
        signal to it does not reach the command (see `processes`)."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return subprocess.Popen(
            self.enter(command, self.folder),
            env={**os.environ, "TMPDIR": str(temporary), **(environment or {})},
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            **popen,
        )

    def unplug(self) -> None:
        """The cable out: what was sent is lost, nobody is told."""
        self._switch.in_network("ip", "link", "set", self._port, "down")

    def plug_in(self) -> None:
        self._switch.in_network("ip", "link", "set", self._port, "up")

    def shape(self, rate: str, burst: str = "64kb") -> None:
        """Both directions of its link to this rate (as tc writes it, "20mbit"). tbf shapes what is sent, so each end has one."""
        for end, interface in ((self, "eth1"), (self._switch, self._port)):
            end.in_network("tc", "qdisc", "replace", "dev", interface, "root", "tbf", "rate", rate, "burst", burst, "latency", "50ms")

    def kill_all(self) -> None:
        """SIGKILL to every process of the host. Its network stays and answers with resets."""
        os.kill(self.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while self.processes() and time.monotonic() < end:
            time.sleep(0.01)


class Hosts:
    """`number` hosts and the switch between them; each host's folder is `folder`/node1 and so on. With `own_name_is_local` each host takes its own name for
    127.0.1.1, as Debian's installer sets it up."""

    def __init__(self, number: int, folder: Path, own_name_is_local: bool = False) -> None:
        self._number = number
        self._own_name_is_local = own_name_is_local
        self._folder = folder
        self._stack = ExitStack()
        self._hosts: list[Host] = []

    def __enter__(self) -> Hosts:
        with ExitStack() as stack:
            switch = Namespace("switch")
            stack.callback(switch.close)
            switch.inside("ip", "link", "add", "switch", "type", "bridge")
            switch.inside("ip", "link", "set", "switch", "up")
            for number in range(self._number):
                folder = self._folder / f"node{number + 1}"
                folder.mkdir()
                names = folder / "hosts"
                names.write_text(self._names(number))
                host = Host(number, folder, names, switch)
                stack.callback(host.close)
                host.connect()
                self._hosts.append(host)
            self._stack = stack.pop_all()
        return self

    def _names(self, number: int) -> str:
        """/etc/hosts of one of them."""
        addresses = [f"{NETWORK}.{k + 1}" for k in range(self._number)]
        if self._own_name_is_local:
            addresses[number] = "127.0.1.1"
        return "127.0.0.1 localhost\n" + "".join(f"{address} node{k + 1}\n" for k, address in enumerate(addresses))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._hosts)

    def __getitem__(self, number: int) -> Host:
        return self._hosts[number]
