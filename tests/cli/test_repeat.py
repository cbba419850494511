"""`run --repeat N`: every run is kept and shown, the figures are over all of them, and the worst exit code counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storagebench.build import generate
from storagebench.configfile import load_workload
from storagebench.experiments.repeat import repeat, run_ids, summed_up
from storagebench.storage import open_store


def arguments(dataset: str, results: Path, num_runs: int, *more: str) -> list[str]:
    return [
        "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--repeat", str(num_runs), "--batch-size", "4",
        "--compute-time", "2ms", "--cache", "as-is", "--null-duration", "0.05", "--headroom-duration", "0", *more,
    ]  # fmt: skip


def summary(run_id: str, rate: float, **fields: Any) -> dict[str, Any]:
    figures = {"samples_per_s": rate, "delivered_bytes_per_s": rate * 1e6, "au_nominal": None}
    return {"run_id": run_id, "status": "complete", "valid": True, "exit_code": 0, **figures, **fields}


def test_three_runs_and_a_comparison(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    result = cli(*arguments(path, tmp_path, 3))
    assert result.returncode == 0, result.stderr
    assert sorted(child.name for child in tmp_path.iterdir()) == ["r-1", "r-2", "r-3"]
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("r-")] == ["r-1", "r-2", "r-3"]
    rates = sorted(json.loads((tmp_path / f"r-{number}" / "summary.json").read_text())["samples_per_s"] for number in (1, 2, 3))
    row = next(line.split() for line in lines if line.startswith("samples/s "))
    assert row[1:5] == ["3", *(f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" for value in (rates[1], rates[0], rates[2]))]
    assert "interval: 95.0%, Student's t on logs (few runs, taken as log-normal)" in lines
    starts = [json.loads((tmp_path / f"r-{number}" / "run.json").read_text())["command_start_ns"] for number in (1, 2, 3)]
    assert starts == sorted(set(starts))  # so that each run's start-up time is its own

    again = cli(*arguments(path, tmp_path, 2))
    assert (again.returncode, again.stderr.splitlines()[0]) == (2, f"error: run 'r-1' exists in {tmp_path}")
    other = cli(*arguments(path, tmp_path / "other", 2), "--json")
    data = json.loads(other.stdout)
    assert [run["run_id"] for run in data["runs"]] == ["r-1", "r-2"]
    assert (data["num_runs"], data["left_out"], data["metrics"]["samples_per_s"]["num_runs"], data["exit_code"]) == (2, {}, 2, 0)
    compared = cli("compare", str(tmp_path / "r"), str(tmp_path / "other"), "--margin", "99%", "--json")
    assert compared.returncode in (0, 7), compared.stderr
    assert (len(json.loads(compared.stdout)["base"]["runs"]), len(json.loads(compared.stdout)["new"]["runs"])) == (3, 2)


def test_runs_over_a_corrupt_shard_are_all_made_and_the_code_is_theirs(cli: Any, tmp_path: Path) -> None:
    overrides = [("dataset.num_samples", 16, "test"), ("dataset.format", "npz", "test"), ("dataset.payload", "bytes", "test")]
    dataset = generate(load_workload("quick", overrides).workload, open_store(str(tmp_path / "data")))
    shard = tmp_path / "data" / dataset.names[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    result = cli(*arguments(str(tmp_path / "data"), tmp_path / "results", 2, "--verify", "full"))
    assert result.returncode == 3
    assert sorted(child.name for child in (tmp_path / "results").iterdir()) == ["r-1", "r-2"]
    assert "2 of 2 runs are not in these figures: r-1 (invalid), r-2 (invalid)" in result.stdout


def test_a_request_that_cannot_be_met_is_refused_once(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    result = cli(*arguments(path, tmp_path, 3, "--loader", "parquet"))
    assert result.returncode == 2
    assert result.stderr.count("error: ") == 1
    assert not list(tmp_path.iterdir())


def test_every_run_is_made_in_order() -> None:
    made: list[str] = []

    def run_one(run_id: str) -> dict[str, Any]:
        made.append(run_id)
        return summary(run_id, 100.0)

    assert len(repeat(run_ids("a", 4), run_one).summaries) == 4
    assert made == ["a-1", "a-2", "a-3", "a-4"]


@pytest.mark.parametrize(("codes", "worst"), [([0, 0], 0), ([0, 6, 0], 6), ([6, 5], 5), ([5, 4, 6], 4), ([4, 3], 3), ([0, None], 5)])
def test_the_worst_exit_code_counts(codes: list[int | None], worst: int) -> None:
    assert summed_up([summary(f"r-{index}", 1.0, exit_code=code) for index, code in enumerate(codes)]).exit_code == worst


def test_false_runs_are_named_and_unstable_ones_said() -> None:
    false = [summary("r-4", 500.0, valid=False), summary("r-5", 1.0, status="incomplete", valid=False)]
    repeats = summed_up([*(summary(f"r-{index}", rate) for index, rate in enumerate((100.0, 100.0, 106.0), 1)), *false])
    assert repeats.left_out == {"r-4": "invalid", "r-5": "incomplete"}
    rates = repeats.spreads["samples_per_s"]
    assert rates is not None and (rates.num_runs, rates.maximum, repeats.spreads["au_nominal"]) == (3, 106.0, None)
    assert repeats.unstable == ("samples_per_s", "delivered_bytes_per_s")
