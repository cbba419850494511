"""`rerun RUN`: the same request again, from the run folder alone; refused where the dataset is another one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from storagebench.build import generate
from storagebench.cluster.crew import Alone
from storagebench.configfile import load_workload
from storagebench.rerun import request_of
from storagebench.storage import open_store


def make(path: Path, seed: int = 42, num_samples: int = 64) -> None:
    fields = {
        "format": "webdataset",
        "payload": "bytes",
        "num_samples": num_samples,
        "record_length_bytes": 5000,
        "record_length_bytes_stdev": 500,
        "seed": seed,
    }
    generate(load_workload("quick", [(f"dataset.{name}", value, "test") for name, value in fields.items()]).workload, open_store(str(path)))


def run_file(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def test_a_run_is_repeated_with_all_that_it_was_asked(cli: Any, tmp_path: Path) -> None:
    make(tmp_path / "data")
    first = cli(
        "run", "quick", "--data-dir", "shaped+data", "--storage-option", "bandwidth=40MB", "--storage-option", "latency=1ms", "--results-dir", "results",
        "--run-id", "a", "--batch-size", "4", "--compute-time", "3ms", "--cache", "warm", "--null-duration", "0.05", "--num-accelerators", "2",
        "--accelerators-per-process", "2", "--num-workers", "1", "--set", "loader.shuffle=false", "--decode", "touch", cwd=tmp_path,
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    (tmp_path / "elsewhere").mkdir()
    again = cli("rerun", "../results/a", "--results-dir", "r", "--run-id", "b", "--json", cwd=tmp_path / "elsewhere")
    assert again.returncode == 0, again.stderr
    assert "note: " not in again.stderr  # the same host and versions
    before, after = run_file(tmp_path / "results" / "a"), run_file(tmp_path / "elsewhere" / "r" / "b")
    for key in ("config", "provenance", "dataset", "plan", "ceiling", "accelerator"):
        assert after[key] == before[key], key
    clocks = [run["store"]["options"].pop("clock_id") for run in (before, after)]
    assert clocks[0] != clocks[1] and after["store"] == before["store"]
    assert json.loads(again.stdout)["run_id"] == "b"
    assert after["command"][:2] == ["storagebench", "rerun"]

    before["ceiling"] = {"direction": "read"}  # a run with --ceiling, whose probes would take half a minute here
    (tmp_path / "results" / "a" / "run.json").write_text(json.dumps(before))
    assert request_of(tmp_path / "results" / "a", tmp_path, "c", [], 0, False, Alone(), print).ceiling

    refused = cli("rerun", "results/a", "--results-dir", "results", "--run-id", "a", cwd=tmp_path)
    assert refused.returncode == 2 and "run 'a' exists" in refused.stderr


def test_what_the_run_found_out_by_itself_stays_as_it_was(cli: Any, tmp_path: Path) -> None:
    """O_DIRECT, threads and reads in flight, which a run of `direct` over a cold cache chooses."""
    make(tmp_path / "data")
    common = ["--compute-time", "2ms", "--batch-size", "4", "--null-duration", "0", "--headroom-duration", "0", "--epochs", "1"]
    assert cli("run", "quick", "--data-dir", str(tmp_path / "data"), *common, "--results-dir", str(tmp_path), "--run-id", "a").returncode == 0
    again = cli("rerun", str(tmp_path / "a"), "--results-dir", str(tmp_path), "--run-id", "b")
    assert again.returncode == 0, again.stderr
    before, after = run_file(tmp_path / "a"), run_file(tmp_path / "b")
    assert (after["config"], after["store"]) == (before["config"], before["store"])


def test_another_dataset_is_refused_with_the_difference(cli: Any, cli_here: Any, tmp_path: Path) -> None:
    make(tmp_path / "data")
    common = ["--compute-time", "2ms", "--batch-size", "4", "--null-duration", "0", "--headroom-duration", "0", "--cache", "as-is", "--epochs", "1"]
    assert cli("run", "quick", "--data-dir", str(tmp_path / "data"), *common, "--results-dir", str(tmp_path), "--run-id", "a").returncode == 0
    os.rename(tmp_path / "data", tmp_path / "old")
    gone = cli_here("rerun", str(tmp_path / "a"), "--results-dir", str(tmp_path))
    assert gone.returncode == 3, gone.stderr
    make(tmp_path / "data", num_samples=60)
    smaller = cli_here("rerun", str(tmp_path / "a"), "--results-dir", str(tmp_path))
    assert smaller.returncode == 3 and "num_samples was 64 and is 60" in smaller.stderr
    os.rename(tmp_path / "data", tmp_path / "old-too")
    make(tmp_path / "data", seed=43)
    other = cli_here("rerun", str(tmp_path / "a"), "--results-dir", str(tmp_path))
    assert other.returncode == 3 and "is not the one that" in other.stderr and "seed" in other.stderr
    assert not list(tmp_path.glob("quick-*"))


def test_versions_that_differ_are_said(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    common = ["--compute-time", "2ms", "--batch-size", "4", "--null-duration", "0", "--headroom-duration", "0", "--cache", "as-is", "--epochs", "1"]
    assert cli("run", "quick", "--data-dir", path, *common, "--results-dir", str(tmp_path), "--run-id", "a").returncode == 0
    saved = run_file(tmp_path / "a")
    saved["hosts"][0]["versions"] |= {"numpy": "1.0", "gone": "3"}
    saved["hosts"][0]["cpu"] = "another"
    (tmp_path / "a" / "run.json").write_text(json.dumps(saved))
    again = cli("rerun", str(tmp_path / "a"), "--results-dir", str(tmp_path), "--run-id", "b")
    assert again.returncode == 0
    for said in ("note: numpy was 1.0 in that run, and is ", "note: gone was 3 in that run, and is not installed now", "note: cpu was another"):
        assert said in again.stderr


def test_what_is_no_run_is_refused(cli_here: Any, tmp_path: Path) -> None:
    nothing = cli_here("rerun", str(tmp_path))
    assert nothing.returncode == 2 and "is no run folder" in nothing.stderr
