"""`tune` with real runs on a storage of known latency, where more reads in flight must win; and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest


def arguments(path: str, results: Path, *more: str) -> tuple[str, ...]:
    return (
        "tune", "quick", "--data-dir", f"shaped+{path}", "--storage-option", "latency=10ms", "--loader", "direct", "--compute-time", "10ms",
        "--batch-size", "4", "--num-workers", "1", "--prefetch-batches", "1", "--cache", "as-is", "--results-dir", str(results), *more,
    )  # fmt: skip


@pytest.mark.catalogue
def test_more_in_flight_beats_one_read_at_a_time(tmp_path: Path, cli: Any, make_dataset: Any) -> None:
    """A batch is 4 reads of 10 ms: one worker takes 40 ms for it, and the accelerator 10 ms: AU 0.25. Four workers can keep it busy."""
    pytest.importorskip("optuna")
    path, _ = make_dataset()
    asked = arguments(path, tmp_path, "--time", "6s", "--trial-duration", "0.3s", "--try", "run.listing=manifest,list", "--max-workers", "8")
    result = cli(*asked)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("objective  AU: the defaults reach AU 0.")
    assert "           run.listing: manifest, list (default manifest)" in lines
    assert lines[-2].startswith("The best beats the defaults: +") and lines[-2].endswith("To use it:")
    words = shlex.split(lines[-1])
    assert words[:4] == ["storagebench", "run", "quick", "--data-dir"] and words[words.index("--storage-option") + 1] == "latency=10ms"
    assert int(words[words.index("--num-workers") + 1]) > 1
    ran = cli(
        *words[1:], "--results-dir", str(tmp_path), "--run-id", "copied", "--max-steps", "20", "--epochs", "9", "--null-duration", "0", "--json"
    )
    assert ran.returncode == 0 and json.loads(ran.stdout)["status"] == "complete"

    folder = tmp_path / "tune-quick-direct"
    rows = (folder / "tune.jsonl").read_text().splitlines()
    (folder / "tune.jsonl").write_text("\n".join(rows[:-2]) + '\n{"kind":"tri')  # as a kill leaves it
    again = cli(*asked, "--json")
    found = json.loads(again.stdout)
    assert (again.returncode, found["better"], found["command"]) == (0, True, lines[-1])
    assert f"{len(rows) - 3} trials are there already" in again.stderr
    assert found["trials"][-1]["run_id"].endswith("-again1")
    other = cli(*asked, "--seed", "2")
    assert (other.returncode, "was begun with another request: " in other.stderr) == (2, True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--time", "30s"), "--time is 30 s, and 15 trials of 5 s take 75 s at least"),
        (("--time", "9min", "--try", "loader.shufle=true,false"), "--try loader.shufle: unknown key 'loader.shufle': did you mean 'shuffle'?"),
        (("--time", "9min", "--try", "loader.shuffle"), "--try 'loader.shuffle' has no values"),
        (("--time", "9min", "--try", "dataset.samples_per_shard=1,8"), "--try dataset.samples_per_shard is made into a dataset"),
        (("--time", "9min", "--try", "storage.jitter=1ms,2ms"), "--try storage.jitter has no default"),
        (("--time", "9min", "--try", "loader.prefetch_batches=0,1"), "--try: loader.prefetch_batches: Input should be greater than or equal to 1 (given: '0')"),
        (("--time", "9min", "--max-workers", "1", "--num-accelerators", "2"), "2 accelerators with 1 workers each are 2 workers, over --max-workers 1"),
    ],
)  # fmt: skip
def test_bad_requests(more: tuple[str, ...], message: str, tmp_path: Path, cli_here: Any, make_dataset: Any) -> None:
    pytest.importorskip("optuna")
    result = cli_here(*arguments(make_dataset()[0], tmp_path, *more))
    assert (result.returncode, result.stderr.splitlines()[0]) == (2, f"error: {message}")
    assert not list(tmp_path.iterdir())


def test_data_dirs_that_are_not_there_or_hold_other_samples(tmp_path: Path, cli_here: Any, make_dataset: Any) -> None:
    pytest.importorskip("optuna")
    ours, other = make_dataset()[0], make_dataset(num_samples=32)[0]
    for place, code, message in ((tmp_path / "none", 3, "no dataset at "), (other, 2, f"shaped+{other} holds 32 samples of bytes, ")):
        result = cli_here(*arguments(ours, tmp_path, "--time", "9min", "--data-dir", f"shaped+{place}"))
        assert (result.returncode, message in result.stderr) == (code, True), result.stderr
    misfit = cli_here(*arguments(ours, tmp_path, "--time", "9min", "--loader", "webdataset"))
    assert (misfit.returncode, "loader webdataset reads tar shards, and the dataset is npz" in misfit.stderr) == (2, True)
    assert not list(tmp_path.iterdir())
