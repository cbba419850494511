"""`sweep` with real runs: a matrix with what does not fit and what is not there, resumption after SIGKILL, a run that dies, and several jobs at once."""

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

import psutil
import pytest
import yaml

SETTINGS = {
    "run.compute_time_s": 0.002,
    "run.null_duration_s": 0,
    "run.headroom_duration_s": 0,
    "train.batch_size": 4,
    "train.epochs": 100_000,
    "loader.num_workers": 1,
    "run.cache": "as-is",
}
DRY_RUN = """\
suite s: 4 units, 2 runs in 1 rounds, into results/s
001-direct-npz-disk-x1:
  storagebench run quick --data-dir /data/npz --num-workers 2 --compute-time 5ms --loader direct --set dataset.format=npz --num-accelerators 1
002-direct-webdataset-disk-x1:
  storagebench run quick --data-dir /data/webdataset --num-workers 2 --compute-time 5ms --loader direct --set dataset.format=webdataset --num-accelerators 1
003-parquet-npz-disk-x1: not run, since loader parquet reads Parquet row groups, and the dataset is npz
004-parquet-webdataset-disk-x1: not run, since loader parquet reads Parquet row groups, and the dataset is webdataset
"""


def write(folder: Path, **suite: Any) -> str:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "workload": "quick", **suite}, sort_keys=False))
    return str(path)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "storagebench", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "it ended, or a minute passed"
        time.sleep(0.02)


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "sweep.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and nothing that it started is left."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []


def steps_of(run_dir: Path) -> int:
    path = run_dir / "trace" / "rank-00000.jsonl"
    return path.read_bytes().count(b'\n["step"') if path.exists() else 0


def test_dry_run(tmp_path: Path, cli_here: Any) -> None:
    suite = write(
        tmp_path,
        settings={"run.compute_time_s": "5ms"},
        stores={"disk": {"data_dir": "/data/{format}"}},
        axes={"loaders": ["direct", "parquet"], "formats": ["npz", "webdataset"]},
        repeats=1,
    )
    result = cli_here("sweep", suite, "--dry-run")
    assert (result.returncode, result.stdout, result.stderr) == (0, DRY_RUN, "")
    planned = json.loads(cli_here("sweep", suite, "--dry-run", "--json").stdout)
    assert (planned["num_runs"], [row["reason"] is None for row in planned["units"]]) == (2, [True, True, False, False])


def test_credentials_and_bad_names_are_refused(tmp_path: Path, cli_here: Any) -> None:
    store = {"data_dir": "s3://b/{format}", "storage_options": {"secret_key": "x"}}
    result = cli_here("sweep", write(tmp_path, stores={"s": store}, axes={}), "--dry-run")
    assert (result.returncode, "--storage-option secret_key looks like a credential" in result.stderr) == (2, True)
    result = cli_here("sweep", write(tmp_path, stores={"s": {"data_dir": "/x"}}, axes={}), "--sweep-id", "../up")
    assert (result.returncode, result.stderr.splitlines()[0]) == (
        2,
        "error: --sweep-id is '../up': letters, digits, '.', '_' and '-' make one, 64 at most",
    )


def test_a_matrix(tmp_path: Path, cli: Any, cli_here: Any, make_dataset: Any) -> None:
    path, dataset = make_dataset()
    stores = {"disk": {"data_dir": path}, "gone": {"data_dir": str(tmp_path / "gone")}}
    axes = {"loaders": ["direct", "parquet"], "formats": ["npz"]}
    suite = write(tmp_path, settings={**SETTINGS, "run.max_steps": 60}, stores=stores, axes=axes, repeats=2)
    first = cli("sweep", suite, "--results-dir", str(tmp_path), "--json")
    assert first.returncode == 3, first.stderr  # the dataset that is not there
    found = json.loads(first.stdout)
    assert [cell["run_ids"] for cell in found["cells"]] == [["001-direct-npz-disk-x1-r1", "001-direct-npz-disk-x1-r2"]]
    assert (list(found["refused"]), found["missing"]) == (["002-direct-npz-gone-x1"], 0)
    assert sorted(found["unfit"]) == ["003-parquet-npz-disk-x1", "004-parquet-npz-gone-x1"]
    assert found["cells"][0]["figures"]["samples_per_s"]["num_runs"] == 2
    run = json.loads((tmp_path / "s" / "001-direct-npz-disk-x1-r1" / "run.json").read_text())
    assert run["dataset"]["digest"] == dataset.digest()
    assert run["command"][:5] == ["storagebench", "run", "quick", "--data-dir", path]
    assert (run["provenance"]["run.max_steps"], run["config"]["loader"]["num_workers"]) == ("suite.yaml:11", 1)

    again = cli("sweep", suite, "--results-dir", str(tmp_path), "--html", str(tmp_path / "s.html"))
    assert (again.returncode, "2 of 4 are there already" in again.stderr) == (3, True)
    assert "stands alone: nothing may be compared with it" in again.stdout and (tmp_path / "s.html").stat().st_size > 1_000_000
    report = cli_here("report", str(tmp_path / "s"))
    assert (report.returncode, report.stdout) == (0, again.stdout)

    changed = write(tmp_path, settings={**SETTINGS, "run.max_steps": 70}, stores=stores, axes=axes, repeats=2)
    refused = cli_here("sweep", changed, "--results-dir", str(tmp_path))
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[0] == f"error: {tmp_path}/s was begun with another suite: settings.run.max_steps: 60 -> 70"


