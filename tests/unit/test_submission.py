"""`report --submission`: the layout of each edition, what is in it, and what it says it lacks."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

Write = Callable[..., list[str]]
# The clock of the made-up runs says 14:13:20 UTC 2.4 s before the first epoch; two epochs of 1.62 s with 0.15 s between end at 14:13:25.8.
LEAF = "closed/A-Corp/results/fast-4000/training/unet3d/run"
LAYOUT = """\
MISSING.txt
README.md
SHA256SUMS
closed/A-Corp/results/fast-4000/training/unet3d/datagen/storagebench_dataset.json
closed/A-Corp/results/fast-4000/training/unet3d/datasize/storagebench_datasize.json
closed/A-Corp/results/fast-4000/training/unet3d/run/20260921_141325/storagebench/run.json
closed/A-Corp/results/fast-4000/training/unet3d/run/20260921_141325/storagebench/summary.json
closed/A-Corp/results/fast-4000/training/unet3d/run/20260921_141325/storagebench/trace/host-00000.jsonl
closed/A-Corp/results/fast-4000/training/unet3d/run/20260921_141325/storagebench/trace/rank-00000.jsonl
closed/A-Corp/results/fast-4000/training/unet3d/run/20260921_141325/storagebench_0_per_epoch_stats.json
closed/A-Corp/results/fast-4000/training/unet3d/run/20260921_141325/storagebench_summary.json
"""
MISSING = """\
What this folder lacks of a submission by the rules mlperf-storage-v3.0-closed. It is no submission as it is.

