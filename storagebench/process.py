"""Processes and their death: nothing that storagebench starts outlives it. No import of torch here; see `storagebench.launch` for ranks."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_LIMIT_S = 10.0
_QUIET_TRACKER = "ignore:resource_tracker:UserWarning"
_FIRST_PROCESS = "STORAGEBENCH_FIRST_PROCESS"


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends; at once if it has already ended.

    Process 1 takes over orphans, unless it is the command itself, as in a container: then it may be the parent, and when it ends the kernel ends all.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1 and _FIRST_PROCESS not in os.environ:
        os._exit(1)


def _tell_children() -> None:
    """Whether this is process 1, in the environment that all of ours inherit."""
    if os.getpid() == 1:
        os.environ[_FIRST_PROCESS] = "1"


def child_environment() -> dict[str, str]:
    """The environment for a Python process of ours that is started with `-P`: it imports this storagebench."""
    _tell_children()
    package = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that `sweep` finds them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def fork_server_context() -> Any:
    """The context for worker processes: forkserver, with torch and the worker code preloaded."""
    _tell_children()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["storagebench._forkserver", "torch", "torch.utils.data", "storagebench.loaders.torch_workers"])
    return context


def start_fork_server() -> None:
    """Start it now, so that it imports torch while this process does something else.

    Python's resource tracker starts with it. It frees the semaphores of processes that we kill, and would say so on the user's terminal.
    """
    if _QUIET_TRACKER not in sys.warnoptions:
        sys.warnoptions.append(_QUIET_TRACKER)
    fork_server_context()
    from multiprocessing import forkserver

    forkserver.ensure_running()


_spared: set[int] = set()


def spare_descendants() -> None:
    """What runs now (the fork server, an S3 server of the demo) is not the run's, and `sweep` leaves it alone. It dies with this process."""
    _spared.clear()
    _spared.update(child.pid for child in psutil.Process().children(recursive=True))


def sweep() -> list[int]:
    """SIGKILL all descendants of this process but the spared ones until there is none, and reap them; the pids that were killed."""
    me = psutil.Process()
    killed: list[int] = []
    end = time.monotonic() + _SWEEP_LIMIT_S
    while time.monotonic() < end:
        alive = [child for child in me.children(recursive=True) if child.pid not in _spared and _alive(child)]
        if not alive:
            break
        for child in alive:
            try:
                child.kill()
                killed.append(child.pid)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=1.0)
        for pid in killed:
            _reap(pid)
    return killed


def _alive(child: psutil.Process) -> bool:
    try:
        return bool(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    """Take an adopted orphan's exit status, so that it is no zombie; a child of someone else is theirs to reap."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
