"""`plan --rules`: golden text, and sizes worked out by hand from the rule text; and what `list workloads` says of what is not run yet."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from storagebench.checks.mlperf_size import least_size
from storagebench.checks.mlperf_tables import EDITIONS
from storagebench.checks.not_yet import NOT_YET

RESNET50 = """\
rules         mlperf-storage-v2.0-closed (closed, since mlperf-storage-v2.0 names no division)
workload      resnet50 in tfrecord, read by tensorflow (S1 resnet50_{a100,h100}.yaml)
accelerators  8 on one host; the engine takes about 4 GB a host
memory        512.00 GiB a host (--host-memory)
dataset       at least 19164 files of 1251 samples: 23974164 samples, 2.75 TB (2748879322431 bytes)
decided by    5 x memory of all hosts: 19164 files (the other rule: 500 steps an epoch: 1279 files)
steps         7491 an epoch of batch 400 an accelerator, 5 epochs
AU            at least 0.90
a100          435 ms of compute a step; 843.5 MB/s, 7356.3 samples/s at AU 1; a run takes 271.5 min at best (S1 resnet50_a100.yaml)
h100          224 ms of compute a step; 1638.0 MB/s, 14285.7 samples/s at AU 1; a run takes 139.8 min at best (S1 resnet50_h100.yaml)
runs          5, and a warm-up run before them; within 5%

open to choice:
  dataset.num_files_train       the size that the rules give  --num-samples
"""


def rules(cli: Any, *arguments: str) -> dict[str, Any]:
    result = cli("plan", *arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    plan: dict[str, Any] = json.loads(result.stdout)["plan"]
    return plan


def test_resnet50_on_eight_accelerators_and_512_gib(cli: Any, cli_here: Any) -> None:
    """By hand, from R2 section 7. The steps: 500 x 400 x 8 = 1600000 samples, of 1251 a file: 1278.98, so 1279 files. The memory:
    1 host x 512 x 5 x 2^30 = 2748779069440 bytes, over 114660.07 x 1251 = 143439747.57 bytes a file: 19163.3, so 19164 files. The memory decides."""
    assert Fraction(5 * 512 * 2**30, 1) / (Fraction(11_466_007, 100) * 1251) == pytest.approx(19163.3, abs=0.05)
    arguments = ("resnet50", "--rules", "mlperf-storage-v2.0", "--num-accelerators", "8", "--host-memory", "512GiB")
    data = rules(cli_here, *arguments)["dataset"]
    assert (data["files"], data["files_by_memory"], data["files_by_steps"], data["decided_by"]) == (19164, 19164, 1279, "memory")
    assert data["samples"] == 19164 * 1251 == 23974164
    assert data["record_bytes"] == round(23974164 * 114660.07)
    assert data["steps_per_epoch"] == 23974164 // 3200 == 7491
    result = cli("plan", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(RESNET50)
    assert "make it: storagebench generate resnet50 --num-samples 23974164 " in result.stdout


@pytest.mark.parametrize(
    ("edition", "workload", "accelerator", "files", "gib"),
    [
        ("v2.0", "unet3d", "h100", 3500, 477.9),
        ("v1.0", "resnet50", "a100", 160, 21.4),
        ("v2.0", "cosmoflow", "h100", 500, 1.3),
        ("v3.0", "retinanet", "b200", 12000, 3.6),
    ],
)
def test_the_least_of_one_accelerator_by_steps(edition: str, workload: str, accelerator: str, files: int, gib: float) -> None:
    """mlperf-storage.md section 2 has these, resnet50 with the tool's floor: 159 files, which are 497 steps; rounded up it is one file more."""
    closed = EDITIONS[edition].workloads[workload]
    least = least_size(closed, closed.accelerators[accelerator].batch_size, 1, 0)
    assert (least.files, least.decided_by, least.steps_per_epoch) == (files, "steps", 500)
    assert least.record_bytes / 2**30 == pytest.approx(gib, abs=0.06)


