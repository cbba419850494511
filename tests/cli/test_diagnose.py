"""`diagnose`, run for real: a planted bottleneck is named, the knob is turned, and what was measured is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storagebench.diagnosis.saved import judged, load
from storagebench.report.diagnosis import diagnosis_text


@pytest.fixture(scope="module")
def dataset(make_dataset: Any) -> str:
    return str(make_dataset(num_samples=256, record_length_bytes=20_000)[0])


@pytest.mark.slow
@pytest.mark.catalogue
def test_too_few_workers_are_named_and_more_of_them_help(cli: Any, dataset: str, tmp_path: Path) -> None:
    """One request of 20 ms at a time, where the storage would answer many: the loader asks for too little."""
    result = cli("diagnose", "quick", "--data-dir", f"shaped+{dataset}", "--storage-option", "latency=20ms", "--compute-time", "10ms",
                 "--batch-size", "4", "--num-workers", "1", "--repeats", "1", "--rung-duration", "0.5s", "--results-dir", str(tmp_path), "--run-id", "d",
                 "--what-if", "workers=8")  # fmt: skip
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "d"
    record = load(folder)
    assert record is not None
    found = judged(record)
    assert found.verdict.bottleneck == "loader", result.stdout
    assert result.stdout == diagnosis_text(found)
    assert found.trial is not None and found.trial.gain > 0.2, found.trial
    assert set(found.absent) == {"warm", "client"}
    assert [prediction.text for prediction in found.predictions] == ["workers=8"]
    # The job's own runs are results; the other rungs lie below, and the copy in memory is gone.
    assert {path.name for path in folder.iterdir()} == {"diagnosis.json", "rungs", "cold-1", "before-1", "after-1"}
    assert {path.name for path in (folder / "rungs").iterdir()} == {"null-1", "synthetic-1", "pinned-1", "fetch-1"}
    pinned = json.loads((folder / "rungs" / "pinned-1" / "run.json").read_text())
    assert pinned["store"]["root"].startswith("/dev/shm/storagebench-pinned-") and not Path(pinned["store"]["root"]).exists()
    report = cli("report", str(folder))
    assert report.returncode == 0 and "cold-1" in report.stdout and "pinned-1" not in report.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loader", "null", "--compute-time", "5ms"), "error: loader null reads nothing, so there is nothing to diagnose"),
        (("--compute-time", "0"), "error: diagnose needs a compute time above 0"),
        (("--compute-time", "5ms", "--cache", "as-is"), "error: diagnose needs a cache state that it can bring about, and --cache is as-is"),
        (
            ("--compute-time", "5ms", "--what-if", "cores=3"),
            "error: --what-if 'cores=3' is not one of accelerators=VALUE, storage=VALUE, workers=VALUE",
        ),
        (("--compute-time", "5ms", "--rung-duration", "0"), "error: --rung-duration is 0 s, and must be above 0"),
        (("--compute-time", "5ms", "--loader", "parquet"), "error: loader parquet reads Parquet row groups, and the dataset is npz"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_before_anything_runs(
    arguments: tuple[str, ...], message: str, cli: Any, dataset: str, tmp_path: Path
) -> None:
    result = cli("diagnose", "quick", "--data-dir", dataset, "--results-dir", str(tmp_path / "r"), "--run-id", "d", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and "hint: " in result.stderr
    assert not (tmp_path / "r").exists()


def test_an_old_diagnosis_is_not_overwritten(cli: Any, dataset: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    result = cli("diagnose", "quick", "--data-dir", dataset, "--results-dir", str(tmp_path), "--run-id", "d", "--compute-time", "5ms")
    assert result.returncode == 2 and "error: 'd' exists in" in result.stderr