def running(folder: Path) -> list[str]:
    """Runs of which no row of the journal tells the end, once they make steps."""
    done = {row["run_id"] for row in rows(folder)}
    return [child.name for child in sorted(folder.glob("0*")) if child.name not in done and steps_of(child) > 5]


def two_cells(tmp_path: Path, data_dir: str, repeats: int) -> str:
    axes = {"loaders": ["direct"], "formats": ["npz"], "settings": {"loader.prefetch_batches": [1, 2]}}
    return write(tmp_path, settings={**SETTINGS, "run.duration_s": 0.5}, stores={"disk": {"data_dir": data_dir}}, axes=axes, repeats=repeats)


@pytest.mark.catalogue
def test_it_goes_on_after_sigkill(tmp_path: Path, cli: Any, make_dataset: Any) -> None:
    folder, arguments = tmp_path / "s", ("sweep", two_cells(tmp_path, make_dataset()[0], 1), "--results-dir", str(tmp_path))
    process = start(*arguments)
    until(lambda: len(rows(folder)) == 1 and running(folder), process)
    (cut,) = running(folder)
    kill(process)
    (done,) = (row["run_id"] for row in rows(folder))
    then = (folder / done / "summary.json").stat().st_mtime_ns
    result = cli(*arguments, "--json")
    assert (result.returncode, "1 of 2 are there already" in result.stderr) == (0, True), result.stderr
    found = json.loads(result.stdout)
    assert sorted(run_id for cell in found["cells"] for run_id in cell["run_ids"]) == sorted([done, f"{cut}-again1"])
    assert (found["missing"], (folder / done / "summary.json").stat().st_mtime_ns, (folder / cut).is_dir()) == (0, then, True)


