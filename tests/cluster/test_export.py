"""Exported manifests for several hosts, without a cluster: each pod is a host of the rig that starts the manifest's command with the manifest's environment,
and what Kubernetes and the operators add to it is added here. A line in the hosts file stands for the record that the headless Service gives to pod 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import RUN_ID, STORAGEBENCH, assert_whole, ends, run_line, said, start

pytestmark = pytest.mark.cluster

NUM_SAMPLES = 64


def pods(part: Any) -> Iterator[dict[str, Any]]:
    """Specs of pods anywhere in a document."""
    if isinstance(part, dict):
        if "containers" in part:
            yield part
        for item in part.values():
            yield from pods(item)
    elif isinstance(part, list):
        for item in part:
            yield from pods(item)


def exported(target: str, dataset: str, cli: Any) -> list[dict[str, Any]]:
    line = run_line(dataset, "", None)
    asked = line[line.index("quick") :]
    for option in ("--results-dir", "--run-id"):
        at = asked.index(option)
        del asked[at : at + 2]
    place = [
        "--num-hosts",
        "2",
        "--accelerators-per-host",
        "2",
        "--name",
        RUN_ID,
        "--image",
        "x",
        "--pvc",
        "data",
        "--mount-path",
        str(Path(dataset).parent),
    ]
    done = cli("export", *asked, "--target", target, *place)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def run_pods(hosts: Any, command: list[str], environments: list[dict[str, str]]) -> Path:
    """The command in both pods to its end; the run folder of member 0."""
    started = []
    for number, environment in enumerate(environments):
        host = hosts[number]
        words = [word.replace("/results", str(host.folder)).replace("$(POD_NAME)", f"pod{number}") for word in command]
        at = words.index("storagebench")
        program = [sys.executable, "-P", "-m", "torch.distributed.run", *words[1:at]] if words[0] == "torchrun" else []
        started.append(start(host, [*program, *STORAGEBENCH, *words[at + 1 :]], environment))
    assert ends(started, 120) == [0, 0], said(started)
    return Path(hosts[0].folder / "pod0" / RUN_ID)


def assert_one_run(run_dir: Path) -> None:
    assert_whole(json.loads((run_dir / "summary.json").read_text()), 4, 2, NUM_SAMPLES)


def stated(pod: dict[str, Any]) -> dict[str, str]:
    """The variables whose values stand in the manifest."""
    return {item["name"]: item["value"] for item in pod["containers"][0]["env"] if "value" in item}


def name_of_pod_0(hosts: Any, name: str) -> None:
    for host in hosts:
        with (host.folder / "hosts").open("a") as file:
            file.write(f"{hosts[0].address} {name}\n")


@pytest.mark.parametrize("target", ["jobset", *(pytest.param(target, marks=pytest.mark.nightly) for target in ("job", "kueue"))])
def test_pods_of_an_indexed_job_are_one_run(target: str, make_hosts: Any, make_dataset: Any, cli: Any, tmp_path: Path) -> None:
    dataset, _ = make_dataset()
    hosts = make_hosts(2)
    (pod,) = pods(exported(target, dataset, cli))
    name_of_pod_0(hosts, stated(pod)["MASTER_ADDR"])
    environments = [{**stated(pod), "JOB_COMPLETION_INDEX": str(index)} for index in range(2)]
    assert_one_run(run_pods(hosts, pod["containers"][0]["command"], environments))


@pytest.mark.nightly
def test_pods_of_a_pytorchjob_are_one_run(make_hosts: Any, make_dataset: Any, cli: Any, tmp_path: Path) -> None:
    """training-operator, envvar.go: MASTER_ADDR is the master's name, RANK 0 the master, WORLD_SIZE the pods times nprocPerNode."""
    dataset, _ = make_dataset()
    hosts = make_hosts(2)
    found = list(pods(exported("pytorchjob", dataset, cli)))
    assert len(found) == 2 and found[0]["containers"][0]["command"] == found[1]["containers"][0]["command"]
    name_of_pod_0(hosts, f"{RUN_ID}-master-0")
    operator = {"MASTER_ADDR": f"{RUN_ID}-master-0", "MASTER_PORT": "23456", "WORLD_SIZE": "2"}
    environments = [{**stated(pod), **operator, "RANK": str(rank)} for rank, pod in enumerate(found)]
    assert_one_run(run_pods(hosts, found[0]["containers"][0]["command"], environments))


def test_pods_of_a_trainjob_are_one_run(make_hosts: Any, make_dataset: Any, cli: Any, tmp_path: Path) -> None:
    """Trainer v2, torch plugin: PET_* for torchrun, numProcPerNode processes a node. Its pods are Indexed, too, and torchrun's word comes first."""
    dataset, _ = make_dataset()
    hosts = make_hosts(2)
    runtime, train = exported("trainjob", dataset, cli)
    name = f"{RUN_ID}-node-0-0.{RUN_ID}"
    name_of_pod_0(hosts, name)
    trainer = train["spec"]["trainer"]
    (pod,) = pods(runtime)
    plugin = {
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_MASTER_ADDR": name,
        "PET_MASTER_PORT": "29400",
    }
    numbers = [
        {"PET_NODE_RANK": str(node), "JOB_COMPLETION_INDEX": str(node), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        for node in range(2)
    ]
    assert_one_run(run_pods(hosts, trainer["command"], [{**stated(pod), **plugin, **number} for number in numbers]))
