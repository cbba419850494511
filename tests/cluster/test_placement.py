"""Data that hosts share, have a copy of, or hold a part of: made, verified, probed and read by several commands. A node-local disk is a folder of the host,
mounted at the same path on all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import RUN_ID, STORAGEBENCH, assert_whole, by_hand, ends, run_line, said, start, summary_of
from namespaces import Hosts

from storagebench.build import generate
from storagebench.buildparts import PARTS_FOLDER
from storagebench.configfile import load_workload
from storagebench.manifest import load_dataset
from storagebench.records import rank_trace_path
from storagebench.storage import open_store
from storagebench.traces import read_trace

pytestmark = pytest.mark.cluster

NUM_SAMPLES = 128


def generate_line(data: Path, *more: str, samples: int = NUM_SAMPLES) -> list[str]:
    shape = ["--num-samples", str(samples), "--format", "npz", "--record-length", "3000", "--record-length-stdev", "300"]
    return [*STORAGEBENCH, "generate", "quick", "--data-dir", str(data), *shape, *more]


def alone(folder: Path, samples: int = NUM_SAMPLES) -> Any:
    """The same dataset, made by one process."""
    fields = {"num_samples": samples, "format": "npz", "record_length_bytes": 3000, "record_length_bytes_stdev": 300}
    return generate(load_workload("quick", [(f"dataset.{key}", value, "test") for key, value in fields.items()]).workload, open_store(str(folder)))


def own_disks(hosts: Hosts, path: Path) -> list[Path]:
    """Mounts a folder of each host there; where they lie outside of the hosts."""
    path.mkdir()
    disks = []
    for number in range(len(hosts)):
        disks.append(hosts[number].folder / "disk")
        disks[-1].mkdir()
        hosts[number].inside("mount", "--bind", str(disks[-1]), str(path))
    return disks


def on_all(hosts: Hosts, members: Sequence[int], line: Sequence[str], name: str, environment: dict[str, str] | None = None) -> list[commands.Started]:
    """The line as so many members on each host, by hand: their exit codes are seen."""
    places = [host for host, count in enumerate(members) for _ in range(count)]
    return [
        start(hosts[host], line, {**by_hand(member, len(places), "node1"), **(environment or {})}, f"{name}-{member}")
        for member, host in enumerate(places)
    ]


def shards_on(disk: Path) -> set[str]:
    return {f"shards/{path.name}" for path in (disk / "shards").iterdir()}


def test_partitioned_under_torchrun(make_hosts: Any, torchrun: Any, tmp_path: Path) -> None:
    """2 + 1 members of one accelerator: two thirds of the shards on the first host's disk, the rest on the second's, and each rank reads its own host's."""
    hosts, data = make_hosts(2), tmp_path / "data"
    disks = own_disks(hosts, data)
    lines = {
        "generate": generate_line(data, "--placement", "partitioned", "--json"),
        "verify": [*STORAGEBENCH, "verify", "--data-dir", str(data), "--json"],
    }
    found = {}
    for name, line in lines.items():
        started = [start(hosts[k], torchrun(hosts, k, members, *line), name=name) for k, members in enumerate((2, 1))]
        assert ends(started, 90) == [0, 0], said(started)
        assert started[1].out == ""
        found[name] = json.loads(started[0].out)
    parts = [[0, 85], [85, 128]]
    assert found["generate"]["partition"] == parts and found["generate"]["num_shards"] == NUM_SAMPLES
    assert found["verify"]["whole"] and found["verify"]["problems"] == [] and found["verify"]["read"] == {"node1": parts[0], "node2": parts[1]}
    whole = alone(tmp_path / "alone")
    datasets = [load_dataset(open_store(str(disk))) for disk in disks]
    assert [shards_on(disk) for disk in disks] == [set(whole.names[:85]), set(whole.names[85:])]
    assert [dataset.digest() for dataset in datasets] == [found["generate"]["digest"]] * 2
    assert all(dataset.index.tobytes() == whole.index.tobytes() for dataset in datasets)
    for loader in ("direct",):
        name = f"run-{loader}"
        more = ["--placement", "partitioned", "--cache", "cold", "--remainder", "keep", "--loader", loader]
        started = [
            start(hosts[k], torchrun(hosts, k, members, *run_line(str(data), hosts[k].folder / name, None, *more)), name=name)
            for k, members in enumerate((2, 1))
        ]
        assert ends(started, 120) == [0, 0], said(started)
        assert_whole(summary_of(hosts[0].folder / name), 3, 2, NUM_SAMPLES)
        traces = [read_trace(rank_trace_path(hosts[0].folder / name / RUN_ID, rank)) for rank in range(3)]
        # The page cache is dropped once on each host, whose files are its own part.
        assert [[row["epoch"] for row in trace.of_kind("cache")] for trace in traces] == [[0, 1], [], [0, 1]]
        assert all(row["cached_fraction_before"] == 0 for trace in traces for row in trace.of_kind("cache"))
        assert [sum(row["samples"] for row in trace.of_kind("epoch_end")) for trace in traces] == [2 * 43, 2 * 42, 2 * 43]