code-images/code-HASH/: the source of the round's tool; storagebench is another program
closed/A-Corp/submission.yaml: the manifest that the round's tool writes
closed/A-Corp/systems/fast-4000.pdf: the description for readers, with diagram, power and rack units
closed/A-Corp/systems/fast-4000.yaml: every field that says TODO; its schema is the round's, which was not at hand
README.md, MISSING.txt, SHA256SUMS: to be taken out; a submission has nothing but its division's folder and the code beside it
closed/A-Corp/results/fast-4000/.../run/*/training_run.stdout.log, training_run.stderr.log: what the engine printed
closed/A-Corp/results/fast-4000/.../run/*/dlio.log: the engine's log
"""


@pytest.fixture
def runs(report_make: Any, report_write: Any, tmp_path: Path) -> Write:
    """Write saved runs of unet3d of 10 steps and 2 epochs, a minute apart; the paths of their folders."""

    def write(accelerator: str, compute_ms: float, count: int = 2, seconds_apart: int = 60) -> list[str]:
        made = report_make(steps=10, epochs=2, world_size=1, batch_size=7, compute_ms=compute_ms, stall_ms=0.0, stalled=0.0, loader="files")
        paths = []
        for number in range(count):
            run = copy.deepcopy(dict(made.run))
            run["run_id"] = f"run-{number}"
            run["created"]["wall_ns"] += number * seconds_apart * 10**9
            run["config"]["name"] = "unet3d"
            run["config"]["run"]["accelerator"] = accelerator
            paths.append(str(report_write(tmp_path / "results", replace(made, run=run))))
        return paths

    return write


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_layout_of_v3(runs: Write, cli: Any, tmp_path: Path) -> None:
    folder, paths = tmp_path / "sub", runs("b200", 162.0)
    result = cli(
        "report", *paths, "--submission", str(folder), "--rules", "mlperf-storage-v3.0", "--org", "A Corp", "--system", "fast/4000", "--json"
    )
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)) == 2
    assert f"wrote {folder}: no submission as it is, MISSING.txt says what it lacks\n" in result.stderr
    found = files_of(folder)
    assert "\n".join(found).startswith(LAYOUT)
    assert found[-3:] == [f"{LEAF}/20260921_141425/storagebench_summary.json", f"{LEAF}/storagebench_results.json",
                          "closed/A-Corp/systems/fast-4000.yaml"]  # fmt: skip
    missing = (folder / "MISSING.txt").read_text()
    assert missing.startswith(MISSING)
    for line in (
        "runs: 2 runs given, and a result is 6, the first of them the warm-up run",
        "closed/A-Corp/results/fast-4000/.../run/*/provenance.json, .mlps-code-image: stamps of the round's tool and a pointer to its code image",
        "broken number_of_runs: 2 runs given, and a result is the warm-up run and 5 more",
        "not judged kv_cache: storagebench does not run kv_cache yet",
    ):
        assert f"\n{line}\n" in missing
    assert "no submission to MLPerf Storage" in (folder / "README.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".sub")]


def test_what_is_in_the_files(runs: Write, cli_here: Any, tmp_path: Path) -> None:
    """10 steps of 162 ms, no stall, 0.02 ms of sync each: 9 more steps in 9 x 162.02 + 0.02 ms."""
    folder, paths = tmp_path / "sub", runs("b200", 162.0)
    folder.mkdir()
    before = {path: (Path(path) / "run.json").read_bytes() for path in paths}
    assert cli_here("report", *paths, "--submission", str(folder), "--rules", "mlperf-storage-v3.0-closed").returncode == 0
    leaf = folder / "closed/ORG/results/node-1/training/unet3d/run/20260921_141325"
    summary = json.loads((leaf / "storagebench_summary.json").read_text())
    window_s = (9 * 162.02 + 0.02) / 1e3
    assert summary["metric"]["train_au_percentage"] == pytest.approx([100 * 9 * 0.162 / window_s] * 2)
    assert summary["metric"]["train_throughput_mean_samples_per_second"] == pytest.approx(9 * 7 / window_s)
    assert summary["metric"]["train_io_mean_MB_per_second"] == pytest.approx(9 * 7 / window_s * 146_600_628 / 2**20)
    assert "not a file of the engine" in summary["made_by"]
    assert summary["metric"]["train_au_meet_expectation"] == "success"
    stats = json.loads((leaf / "storagebench_0_per_epoch_stats.json").read_text())
    assert (list(stats), stats["1"]["duration"], stats["2"]["steps"]) == (["made_by", "1", "2"], "1.62", 10)
    results = json.loads((leaf.parent / "storagebench_results.json").read_text())
    assert [(row["run_id"], row["counts"]) for row in results["runs"]] == [("run-0", False), ("run-1", True)]
    assert results["mean_samples_per_s"] == round(9 * 7 / window_s, 2)
    datasize = json.loads((folder / "closed/ORG/results/node-1/training/unet3d/datasize/storagebench_datasize.json").read_text())
    assert (datasize["least"]["files"], datasize["read"]["num_samples"]) == (3500, 70)
    system = yaml.safe_load((folder / "closed/ORG/systems/node-1.yaml").read_text())
    assert system["Nodes"]["clients"][0] | {"hostname": "node-1", "cores": 2, "memory_bytes": 64 * 2**30} == system["Nodes"]["clients"][0]
    assert system["System"]["required_rack_units"] == "TODO"
    assert "closed/ORG: no organisation was given; name it with --org" in (folder / "MISSING.txt").read_text()
    assert (leaf / "storagebench/run.json").read_bytes() == before[paths[0]]
    assert cli_here("report", str(leaf / "storagebench"), "--json").returncode == 0


def test_every_file_has_its_checksum(runs: Write, cli_here: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    assert cli_here("report", *runs("h100", 323.0), "--submission", str(folder), "--rules", "mlperf-storage-v2.0-open").returncode == 0
    sums = dict(reversed(line.split("  ", 1)) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sorted([*sums, "SHA256SUMS"]) == files_of(folder)
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=False).returncode == 0


@pytest.mark.parametrize(
    ("rules", "files"),
    [
        ("mlperf-storage-v1.0-closed", ("Closed/ORG/results/node-1/unet3d-h100/run/storagebench_results.json", "Closed/ORG/systems/node-1.json")),
        ("mlperf-storage-v2.0-open", ("Open/ORG/results/node-1/training/unet3d/run/storagebench_results.json", "Open/ORG/systems/node-1.yaml")),
    ],
)
def test_the_layouts_of_the_older_editions(rules: str, files: tuple[str, str], runs: Write, cli_here: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    assert cli_here("report", *runs("h100", 323.0), "--submission", str(folder), "--rules", rules).returncode == 0
    found = files_of(folder)
    assert set(files) < set(found)
    missing = (folder / "MISSING.txt").read_text()
    assert "/code/: the source of the round's benchmark" in missing and "provenance.json" not in missing
    assert ("under a licence" in missing) == rules.endswith("open")
    assert ("mlperf_storage_report.json" in missing) == ("v1.0" in rules)
    read = json.loads if files[1].endswith("json") else yaml.safe_load
    assert read((folder / files[1]).read_text())["System"]["benchmark"] == rules


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--rules", "mlperf-storage-v3.0"), "--rules, --org and --system belong to --submission"),
        (("--submission", "sub"), "--submission needs --rules: each edition has its own layout"),
        (("--submission", "sub", "--rules", "default"), "'default' is no edition of the rules of MLPerf Storage"),
        (("--submission", "sub", "--rules", "mlperf-storage-v3.0"), "run run-0 has accelerator 'h100', and unet3d of v3.0 has b200"),
        (("--submission", "sub", "--rules", "mlperf-storage-v2.0", "--org", ".."), "--org '..' makes no folder name"),
        (("--submission", "taken", "--rules", "mlperf-storage-v2.0"), "taken exists and is not empty"),
        (("--submission", "taken/file", "--rules", "mlperf-storage-v2.0"), "taken/file exists and is no folder"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], error: str, runs: Write, cli_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = runs("h100", 323.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    result = cli_here("report", *paths, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {error}") and "\nhint: " in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "taken"]


def test_two_runs_of_one_second_are_refused(runs: Write, cli_here: Any, tmp_path: Path) -> None:
    result = cli_here("report", *runs("h100", 323.0, seconds_apart=0), "--submission", str(tmp_path / "sub"), "--rules", "mlperf-storage-v2.0")
    assert result.returncode == 2
    assert result.stderr.startswith("error: two runs ended in the same second, and would both be Closed/ORG/")


def test_a_failed_write_leaves_nothing(runs: Write, cli_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    paths = runs("h100", 323.0)
    assert cli_here("report", *paths).returncode == 0
    monkeypatch.setattr("storagebench.report.folder.os.fsync", no_space)
    monkeypatch.setattr("storagebench.records.write_json", lambda path, value: None)
    result = cli_here("report", *paths, "--submission", str(tmp_path / "sub"), "--rules", "mlperf-storage-v2.0")
    assert (result.returncode, result.stderr.splitlines()[-2].split(": ", 1)[0]) == (4, "error")
    assert "No space left on device" in result.stderr
    assert os.listdir(tmp_path) == ["results"]


def test_a_submission_lists_every_host(runs: Write, cli_here: Any, tmp_path: Path) -> None:
    """Two hosts of 64 and 128 GiB: both are clients, and the least dataset is of their memory together."""
    paths = runs("b200", 162.0)
    for path in paths:
        file = Path(path) / "run.json"
        run = json.loads(file.read_text())
        run["hosts"].append({**run["hosts"][0], "host": "node-2", "memory_bytes": 128 * 2**30})
        file.write_text(json.dumps(run))
    folder = tmp_path / "sub"
    assert cli_here("report", *paths, "--submission", str(folder), "--rules", "mlperf-storage-v3.0-closed").returncode == 0
    system = yaml.safe_load((folder / "closed/ORG/systems/node-1.yaml").read_text())
    assert [(each["hostname"], each["memory_bytes"] >> 30) for each in system["Nodes"]["clients"]] == [("node-1", 64), ("node-2", 128)]
    datasize = json.loads((folder / "closed/ORG/results/node-1/training/unet3d/datasize/storagebench_datasize.json").read_text())
    assert datasize["memory_of_all_hosts_bytes"] == 192 * 2**30
    summary = json.loads((folder / "closed/ORG/results/node-1/training/unet3d/run/20260921_141325/storagebench_summary.json").read_text())
    assert summary["host_memory_bytes"] == [64 * 2**30, 128 * 2**30]