@pytest.mark.catalogue
def test_it_goes_on_after_a_sigkill_and_an_interrupt(tmp_path: Path, cli: Any, make_dataset: Any) -> None:
    folder, arguments = tmp_path / "s", ("sweep", two_cells(tmp_path, make_dataset()[0], 2), "--results-dir", str(tmp_path))
    cut: list[str] = []
    for done, number in ((1, signal.SIGKILL), (2, signal.SIGINT)):
        process = start(*arguments)
        before = set(cut)
        until(lambda done=done, before=before: len(rows(folder)) == done and set(running(folder)) - before, process)  # type: ignore[misc]
        cut += sorted(set(running(folder)) - set(cut))
        if number == signal.SIGKILL:
            kill(process)
        else:
            os.kill(process.pid, number)
            assert process.wait(30) == 130
    result = cli(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    made = {run_id for cell in found["cells"] for run_id in cell["run_ids"]}
    assert (len(made), found["missing"], len(cut)) == (4, 0, 2)
    assert {f"{run_id}-again1" for run_id in cut} <= made == {row["run_id"] for row in rows(folder)}


def test_a_run_that_dies_is_kept_and_said_and_the_others_go_on(tmp_path: Path, make_dataset: Any) -> None:
    folder = tmp_path / "s"
    process = start("sweep", two_cells(tmp_path, make_dataset()[0], 1), "--results-dir", str(tmp_path), "--json")
    until(lambda: any(steps_of(child) > 5 for child in folder.glob("0*")), process)
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    out, err = process.communicate(timeout=60)
    found = json.loads(out)
    assert (process.returncode, found["exit_code"], found["missing"]) == (5, 5, 0)
    assert "was killed by SIGKILL" in err
    dead = next(cell for cell in found["cells"] if cell["left_out"])
    assert next(iter(dead["left_out"].values())).startswith("incomplete: ")
    assert [cell["figures"]["samples_per_s"] is None for cell in found["cells"] if cell is not dead] == [False]
    assert [row["exit_code"] for row in rows(folder)] == [5, 0]


def three_jobs(tmp_path: Path, alone: bool) -> str:
    data = {"dataset.format": "npz", "dataset.payload": "bytes", "dataset.num_samples": 400, "dataset.record_length_bytes": 5000}
    return write(
        tmp_path,
        settings={**SETTINGS, **data, "dataset.record_length_bytes_stdev": 0, "run.duration_s": 1.0},
        jobs={
            "train": {"data_dir": str(tmp_path / "a")},
            "eval": {"data_dir": str(tmp_path / "b"), "settings": {"loader.prefetch_batches": 4}},
            "logs": {"kind": "writer", "data_dir": str(tmp_path / "c"), "write_rate": "200kB"},
        },
        alone=alone,
        generate=True,
        repeats=1,
    )


def test_several_jobs_at_once_with_a_writer(tmp_path: Path, cli: Any) -> None:
    result = cli("sweep", three_jobs(tmp_path, alone=False), "--results-dir", str(tmp_path), "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [job["job"] for job in found["jobs"]] == ["train", "eval"]
    for job in found["jobs"]:
        assert (job["metric"], job["together"]["num_runs"], job["alone"], job["left_out"]) == ("au_nominal", 1, None, {})
        assert 0.3 < job["overlap"] <= 1.0
    assert 100e3 < found["writers"][0]["bytes_per_s"]["median"] < 300e3 and found["writers"][0]["error"] == ""
    # Everything that the writers wrote is gone, and the dataset stayed.
    removed = json.loads((tmp_path / "s" / "writers" / "together-train-r1-logs" / "removed.json").read_text())
    assert removed["keys"] > 20 and removed["error"] is None
    assert not list((tmp_path / "c" / "written").rglob("*.npz")) and len(list((tmp_path / "c" / "shards").iterdir())) == 400
    run = json.loads((tmp_path / "s" / "together-train-r1" / "run.json").read_text())
    assert (run["config"]["run"]["headroom_duration_s"], run["config"]["run"]["null_duration_s"]) == (0, 0)
    assert not list((tmp_path / "s" / "together-train-r1").glob(".*"))  # no gate is left


@pytest.mark.catalogue
def test_what_writers_of_a_killed_sweep_left_is_deleted(tmp_path: Path, cli: Any) -> None:
    suite = three_jobs(tmp_path, alone=True)
    process = start("sweep", suite, "--results-dir", str(tmp_path))
    until(lambda: list((tmp_path / "c" / "written").rglob("*.npz")), process)
    kill(process)
    assert list((tmp_path / "c" / "written").rglob("*.npz"))
    result = cli("sweep", suite, "--results-dir", str(tmp_path), "--json")
    assert result.returncode == 0, result.stderr
    assert not list((tmp_path / "c" / "written").rglob("*.npz"))
    assert cli("verify", "--data-dir", str(tmp_path / "c")).returncode == 0
    for job in json.loads(result.stdout)["jobs"]:
        assert (job["alone"]["num_runs"], job["verdict"]) == (1, "not distinguishable")  # of one round


@pytest.mark.nightly
@pytest.mark.catalogue
def test_the_slowdown_by_a_neighbour_on_one_wire_is_found(tmp_path: Path, cli: Any) -> None:
    """Two jobs share a wire that carries 1.25 times what one asks for: alone each has AU 1, and together 0.625."""
    data = {
        "dataset.format": "npz",
        "dataset.payload": "bytes",
        "dataset.num_samples": 1000,
        "dataset.record_length_bytes": 8192,
        "dataset.record_length_bytes_stdev": 0,
    }
    places = {name: str(tmp_path / name) for name in ("a", "b")}
    for place in places.values():
        settings = [word for key, value in data.items() for word in ("--set", f"{key}={value}")]
        assert cli("generate", "quick", "--data-dir", place, *settings).returncode == 0
    # 4 records of 8 KiB each 10 ms are 3.28 MB/s, less npz's own bytes.
    options = {"bandwidth": str(round(1.25 * 4 * 8800 / 0.010)), "clock_id": "wire-of-a-test"}
    suite = write(
        tmp_path,
        settings={
            **SETTINGS,
            **data,
            "run.compute_time_s": 0.01,
            "run.duration_s": 3,
            "run.cache": "as-is",
            "train.epochs": 100,
            "loader.name": "direct",
        },
        jobs={name: {"data_dir": f"shaped+{place}", "storage_options": dict(options)} for name, place in places.items()},
        alone=True,
        repeats=3,
    )
    result = cli("sweep", suite, "--results-dir", str(tmp_path), "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for job in found["jobs"]:
        assert job["verdict"] == "worse" and job["slowdown"]["value"] < 0.8, job
        assert job["overlap"] > 0.8
