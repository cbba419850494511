"""What ends a run over several hosts, in mid-run: within 30 s all commands end with a failure, rank 0's names who it was, and all that was measured is kept.

Three hosts with 2 + 1 + 1 accelerators, started by hand so that exit codes are our command's, and under the launchers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import (
    RUN_ID,
    Started,
    assert_whole,
    by_hand,
    command_pid,
    ends,
    leftovers,
    long_line,
    run_line,
    said,
    start,
    summary_of,
    traces_of,
    wait_for_steps,
)

from storagebench.s3server import find_rclone

pytestmark = pytest.mark.cluster

END_WITHIN_S = 30.0
ACCELERATORS = (2, 1, 1)
NUM_SAMPLES = 64
Fault = Callable[[list[Started]], None]


def running(hosts: Any, dataset: str, *more: str) -> list[Started]:
    """The run on three hosts, once rank 0's folder has ten steps of every rank."""
    started = [
        start(hosts[k], long_line(dataset, hosts[k].folder / "results", ACCELERATORS[k], *more), by_hand(k, 3, hosts[0].address)) for k in range(3)
    ]
    try:
        for rank in range(4):
            wait_for_steps(started[0].results / RUN_ID, rank, 10, lambda: all(each.process.poll() is None for each in started))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{said(started)}") from None
    return started


def pid_of(started: list[Started], host: int, rank: int) -> int:
    """The rank's process as seen from outside. Its trace has the number that it has on its host."""
    inside = wait_for_steps(started[host].results / RUN_ID, rank, 1, lambda: True)["pid"]
    found: int = started[host].host.processes()[inside]
    return found


def kill_a_rank(started: list[Started]) -> None:
    os.kill(pid_of(started, 0, 1), signal.SIGKILL)


def kill_a_command(started: list[Started]) -> None:
    os.kill(command_pid(started[2], 2), signal.SIGKILL)


def kill_a_host(started: list[Started]) -> None:
    started[1].host.kill_all()


def pull_a_cable(started: list[Started]) -> None:
    started[2].host.unplug()


