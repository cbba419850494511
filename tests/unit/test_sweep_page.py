"""What the runs of a sweep say, on made runs: rankings of what may be compared, jobs and their neighbours, and the pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storagebench.checks.neighbours import Round, common, neighbours_of, overlaps
from storagebench.checks.sweeps import CellRuns, cell_of, rankings
from storagebench.report.load import LoadedRun
from storagebench.report.sweep import sweep_text
from storagebench.report.sweephtml import sweep_html
from storagebench.report.sweepload import load_sweep

Make = Callable[..., LoadedRun]


@pytest.fixture
def cell(report_make: Make) -> Callable[..., CellRuns]:
    """A cell of so many runs whose AU differs by chance."""

    def make(name: str, stall_ms: float, num_runs: int = 4, **fields: Any) -> CellRuns:
        runs = [report_make(run_id=f"{name}-r{number}", stall_ms=stall_ms, stalled=1.0, world_size=1, **fields) for number in range(1, num_runs + 1)]
        return CellRuns(name, {"loader": name}, runs)

    return make


def ranked(*cells: CellRuns) -> list[Any]:
    return rankings(cells, [cell_of(one) for one in cells])


def test_the_best_is_named_only_where_all_pairs_allow_it(cell: Callable[..., CellRuns]) -> None:
    (ranking,) = ranked(cell("slow", 12.0), cell("fast", 1.0), cell("middle", 5.0))
    assert (ranking.metric, [row.cell for row in ranking.ranked], ranking.ties) == ("au_nominal", ["fast", "middle", "slow"], ["fast"])
    assert [row.rank for row in ranking.ranked] == [1, 2, 3]
    assert ranking.level == pytest.approx(1 - 0.05 / 3)


def test_what_is_alike_shares_a_rank(cell: Callable[..., CellRuns]) -> None:
    (ranking,) = ranked(cell("a", 5.0), cell("b", 5.0), cell("slow", 20.0))
    assert sorted(ranking.ties) == ["a", "b"]
    assert [row.rank for row in ranking.ranked] == [1, 1, 3]
    (single,) = ranked(cell("a", 1.0, num_runs=1), cell("slow", 20.0, num_runs=1))
    assert single.ties == ["a", "slow"]  # single runs decide nothing


@pytest.mark.parametrize(
    "fields", [{"decode": "full", "decode_asked": "full"}, {"cache": "warm", "served": 1.0}, {"compute_ms": 10.0}, {"steps": 150}, {"batch_size": 8}]
)
def test_what_may_not_be_compared_stands_apart(fields: dict[str, Any], cell: Callable[..., CellRuns]) -> None:
    found = ranked(cell("a", 5.0), cell("b", 5.0), cell("other", 5.0, **fields))
    assert [sorted(row.cell for row in ranking.ranked) for ranking in found] == [["a", "b"], ["other"]]


def test_an_unequal_budget_stands_apart(cell: Callable[..., CellRuns]) -> None:
    base, more = cell("a", 5.0), cell("b", 5.0)
    runs = [replace(run, run={**run.run, "config": {**run.run["config"], "loader": {**run.run["config"]["loader"], "num_workers": 9}}}) for run in more.runs]  # fmt: skip
    assert [len(ranking.ranked) for ranking in ranked(base, more._replace(runs=runs))] == [1, 1]


def test_false_runs_are_left_out_and_named(cell: Callable[..., CellRuns], report_make: Make) -> None:
    good = cell("a", 5.0)
    bad = [report_make(run_id="a-bad", world_size=1, missing=3), report_make(run_id="a-cut", world_size=1, complete=False)]
    found = cell_of(good._replace(runs=[*good.runs, *bad]))
    assert list(found.left_out) == ["a-bad", "a-cut"]
    assert found.left_out["a-bad"].startswith("invalid: ") and found.left_out["a-cut"].startswith("incomplete: ")
    assert found.figures["au_nominal"] is not None and found.figures["au_nominal"].num_runs == 4
    mixed = cell_of(good._replace(runs=[*good.runs, report_make(run_id="x", world_size=1, loader="files")]))
    assert mixed.mixed == "loader direct and files"
    other = replace(good.runs[0], summary={**good.runs[0].summary, "dataset_digest": "sha256:other"})
    assert cell_of(good._replace(runs=[*good.runs, other])).mixed == "dataset digest sha256:0123456789abcdef and sha256:other"


def test_windows_overlap_as_far_as_they_do(cell: Callable[..., CellRuns]) -> None:
    assert common([[(0, 10), (20, 30)], [(5, 25)], [(8, 9), (21, 40)]]) == [(8, 9), (21, 25)]
    one, other = cell("a", 1.0, 1).runs[0], cell("b", 1.0, 1, epochs=1).runs[0]
    shares = overlaps({"a": one, "b": other})
    assert shares["b"] > 0.95 and 0.4 < shares["a"] < 0.6  # b has the first of the two epochs of a


def test_what_the_neighbours_take(cell: Callable[..., CellRuns]) -> None:
    together, alone = cell("t", 12.0, 4), cell("s", 1.0, 4)
    rounds = [Round({"job": run}, {}) for run in together.runs]
    (job,) = neighbours_of(["job"], rounds, {"job": alone.runs})
    assert (job.metric, job.verdict) == ("au_nominal", "worse")
    assert job.slowdown is not None and job.slowdown.high is not None and job.slowdown.high < 0.8


SUITE = {"name": "made", "workload": "quick", "stores": {"disk": {"data_dir": "/data"}}, "axes": {"loaders": ["a", "b", "x"]}, "repeats": 2}
PAGE = """\
sweep made: 2 cells, 4 runs in 2 rounds

