"""`storagebench run` as several members on the rigs: what is started, how it is waited for, and what every good run over hosts has in common."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from namespaces import Host, Namespace

from storagebench.records import rank_trace_path
from storagebench.traces import read_trace

STORAGEBENCH = [sys.executable, "-P", "-m", "storagebench"]
RUN_ID = "r"
_PORT = "29500"


def run_line(dataset: str, results: Path | str, accelerators: int | None = 1, *more: str) -> list[str]:
    """A run that is short, whole and verified."""
    own = [] if accelerators is None else ["--num-accelerators", str(accelerators)]
    return [
        *STORAGEBENCH, "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", RUN_ID, "--loader", "direct", "--cache", "as-is",
        "--compute-time", "10ms", "--epochs", "2", "--batch-size", "2", "--num-workers", "1", "--verify", "full", "--null-duration", "0.2s",
        "--headroom-duration", "0", *own, *more,
    ]  # fmt: skip


def long_line(dataset: str, results: Path | str, accelerators: int, *more: str) -> list[str]:
    """A run that only a fault ends within the time of a test."""
    return run_line(dataset, results, accelerators, "--compute-time", "20ms", "--epochs", "2000", "--null-duration", "0", *more)


def by_hand(member: int, num_members: int, address: str) -> dict[str, str]:
    """The variables that somebody sets who starts the members himself, so that our command is the parent and its exit code is seen."""
    return {"RANK": str(member), "WORLD_SIZE": str(num_members), "MASTER_ADDR": address, "MASTER_PORT": _PORT}


@dataclass(frozen=True)
class Started:
    """A command on a host, its output in files of the host's folder."""

    host: Host
    process: subprocess.Popen[str]
    name: str

    @property
    def out(self) -> str:
        return (self.host.folder / f"{self.name}.out").read_text()

    @property
    def err(self) -> str:
        return (self.host.folder / f"{self.name}.err").read_text()

    @property
    def results(self) -> Path:
        return self.host.folder / "results"


def start(host: Host, line: Sequence[str], environment: Mapping[str, str] | None = None, name: str = "command") -> Started:
    with (host.folder / f"{name}.out").open("w") as out, (host.folder / f"{name}.err").open("w") as err:
        return Started(host, host.start(line, environment, stdout=out, stderr=err), name)


def ends(started: Sequence[Started], within_s: float) -> list[int]:
    """Wait for all; their exit codes. Fails with what they said if one outlasts the limit."""
    end = time.monotonic() + within_s
    while any(each.process.poll() is None for each in started):
        assert time.monotonic() < end, f"not ended within {within_s} s:\n{said(started)}"
        time.sleep(0.05)
    return [each.process.returncode for each in started]


def said(started: Sequence[Started]) -> str:
    return "\n".join(f"-- {each.host.name} {each.process.poll()}\n{each.out[-1500:]}\n{each.err[-3000:]}" for each in started)


def wait_for_steps(run_dir: Path, rank: int, steps: int, alive: Callable[[], bool], limit_s: float = 60) -> dict[str, Any]:
    """The rank's header, once its trace in that folder has so many steps."""
    path = rank_trace_path(run_dir, rank)
    end = time.monotonic() + limit_s
    while time.monotonic() < end and alive():
        if path.exists():
            trace = read_trace(path)
            if sum(step.kind != "null" for step in trace.steps) >= steps:
                return dict(trace.header)
        time.sleep(0.05)
    raise AssertionError(f"rank {rank} did not take {steps} steps within {limit_s} s, or its command ended")


def command_pid(started: Started, member: int) -> int:
    """The command of a member, running on that host, as seen from outside: `run.json` has the number that it has inside."""
    members = json.loads((started.results / RUN_ID / "run.json").read_text())["members"]
    found: int = started.host.processes()[members[member]["pid"]]
    return found


def leftovers(host: Namespace, within_s: float = 5.0) -> list[str]:
    """The command lines of what still runs there after a while: what dies with its parent needs a moment."""
    end = time.monotonic() + within_s
    while host.processes() and time.monotonic() < end:
        time.sleep(0.05)
    found = []
    for pid in host.processes().values():
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return found


def summary_of(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / RUN_ID / "summary.json").read_text())
    return found


def assert_whole(summary: Mapping[str, Any], ranks: int, hosts: int, samples: int, epochs: int = 2) -> None:
    """Complete, of every rank, every sample exactly once an epoch, every one verified."""
    assert (summary["status"], summary["exit_code"], summary["valid"]) == ("complete", 0, True), summary["findings"]
    assert (summary["world_size"], summary["num_hosts"]) == (ranks, hosts)
    assert [row["rank"] for row in summary["per_rank"]] == list(range(ranks))
    assert len(summary["per_host"]) == hosts
    assert summary["samples"] + summary["dropped_samples"] == samples * epochs
    assert summary["verified_samples"] == summary["samples"]
    assert [summary[key] for key in ("missing_samples", "duplicate_samples", "checksum_errors", "dropped_samples")] == [0, 0, 0, 0]
    assert 0 < summary["au_nominal"] <= 1


def traces_of(results: Path) -> set[int]:
    """The ranks whose traces lie in that folder with steps in them."""
    paths = (results / RUN_ID / "trace").glob("rank-*.jsonl")
    return {int(path.stem.removeprefix("rank-")) for path in paths if read_trace(path).steps}