@pytest.mark.nightly
def test_a_part_that_is_damaged_and_a_host_that_is_not_there(make_hosts: Any, tmp_path: Path) -> None:
    hosts, data = make_hosts(2), tmp_path / "data"
    disks = own_disks(hosts, data)
    started = on_all(hosts, (1, 1), generate_line(data, "--placement", "partitioned"), "generate")
    assert ends(started, 60) == [0, 0], said(started)
    (disks[1] / "shards" / "000100.npz").unlink()
    started = on_all(hosts, (1, 1), [*STORAGEBENCH, "verify", "--data-dir", str(data)], "verify")
    assert ends(started, 60) == [3, 3], said(started)
    assert "error: host node2: shards/000100.npz: is missing" in started[0].err and started[1].err == ""
    started = [start(hosts[1], [*STORAGEBENCH, "verify", "--data-dir", str(data)], name="own")]
    assert ends(started, 60) == [3], said(started)
    started = on_all(hosts, (1, 1), run_line(str(data), tmp_path / "results", 1, "--placement", "partitioned"), "run")
    assert ends(started, 60) == [3, 3], said(started)
    assert all("host node2: shard shards/000100.npz" in each.err for each in started), said(started)
    started = [start(hosts[0], run_line(str(data), tmp_path / "results", 1, "--placement", "partitioned"), name="by-hand")]
    assert ends(started, 60) == [2], said(started)
    assert "partitioned over 2 hosts, and this runs on one" in started[0].err and "torchrun" in started[0].err


@pytest.mark.nightly
def test_replicated(make_hosts: Any, tmp_path: Path) -> None:
    hosts, data = make_hosts(2), tmp_path / "data"
    disks = own_disks(hosts, data)
    started = on_all(hosts, (2, 1), generate_line(data, "--placement", "replicated"), "generate")
    assert ends(started, 60) == [0, 0, 0], said(started)
    whole = alone(tmp_path / "alone")
    assert [load_dataset(open_store(str(disk))).digest() for disk in disks] == [whole.digest()] * 2
    assert [shards_on(disk) for disk in disks] == [set(whole.names)] * 2
    started = on_all(hosts, (2, 1), [*STORAGEBENCH, "verify", "--data-dir", str(data), "--placement", "replicated"], "verify")
    assert ends(started, 60) == [0, 0, 0], said(started)
    line = run_line(str(data), tmp_path / "results", 1, "--placement", "replicated", "--remainder", "keep", "--cache", "cold")
    started = on_all(hosts, (2, 1), line, "run")
    assert ends(started, 90) == [0, 0, 0], said(started)
    assert_whole(summary_of(tmp_path / "results"), 3, 2, NUM_SAMPLES)
    alone(tmp_path / "other", 64)
    for name in ("manifest.json", "samples.idx"):
        (disks[1] / name).write_bytes((tmp_path / "other" / name).read_bytes())
    verify = [*STORAGEBENCH, "verify", "--data-dir", str(data)]
    for name, command in (("verify-other", verify), ("run-other", [*line, "--run-id", "other"])):
        started = on_all(hosts, (2, 1), command, name)
        assert ends(started, 60) == [3, 3, 3], said(started)
        assert "host node2 has at" in started[0].err, said(started)


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.nightly), 2])
def test_a_killed_member_of_a_shared_generate(make_hosts: Any, tmp_path: Path, lost: int) -> None:
    """SIGKILL of one of three in the middle: the others end within seconds and say whose host it was, and the same command goes on."""
    hosts, data, samples = make_hosts(3), tmp_path / "data", 3000
    started = on_all(hosts, (1, 1, 1), generate_line(data, samples=samples), "generate")
    end = time.monotonic() + 60
    while not list(data.glob(f"{PARTS_FOLDER}/0*.json")):
        assert time.monotonic() < end and started[lost].process.poll() is None, said(started)
        time.sleep(0.02)
    killed = list(hosts[lost].processes().values())
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    codes = ends(started, 30)
    assert time.monotonic() - begin < 15
    for each in started[:lost] + started[lost + 1 :]:
        assert codes[started.index(each)] == 5, said(started)
        assert f"lost member {lost} on host node{lost + 1}: " in each.err and "the same command again" in each.err, said(started)
    assert not (data / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in data.glob("shards/*.npz")}
    assert 0 < len(kept) < samples
    started = on_all(hosts, (1, 1, 1), generate_line(data, samples=samples), "again")
    assert ends(started, 90) == [0, 0, 0], said(started)
    assert sum(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()) >= 256  # a whole unit at least was not made again
    assert load_dataset(open_store(str(data))).digest() == alone(tmp_path / "alone", samples).digest()
    assert not list(data.rglob("*.part-*")) and not list(data.glob(f"{PARTS_FOLDER}/*"))


def test_probe_on_two_hosts(make_hosts: Any, torchrun: Any, tmp_path: Path) -> None:
    hosts, data = make_hosts(2), tmp_path / "data"
    disks = own_disks(hosts, data)
    line = [*STORAGEBENCH, "probe", str(data), "--size", "4MiB", "--request-size", "128KiB", "--seconds", "0.05", "--json"]
    started = [start(hosts[k], torchrun(hosts, k, members, *line)) for k, members in enumerate((2, 1))]
    assert ends(started, 90) == [0, 0], said(started)
    found = json.loads(started[0].out)
    assert started[1].out == "" and set(found["hosts"]) == {"node1", "node2"}
    for total, *rows in zip(found["cells"], *(host["cells"] for host in found["hosts"].values()), strict=True):
        assert total["bytes_per_s"] == pytest.approx(sum(row["bytes_per_s"] for row in rows))
    assert [list(disk.iterdir()) for disk in disks] == [[], []]


@pytest.mark.nightly
def test_mpirun_members_of_one_host_share_the_work(machine: Any, mpirun: list[str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    for line in (generate_line(data, samples=600), [*STORAGEBENCH, "verify", "--data-dir", str(data), "--json"]):
        done = subprocess.run(machine.enter([*mpirun, "-np", "3", *line], tmp_path), capture_output=True, text=True, check=False, timeout=90)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["whole"]
    assert load_dataset(open_store(str(data))).digest() == alone(tmp_path / "alone", 600).digest()