the same for all: workload quick, compute time 20 ms, world size 1, batch size 16, decode level parse, cache state cold,
  sync step, remainder drop, dataset 3200 samples, 209715200 record bytes, payload bytes, compressibility 0, workers 4, prefetched batches 2, accelerators per process 1
"""


def unit(name: str, reason: str = "") -> dict[str, Any]:
    job = {"name": name, "workload": "quick", "overrides": [], "data_dir": "/data", "storage_options": {}, "labels": {}}
    return {"name": name, "jobs": [job], "writers": [], "reason": reason, "settings": {"loader": name}}


def test_the_page_of_a_folder(tmp_path: Path, report_make: Make, report_write: Callable[[Path, LoadedRun], Path]) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    units = [unit("fast"), unit("slow"), unit("none", "<b>it reads</b> no npz"), unit("late")]
    record = {"schema_version": 1, "command": ["storagebench", "sweep", "made.yaml"], "suite": SUITE, "units": units}
    (folder / "sweep.json").write_text(json.dumps(record))
    refused = {"kind": "refused", "unit": "late", "round": 1, "message": "no room", "hint": "use less", "exit_code": 2}
    rows = [refused]
    for name, stall_ms in (("fast", 1.0), ("slow", 15.0)):
        for number in (1, 2):
            report_write(folder, report_make(run_id=f"{name}-r{number}", stall_ms=stall_ms, stalled=1.0, world_size=1))
            rows.append({"kind": "ended", "unit": name, "round": number, "run_id": f"{name}-r{number}", "exit_code": 0, "message": ""})
    (folder / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_sweep(folder)
    text = sweep_text(found)
    assert text[: len(PAGE)] == PAGE
    assert "fast is the best by AU (95% for all pairs together)." in text
    assert "Not run, since it does not fit:\n  none: <b>it reads</b> no npz" in text
    assert "Refused before anything was measured:\n  late: no room (next: use less)" in text
    assert (found.exit_code, found.missing) == (2, 0)
    assert [row["cell"] for row in json.loads(json.dumps(found.as_dict()))["rankings"][0]["ranked"]] == ["fast", "slow"]
    page = sweep_html(found)
    assert "&lt;b&gt;it reads&lt;/b&gt; no npz" in page and "<b>it reads" not in page
    assert 'id="rank-0"' in page and "fast is the best by AU" in page
