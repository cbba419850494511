"""Ranks' processes, and their death. One process is this one; several go through torch's own elastic launcher and join over gloo.

Whatever ends a run - its end, a dead rank, a signal - nothing of it survives: descendants are swept, and ranks die with their parent. A rank's death
is told by its process (elastic looks ten times a second), never by a collective's timeout, so a slow fetch ends no run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from storagebench.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_RANK, EXIT_TERMINATED, InterruptedRunError, RankError
from storagebench.process import adopt_orphans, spare_descendants, start_fork_server, sweep

_MONITOR_PERIOD_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """How the ranks' processes ended: the exit code, and for a failure which process and how."""

    exit_code: int
    failed_process: int | None = None
    reason: str = ""


class Interrupted(InterruptedRunError):
    """SIGINT or SIGTERM reached the command; `exit_code` is 130 or 143."""

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"the run was ended by {name}", "the steps taken so far are kept: see `storagebench report`")
        self.exit_code = EXIT_INTERRUPTED if signum == signal.SIGINT else EXIT_TERMINATED


@contextmanager
def handling_signals() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP kill all descendants at once and raise `Interrupted` in the main thread."""

    def handle(signum: int, _frame: object) -> NoReturn:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        sweep()
        raise Interrupted(signum)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_ranks(entry: Callable[[str, int], int], argument: str, num_processes: int, needs_workers: bool, debug: bool, alone: bool = True) -> Outcome:
    """Run `entry(argument, index)` in every process of the ranks; `entry` returns the exit code and is importable by name.

    A single one is this process, unless other commands take part (`alone`), which it has to hear meanwhile. Raises `Interrupted` on a signal (inside `handling_signals`); any other end is an Outcome.
    """
    adopt_orphans()
    in_here = num_processes == 1 and alone
    if not in_here or needs_workers:
        start_fork_server()
    spare_descendants()
    try:
        if in_here:
            code = entry(argument, 0)
            return Outcome(code, 0 if code else None)
        return _elastic(entry, argument, num_processes, debug)
    finally:
        sweep()


def _elastic(entry: Callable[[str, int], int], argument: str, num_processes: int, debug: bool) -> Outcome:
    if not debug:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        warnings.filterwarnings("ignore", module="torch")
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if not debug:
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a dead rank is told by us, in one sentence
    with tempfile.TemporaryDirectory(prefix="storagebench-elastic-") as log_dir:
        # SIGINT and SIGTERM are ours (see handling_signals); elastic wants at least one name.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
        newer = {"signals_to_handle": "SIGQUIT"} if "signals_to_handle" in LaunchConfig.__dataclass_fields__ else {}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            run_id=f"storagebench-{os.getpid()}",
            max_restarts=0,
            monitor_interval=_MONITOR_PERIOD_S,
            start_method="forkserver",
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=log_dir),
            **newer,
        )
        try:
            elastic_launch(config, rank_process)(entry, argument)
        except ChildFailedError as error:
            return _first_failure(error)
    return Outcome(EXIT_OK)


def _first_failure(error: Any) -> Outcome:
    """The rank that failed first; one killed by a signal before one that only lost its peer."""
    failures = sorted(error.failures.values(), key=lambda failure: (failure.exitcode >= 0, failure.timestamp))
    first = failures[0]
    if first.exitcode < 0:
        return Outcome(EXIT_RANK, int(first.local_rank), f"killed by {signal.Signals(-first.exitcode).name}")
    return Outcome(int(first.exitcode) or EXIT_RANK, int(first.local_rank), f"ended with exit code {first.exitcode}")


def rank_process(entry: Callable[[str, int], int], argument: str) -> None:
    """First code of a rank's process. It leads a session of its own, dies with its parent, and dies at once on a signal: each record of its trace
    has reached the kernel, so there is nothing to save."""
    from storagebench.process import die_with_parent

    os.setsid()
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    code = entry(argument, int(os.environ["LOCAL_RANK"]))
    if code:
        sys.stderr.flush()
        os._exit(code)


def rank_failure(failed: range, world_size: int, where: str, reason: str) -> RankError:
    """The error that the user reads when the process of these ranks is gone; `where` is " on host NAME", or nothing on a single host."""
    which = f"rank {failed[0]}" if len(failed) == 1 else f"the process of ranks {failed[0]} to {failed[-1]}"
    return RankError(
        f"{which} of {world_size}{where} {reason}; the run was ended",
        "look for the kernel's OOM killer (dmesg) or a signal sent by hand; the steps taken so far are kept: see `storagebench report`",
    )