FAULTS = {
    # what is done, exit codes, what rank 0 says
    "a rank": (kill_a_rank, [5, 5, 5], ["rank 1 of 4", "SIGKILL"]),
    "a command": (kill_a_command, [5, 5, -signal.SIGKILL], ["lost", "node3"]),
    "all of a host": (kill_a_host, [5, -signal.SIGKILL, 5], ["lost", "node2"]),
    "a cable": (pull_a_cable, [5, 5, 5], ["lost", "node3"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_end_is_soon_named_and_kept(name: str, make_hosts: Any, make_dataset: Any, cli: Any) -> None:
    fault, codes, words = FAULTS[name]
    dataset, _ = make_dataset()
    hosts = make_hosts(3)
    started = running(hosts, dataset)
    fault(started)
    begin = time.monotonic()
    assert ends(started, END_WITHIN_S) == codes, said(started)
    print(f"{name}: all ended {time.monotonic() - begin:.1f} s after the fault")
    errors = [line for line in started[0].err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and all(word in errors[0] for word in words), said(started)
    assert "Traceback" not in "".join(each.err for each in started)
    assert [leftovers(host) for host in hosts] == [[], [], []]
    assert_kept(started[0].results, cli)


def assert_kept(results: Path, cli: Any) -> None:
    """The report of rank 0's folder has the steps so far of every rank."""
    shown = cli("report", str(results / RUN_ID))
    assert shown.returncode == 0, shown.stderr
    assert "INCOMPLETE" in shown.stdout
    summary = summary_of(results)
    assert (summary["status"], summary["valid"], summary["exit_code"]) == ("incomplete", False, 5)
    assert [row["rank"] for row in summary["per_rank"]] == [0, 1, 2, 3]
    assert traces_of(results) == {0, 1, 2, 3}
    assert summary["samples"] >= 4 * 10 * 2  # ten steps of two on each of four


def test_without_the_host_of_rank_0_the_others_end(make_hosts: Any, make_dataset: Any, cli: Any) -> None:
    dataset, _ = make_dataset()
    hosts = make_hosts(3)
    started = running(hosts, dataset)
    hosts[0].kill_all()
    assert ends(started, END_WITHIN_S) == [-signal.SIGKILL, 5, 5], said(started)
    for each in started[1:]:
        assert "node1" in each.err and "Traceback" not in each.err
    shown = cli("report", str(started[0].results / RUN_ID))
    assert shown.returncode == 0 and "INCOMPLETE" in shown.stdout, shown.stderr


def test_torchrun_with_a_lost_host_ends_everywhere(make_hosts: Any, torchrun: Any, make_dataset: Any, cli: Any) -> None:
    """Its own agent is among what is killed."""
    dataset, _ = make_dataset()
    hosts = make_hosts(3)
    started = [start(hosts[k], torchrun(hosts, k, ACCELERATORS[k], *long_line(dataset, hosts[k].folder / "results", 1))) for k in range(3)]
    for rank in range(4):
        wait_for_steps(started[0].results / RUN_ID, rank, 10, lambda: all(each.process.poll() is None for each in started))
    hosts[2].kill_all()
    codes = ends(started, END_WITHIN_S)
    assert 0 not in codes, said(started)
    assert "node3" in started[0].err, said(started)
    assert_kept(started[0].results, cli)


def members_running(results: Path, ranks: int, process: subprocess.Popen[str], rig: Any) -> list[int]:
    """The commands of the members as seen from outside, once every rank has ten steps."""
    for rank in range(ranks):
        wait_for_steps(results / RUN_ID, rank, 10, lambda: process.poll() is None)
    inside = rig.processes()
    return [inside[row["pid"]] for row in json.loads((results / RUN_ID / "run.json").read_text())["members"]]


def test_srun_ends_when_a_member_is_killed(slurm: Any, make_dataset: Any, cli: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    process = slurm.start("srun", "-N2", "-n4", *long_line(dataset, tmp_path / "results", 1), folder=tmp_path)
    os.kill(members_running(tmp_path / "results", 4, process, slurm)[3], signal.SIGKILL)
    out, err = process.communicate(timeout=END_WITHIN_S)
    assert process.returncode != 0, (out, err)
    assert "error: lost rank 3 on host rig2" in err, err
    assert_kept(tmp_path / "results", cli)


@pytest.mark.nightly
def test_mpirun_ends_when_a_member_is_killed(machine: Any, mpirun: list[str], make_dataset: Any, cli: Any, tmp_path: Path) -> None:
    """mpirun says itself who was killed, and gives the others one second (odls_base_sigkill_timeout) to end."""
    dataset, _ = make_dataset()
    line = [*mpirun, "-np", "3", *long_line(dataset, tmp_path / "results", 1)]
    process = subprocess.Popen(machine.enter(line, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    os.kill(members_running(tmp_path / "results", 3, process, machine)[2], signal.SIGKILL)
    out, err = process.communicate(timeout=END_WITHIN_S)
    assert process.returncode != 0, (out, err)
    assert "process rank 2" in err and "signal 9" in err, err
    assert leftovers(machine) == []
    shown = cli("report", str(tmp_path / "results" / RUN_ID))
    assert shown.returncode == 0 and "INCOMPLETE" in shown.stdout, shown.stderr
    assert traces_of(tmp_path / "results") == {0, 1, 2}


def test_what_is_slow_is_not_lost(make_hosts: Any, make_dataset: Any) -> None:
    """A link that is away for 4 s, and a rank that stands still for longer than a host may be silent (10 s), as in a long fetch."""
    dataset, _ = make_dataset()
    hosts = make_hosts(3)
    started = running(hosts, dataset, "--epochs", "50")  # 400 steps of 20 ms
    hosts[1].unplug()
    time.sleep(4)
    hosts[1].plug_in()
    wait_for_steps(started[0].results / RUN_ID, 0, 150, lambda: started[0].process.poll() is None)
    pid = pid_of(started, 2, 3)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(12)
    os.kill(pid, signal.SIGCONT)
    assert ends(started, 90) == [0, 0, 0], said(started)
    summary = summary_of(started[0].results)
    assert_whole(summary, 4, 3, NUM_SAMPLES, 50)
    assert summary["wall_s"] > 16 + 400 * 0.02


@pytest.mark.nightly
def test_a_cable_is_missed_while_traces_queue_up_behind_it(make_hosts: Any, make_dataset: Any) -> None:
    """A step of 1 ms makes more trace than a link of 400 kbit/s takes, so the sender always waits; that must not keep it from noticing the silence."""
    dataset, _ = make_dataset(format="tfrecord", num_samples=40_000, samples_per_shard=10_000, record_length_bytes=600, record_length_bytes_stdev=0)
    hosts = make_hosts(2)
    hosts[1].shape("400kbit", burst="8kb")
    fast = ["--loader", "null", "--verify", "off", "--sync", "none", "--compute-time", "1ms", "--batch-size", "1"]
    started = [start(hosts[k], long_line(dataset, hosts[k].folder / "results", 1, *fast), by_hand(k, 2, hosts[0].address)) for k in range(2)]
    try:
        wait_for_steps(started[1].results / RUN_ID, 1, 5000, lambda: started[1].process.poll() is None)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{said(started)}") from None
    hosts[1].unplug()
    begin = time.monotonic()
    assert ends(started, END_WITHIN_S) == [5, 5], said(started)
    print(f"a cable behind a queue: {time.monotonic() - begin:.1f} s")
    assert "node2" in started[0].err and "node1" in started[1].err, said(started)


def test_a_host_behind_a_slow_link_is_named(make_hosts: Any, make_dataset: Any, tmp_path: Path) -> None:
    """The dataset comes over S3 from a fourth host; the link of the third is slowed to 3 Mbit/s, where a step of 100 kB takes 0.27 s."""
    rclone = find_rclone()
    dataset, _ = make_dataset(record_length_bytes=50_000, record_length_bytes_stdev=0)
    hosts = make_hosts(4)
    store = hosts[3]
    (tmp_path / "served" / "bench").mkdir(parents=True)
    (tmp_path / "served" / "bench" / "data").symlink_to(dataset)
    key, secret = "rig", "of-one-test"
    serve = [rclone, "serve", "s3", "--addr", f"{store.address}:9000", "--auth-key", f"{key},{secret}", "--copy-links", "--etag-hash", ""]
    server = start(store, [*serve, str(tmp_path / "served")], name="server")
    hosts[2].shape("3mbit")
    environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1"}
    end = time.monotonic() + 15
    knock = [sys.executable, "-c", f"import socket; socket.create_connection(('{store.address}', 9000), 1)"]
    while hosts[0].start(knock, stderr=subprocess.DEVNULL).wait(5) and time.monotonic() < end:
        time.sleep(0.1)
    started = [
        start(
            hosts[k],
            run_line(
                "s3://bench/data",
                hosts[k].folder / "results",
                ACCELERATORS[k],
                "--storage-option",
                f"endpoint_url=http://{store.address}:9000",
                "--epochs",
                "3",
            ),
            {**environment, **by_hand(k, 3, hosts[0].address)},
        )
        for k in range(3)
    ]
    assert ends(started, 90) == [0, 0, 0], said([*started, server])
    summary = summary_of(started[0].results)
    told = [finding for finding in summary["findings"] if "straggl" in (finding["code"] + finding["message"]).lower()]
    assert told and "node3" in told[0]["message"], summary["findings"]
    assert not any(name in told[0]["message"] for name in ("node1", "node2"))
