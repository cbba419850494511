"""What `search` refuses before it runs anything, where it begins, and how accelerators share processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from storagebench import searchbench
from storagebench.configfile import load_workload
from storagebench.errors import DatasetError, UsageError
from storagebench.experiments.searchstate import load_search
from storagebench.request import Request
from storagebench.searchbench import Limits, Runs, begun, share_of

LIMITS = Limits(64, 12, 0.95, 80)
BASE = {"run.compute_time_s": 0.01, "train.batch_size": 4, "run.cache": "as-is"}


def request(data: str, folder: Path, **changes: Any) -> Request:
    values = {**BASE, **{key.replace("__", "."): value for key, value in changes.items()}}
    configured = load_workload("quick", [(key, value, "test") for key, value in values.items()])
    return Request(configured, data, {}, folder, folder.name, ["storagebench"], 0)


def quiet(_text: str) -> None: ...


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--compute-time", "0"), "a search needs a compute time above 0"),
        (("--compute-time", "1ms", "--confidence", "0.4"), "--confidence is 0.4, and must be above 0.5 and below 1"),
        (("--compute-time", "1ms", "--confirmations", "3"), "--confirmations is 3, and a confidence of 0.95 takes at least 5 runs that agree"),
        (("--compute-time", "1ms", "--au-threshold", "0"), "--au-threshold is 0, which any number of accelerators meets"),
        (("--compute-time", "1ms", "--loader", "parquet"), "parquet"),
        (("--compute-time", "1ms", "--batch-size", "65"), "64 samples make no full step of batch size 65 x 1 accelerators"),
    ],
)
def test_a_request_that_cannot_be_searched(options: tuple[str, ...], said: str, make_dataset: Any, cli_here: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    result = cli_here("search", "quick", "--data-dir", path, "--results-dir", str(tmp_path), "--cache", "as-is", *options)
    assert result.returncode == 2 and said in result.stderr, result.stderr
    assert not list(tmp_path.iterdir())


def test_where_it_begins(make_dataset: Any, tmp_path: Path) -> None:
    """By a raw read; never above what --max-accelerators and the cores allow; at --num-accelerators where that is given."""
    path, dataset = make_dataset()
    saved, again = begun(request(path, tmp_path / "a", run__cache="warm"), LIMITS, quiet)
    guess = saved["guess"]
    demand = dataset.stored_bytes / dataset.num_samples * 4 / 0.01
    assert not again and guess["demand_bytes_per_s"] == pytest.approx(demand)
    fits = int(guess["bytes_per_s"] / (0.9 * demand))
    assert saved["rules"]["start"] == guess["start"] == min(fits, 64, searchbench.MOST_FOR_A_CORE * len(os.sched_getaffinity(0)))
    assert begun(request(path, tmp_path / "b"), LIMITS, quiet)[0]["guess"]["start"] == 1  # as-is cannot be read raw
    assert begun(request(path, tmp_path / "c", run__num_accelerators=5), LIMITS, quiet)[0]["guess"]["start"] == 5
    assert begun(request(path, tmp_path / "d", loader__name="null"), LIMITS, quiet)[0]["guess"]["start"] == 1


def test_going_on_wants_the_same_request_and_the_same_dataset(make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset()
    folder = tmp_path / "s"
    said: list[str] = []
    targets = {"v1": {"metric": "accuracy", "value": 0.9, "epochs": [3, 4], "source": "us", "date": "2026-11-27"}}
    asked = request(path, tmp_path / "target", train__targets=targets)  # its epochs are a tuple here, and a list in the file
    assert begun(asked, LIMITS, quiet)[0]["settings"] == begun(asked, LIMITS, quiet)[0]["settings"]
    begun(request(path, folder), LIMITS, quiet)
    assert begun(request(path, folder), LIMITS, said.append) == (load_search(folder), True)
    assert said == []
    with pytest.raises(UsageError, match=r"train.batch_size was 4 and is 8; max runs was 80 and is 9"):
        begun(request(path, folder, train__batch_size=8), Limits(64, 12, 0.95, 9), quiet)
    other, _ = make_dataset(num_samples=60)
    with pytest.raises(UsageError, match="data dir was"):
        begun(request(other, folder), LIMITS, quiet)
    record = load_search(folder)
    record["dataset"]["digest"], record["versions"]["numpy"] = "0" * 64, "1.0"
    (folder / "search.json").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match="is another one than when the search"):
        begun(request(path, folder), LIMITS, quiet)


def test_how_accelerators_share_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process for each core, or what the user says; one in all without torch; one for each accelerator where the loader needs that."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    shared = request("/data", tmp_path, loader__name="direct")
    assert [share_of(shared, n) for n in (1, 4, 5, 9)] == [1, 1, 2, 3]
    assert share_of(request("/data", tmp_path, loader__name="direct", run__accelerators_per_process=16), 9) == 16
    assert share_of(request("/data", tmp_path, loader__name="files"), 9) == 1
    monkeypatch.setattr(searchbench, "missing_modules", lambda names: list(names))
    assert share_of(shared, 9) == 9


def test_what_does_not_fit_is_refused_without_a_run(make_dataset: Any, tmp_path: Path) -> None:
    """More accelerators than one global batch has samples for: a UsageError, and no folder."""
    path, _ = make_dataset()
    bench = Runs(request(path, tmp_path / "s"), {}, lambda *_: pytest.fail("nothing is to be run"), quiet)
    with pytest.raises(UsageError, match="make no full step"):
        bench.run(17, "run-0001-n17")
    assert not (tmp_path / "s").exists()