def test_two_hosts_share_the_accelerators_and_add_their_memory(cli_here: Any) -> None:
    """unet3d: 500 x 7 x 4 = 14000 files; 2 x 256 GiB x 5 = 2748779069440 bytes over 146600628 = 18750.1, so 18751 files."""
    plan = rules(cli_here, "unet3d", "--rules", "mlperf-storage-v3.0", "--num-accelerators", "4", "--num-hosts", "2", "--host-memory", "256GiB")
    data = plan["dataset"]
    assert (data["files"], data["files_by_steps"], data["exact"], plan["num_runs"], plan["first_is_warm_up"]) == (18751, 14000, True, 6, True)
    assert list(plan["accelerators"]) == ["b200"]
    assert plan["accelerators"]["b200"]["shortest_run_s"] == pytest.approx(18751 // 28 * 5 * 0.162)


def test_open_adds_four_parameters_and_keeps_the_files_of_the_user(cli_here: Any) -> None:
    closed = rules(cli_here, "resnet50", "--rules", "mlperf-storage-v2.0-closed", "--host-memory", "1GiB")
    arguments = ("resnet50", "--rules", "mlperf-storage-v2.0-open", "--host-memory", "1GiB", "--samples-per-shard", "100")
    plan = rules(cli_here, *arguments)
    added = [row["name"] for row in plan["parameters"] if row not in closed["parameters"]]
    assert added == ["framework", "dataset.format", "dataset.num_samples_per_file", "reader.data_loader"]
    assert (plan["dataset"]["files"], plan["dataset"]["samples"]) == (2000, 200000)


def test_without_host_memory_this_hosts_is_taken_and_said(cli_here: Any) -> None:
    plan = rules(cli_here, "unet3d", "--rules", "mlperf-storage-v1.0-open")
    kib = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")).split()[1])
    assert (plan["host_memory_bytes"], plan["host_memory_from"], plan["num_runs"]) == (kib * 1024, "of this host", None)
    text = cli_here("plan", "unet3d", "--rules", "mlperf-storage-v1.0-open").stdout
    assert " GiB a host (of this host)\n" in text and "not known: the text of this edition was not to be had" in text


def test_the_batch_of_retinanet_needs_an_accelerator(cli_here: Any, tmp_path: Path) -> None:
    """500 x 32 = 16000 files; 5 x 2^30 = 5368709120 bytes over 322957 = 16623.6, so 16624."""
    file = tmp_path / "mine.yaml"
    file.write_text("name: retinanet\ndataset: {format: jpeg, payload: jpeg, record_length_bytes: 322957}\ntrain: {batch_size: 32, epochs: 8}\n")
    result = cli_here("plan", str(file), "--rules", "mlperf-storage-v3.0")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: the batch of retinanet of v3.0 depends on the accelerator (b200 24, mi355 32)")
    plan = rules(cli_here, str(file), "--rules", "mlperf-storage-v3.0", "--accelerator", "mi355", "--host-memory", "1GiB")
    assert (plan["batch_size"], plan["dataset"]["files"]) == (32, 16624)
    assert plan["differs"] == ["train.au_threshold is 0.9, and the rules say 0.85"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("unet3d", "--rules", "mlperf-storage-v4.0"), "'mlperf-storage-v4.0' is no edition of the rules of MLPerf Storage"),
        (("quick", "--rules", "mlperf-storage-v2.0"), "workload quick is not one of v2.0, which has unet3d, resnet50, cosmoflow"),
        (("unet3d", "--rules", "mlperf-storage-v3.0", "--accelerator", "h100"), "accelerator 'h100' is not one of unet3d of v3.0, which has b200"),
        (("unet3d", "--rules", "mlperf-storage-v2.0", "--num-hosts", "2"), "1 accelerator cannot be shared evenly by 2 hosts"),
        (("unet3d", "--rules", "mlperf-storage-v2.0", "--host-memory", "0"), "--host-memory is 0 bytes, and must be at least 1"),
        (("unet3d", "--accelerator", "h100", "--num-hosts", "2"), "--host-memory and --num-hosts say what rules are judged by"),
    ],
)
def test_what_is_refused(cli_here: Any, arguments: tuple[str, ...], error: str) -> None:
    result = cli_here("plan", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {error}") and "\nhint: " in result.stderr


def test_list_workloads_names_what_is_not_run_yet(cli_here: Any) -> None:
    rows = {row["name"]: row for row in json.loads(cli_here("list", "workloads", "--json").stdout)["workloads"]}
    assert {name for name, row in rows.items() if row["status"] == "not yet"} == {row.name for row in NOT_YET}
    assert set(rows["kv_cache"]) == {"name", "status", "source", "about"}
    assert rows["unet3d"]["status"] == "here"
    lines = [line.split() for line in cli_here("list", "workloads").stdout.splitlines()]
    assert ["checkpointing", "not", "yet"] in [line[:3] for line in lines]
