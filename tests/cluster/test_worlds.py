"""One run of several commands: under torchrun over hosts of different size, under srun, in a batch script, under mpirun. One summary, at rank 0.

64 samples, batches of 2: the global batch of 4 ranks divides the dataset, so every sample is to come exactly once an epoch.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import RUN_ID, STORAGEBENCH, assert_whole, by_hand, ends, run_line, said, start, summary_of, traces_of

pytestmark = pytest.mark.cluster

NUM_SAMPLES = 64


def assert_told_once(started: list[commands.Started]) -> None:
    """Rank 0's command prints the run's page, the others nothing."""
    assert "AU" in started[0].out, said(started)
    assert [each.out for each in started[1:]] == [""] * (len(started) - 1)


def test_torchrun_over_hosts_of_different_size(make_hosts: Any, torchrun: Any, make_dataset: Any, cli: Any) -> None:
    """2 + 1 + 1 members of one accelerator each; each host writes to a folder of its own."""
    dataset, _ = make_dataset()
    hosts = make_hosts(3)
    members = (2, 1, 1)
    started = [
        start(hosts[k], torchrun(hosts, k, members[k], *run_line(dataset, hosts[k].folder / "results", None, "--cache", "cold"))) for k in range(3)
    ]
    assert ends(started, 90) == [0, 0, 0], said(started)
    assert_told_once(started)
    summary = summary_of(started[0].results)
    assert_whole(summary, 4, 3, NUM_SAMPLES)
    assert [row["host"] for row in summary["per_rank"]] == ["node1", "node1", "node2", "node3"]
    assert traces_of(started[0].results) == {0, 1, 2, 3}
    assert 2 in traces_of(started[1].results) and 3 in traces_of(started[2].results)
    # Measure, save, then judge: what was gathered is enough for the same summary, byte for byte.
    path = started[0].results / RUN_ID / "summary.json"
    before = path.read_bytes()
    path.unlink()
    assert cli("report", str(path.parent)).returncode == 0
    assert path.read_bytes() == before


def test_members_with_several_accelerators_started_by_hand(make_hosts: Any, make_dataset: Any) -> None:
    """Two hosts with 3 + 1 accelerators, one command on each, its variables set as a Kubernetes Job sets them."""
    dataset, _ = make_dataset()
    hosts = make_hosts(2)
    started = [
        start(hosts[k], run_line(dataset, hosts[k].folder / "results", accelerators, "--json"), by_hand(k, 2, "node1"))
        for k, accelerators in enumerate((3, 1))
    ]
    assert ends(started, 60) == [0, 0], said(started)
    assert started[1].out == ""
    printed = json.loads(started[0].out)
    assert_whole(printed, 4, 2, NUM_SAMPLES)
    assert [row["host"] for row in printed["per_rank"]] == ["node1"] * 3 + ["node2"]
    assert (traces_of(started[0].results), traces_of(started[1].results)) == ({0, 1, 2, 3}, {3})


@pytest.mark.parametrize("own_name", ["localhost", pytest.param("node1", marks=pytest.mark.nightly)])
def test_a_first_member_whose_address_is_loopback_to_itself(own_name: str, make_hosts: Any, make_dataset: Any) -> None:
    """Kubeflow's PyTorchJob sets MASTER_ADDR to localhost in its master pod, and to the master's name in the others. And Debian's installer lets a host take
    its own name for 127.0.1.1. A second member on the first host sees what the first one sees."""
    dataset, _ = make_dataset()
    hosts = make_hosts(2, own_name_is_local=True)
    places = [(hosts[0], own_name), (hosts[0], own_name), (hosts[1], "node1")]
    started = [
        start(host, run_line(dataset, host.folder / "results", 2 if k == 0 else 1), by_hand(k, 3, address), f"member{k}")
        for k, (host, address) in enumerate(places)
    ]
    assert ends(started, 90) == [0, 0, 0], said(started)
    assert_whole(summary_of(started[0].results), 4, 2, NUM_SAMPLES)


@pytest.mark.nightly
def test_one_member_is_as_alone(make_hosts: Any, torchrun: Any, make_dataset: Any) -> None:
    dataset, _ = make_dataset()
    hosts = make_hosts(1)
    started = [start(hosts[0], torchrun(hosts, 0, 1, *run_line(dataset, hosts[0].folder / "results", 2)))]
    assert ends(started, 60) == [0], said(started)
    assert_told_once(started)
    assert_whole(summary_of(started[0].results), 2, 1, NUM_SAMPLES)


def test_members_that_ask_for_different_runs_are_refused(make_hosts: Any, make_dataset: Any) -> None:
    dataset, _ = make_dataset()
    hosts = make_hosts(2)
    started = [
        start(hosts[k], run_line(dataset, hosts[k].folder / "results", 1, "--batch-size", batch), by_hand(k, 2, "node1"))
        for k, batch in enumerate("24")
    ]
    assert ends(started, 60) == [2, 2], said(started)
    assert "batch_size" in started[0].err and "node2" in started[0].err, said(started)


def test_srun_over_two_nodes(slurm: Any, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    done = slurm.run("srun", "-N2", "-n4", *run_line(dataset, tmp_path / "results", None), folder=tmp_path)
    assert done.returncode == 0, done.stderr + slurm.logs()
    assert done.stdout.count("AU") >= 1 and done.stdout.count(RUN_ID) >= 1
    summary = summary_of(tmp_path / "results")
    assert_whole(summary, 4, 2, NUM_SAMPLES)
    assert {row["host"] for row in summary["per_rank"]} == {"rig1", "rig2"}


def test_mpirun_on_one_host(machine: Any, mpirun: list[str], make_dataset: Any, tmp_path: Path) -> None:
    """Three members with one results directory between them. 64 samples are not whole global batches of 6, so the last one is kept."""
    dataset, _ = make_dataset()
    line = [*mpirun, "-np", "3", *run_line(dataset, tmp_path / "results", None, "--remainder", "keep")]
    done = subprocess.run(machine.enter(line, tmp_path), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert_whole(summary_of(tmp_path / "results"), 3, 1, NUM_SAMPLES)


@pytest.mark.nightly
def test_mpirun_in_a_batch_script_over_two_nodes(slurm: Any, make_dataset: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    script = tmp_path / "job.sh"
    mpi = ["mpirun", "--allow-run-as-root", "-x", "MASTER_ADDR=rig1", *run_line(dataset, tmp_path / "results", None)]
    script.write_text(f"#!/bin/sh\n#SBATCH -N2 -n4\n{shlex.join(mpi)}\n")
    assert slurm.batch(script, tmp_path) == 0, (tmp_path / "job.out").read_text() + slurm.logs()
    assert_whole(summary_of(tmp_path / "results"), 4, 2, NUM_SAMPLES)


def test_the_exported_batch_script_runs(slurm: Any, make_dataset: Any, cli: Any, tmp_path: Path) -> None:
    """`export --target slurm`, submitted as it is."""
    dataset, _ = make_dataset()
    line = run_line(dataset, "", None)
    options = [word for option in ("--results-dir", "--run-id") for word in line[line.index(option) : line.index(option) + 2]]
    asked = [word for word in line[line.index("quick") :] if word not in options]
    exported = cli("export", *asked, "--target", "slurm", "--num-hosts", "2", "--accelerators-per-host", "2", "--name", "rig", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    script = tmp_path / "job.sh"
    script.write_text(exported.stdout)
    # `storagebench` as the script calls it.
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "storagebench"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(STORAGEBENCH)} "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "STORAGEBENCH_RESULTS": str(tmp_path / "results")}
    assert slurm.batch(script, tmp_path, environment) == 0, (tmp_path / "job.out").read_text() + slurm.logs()
    (summary,) = (tmp_path / "results").rglob("summary.json")
    assert_whole(json.loads(summary.read_text()), 4, 2, NUM_SAMPLES)
