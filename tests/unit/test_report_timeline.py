"""What each step did over time: the parts add up to the summary's, the longest wait is found, and long runs stay small."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from storagebench.ranks import Ranks
from storagebench.report import timelineplot
from storagebench.report import wording as w
from storagebench.report.load import LoadedRun
from storagebench.report.timeline import (
    FETCH,
    HOST_DELAY,
    MAX_RANKS,
    PARTS,
    RankSteps,
    Timeline,
    around,
    overview,
    timeline,
)
from storagebench.traces import Steps

Make = Callable[..., LoadedRun]


def _made(waits_s: list[list[float]], compute_s: float = 0.01) -> Timeline:
    """Ranks that go on alone, one epoch, with these waits before their steps."""
    ranks = []
    for number, waits in enumerate(waits_s):
        parts = np.zeros((len(PARTS), len(waits)))
        parts[0], parts[1] = waits, compute_s
        ends = np.cumsum(parts.sum(axis=0))
        steps = np.arange(len(waits))
        ranks.append(RankSteps(number, np.zeros_like(steps), steps, np.ones(len(steps), dtype=bool), ends - parts.sum(axis=0), parts))
    return Timeline(tuple(ranks), len(ranks), (0.0,), 0.0, max(float(rank.ends_s[-1]) for rank in ranks))


def _drawn(found: Timeline) -> tuple[dict[str, Any], dict[str, Any]]:
    wait = found.longest_wait
    return timelineplot.whole_run(found, wait), timelineplot.longest_wait_closely(found, wait)


def test_parts_add_up_to_the_summary(report_gallery: list[LoadedRun]) -> None:
    for loaded in report_gallery:
        found = timeline(loaded)
        assert found is not None
        seen = overview(found, with_warmup=False)
        totals = seen.shares.sum(axis=1) * seen.bucket_s
        for part, total in zip(PARTS, totals, strict=True):
            assert total == pytest.approx(loaded.summary[part], rel=1e-9, abs=1e-9), (loaded.summary["run_id"], part)


def test_the_plot_shows_the_same_totals(report_gallery: list[LoadedRun]) -> None:
    loaded = report_gallery[1]
    found = timeline(loaded)
    assert found is not None
    whole, _ = _drawn(found)
    areas = {trace["name"]: trace for trace in whole["data"] if trace["type"] == "scatter"}
    for part in ("fetch_s", "compute_s", "sync_wait_s"):
        area = areas[w.STEP_PARTS[part]]
        assert sum(area["y"][:-1]) * area["dx"] == pytest.approx(loaded.summary[part], rel=0.02), part


def test_warm_up_is_in_the_overview_and_not_in_the_sums(report_make: Make) -> None:
    found = timeline(report_make(steps=20, epochs=1, world_size=1, stalled=0.0))
    assert found is not None and found.warmup_end_s == pytest.approx(0.02002)
    with_it, without = (overview(found, with_warmup=flag) for flag in (True, False))
    assert with_it.shares[1].sum() * with_it.bucket_s == pytest.approx(20 * 0.02)
    assert without.shares[1].sum() * without.bucket_s == pytest.approx(19 * 0.02)


def test_the_longest_wait_is_the_one_that_the_summary_has(report_make: Make) -> None:
    loaded = report_make(world_size=3)
    found = timeline(loaded)
    assert found is not None
    wait = found.longest_wait
    assert wait.part == FETCH and wait.wait_s == pytest.approx(loaded.summary["fetch_quantiles_s"]["max"])
    begin_s, end_s = around(found, wait)
    at_s = float(found.ranks[wait.row].begins_s[wait.at])
    assert begin_s <= at_s < end_s
    inside = [int(((rank.begins_s >= begin_s - 1e-9) & (rank.ends_s <= end_s + 1e-9)).sum()) for rank in found.ranks]
    assert inside == [60, 60, 60]


def test_a_late_wake_up_can_be_the_longest_wait(report_make: Make) -> None:
    found = timeline(report_make(stalled=0.0, host_ms=30.0))
    assert found is not None
    assert found.longest_wait.part == HOST_DELAY


def test_ranks_that_go_on_alone_do_not_flood_the_close_plot() -> None:
    """One waits 10 s while the other makes a thousand steps."""
    found = _made([[0.0] * 50 + [10.0] + [0.0] * 50, [0.0] * 1100])
    wait = found.longest_wait
    assert (wait.row, wait.at, wait.wait_s) == (0, 50, 10.0)
    begin_s, end_s = around(found, wait)
    assert begin_s < 10.5 < end_s and end_s - begin_s < 1.0
    _, close = _drawn(found)
    assert sum(len(trace["x"]) for trace in close["data"]) < 130


def test_of_many_ranks_those_that_wait_most_are_shown(report_make: Make) -> None:
    found = timeline(report_make(world_size=12, steps=60))
    assert found is not None
    shown = found.shown_rows
    assert len(shown) == MAX_RANKS and list(shown) == sorted(shown) and found.longest_wait.row in shown
    waited = [float(rank.parts_s[FETCH].sum()) for rank in found.ranks]
    left_out = [row for row in range(12) if row not in shown]
    assert sum(min(waited[row] for row in left_out) > waited[other] for other in shown) <= 1
    whole, close = _drawn(found)
    assert len(next(trace for trace in whole["data"] if trace["type"] == "heatmap")["z"]) == MAX_RANKS
    assert close["layout"]["yaxis"]["ticktext"] == [f"rank {found.ranks[row].rank}" for row in shown]


def test_long_runs_stay_small() -> None:
    waits = np.zeros(100_000)
    waits[70_000] = 0.5
    whole, close = _drawn(_made([waits.tolist()] * MAX_RANKS))
    assert len(json.dumps(whole, separators=(",", ":"))) < 30_000
    assert len(json.dumps(close, separators=(",", ":"))) < 40_000
    assert whole["layout"]["annotations"][-1]["text"] == "longest wait: 500 ms"


def test_hosts_are_put_on_one_axis(report_make: Make) -> None:
    """Two hosts booted an hour apart: their monotonic stamps differ by that. Their wall clocks are not asked, since they may be wrong."""
    loaded = report_make(world_size=2)
    apart_ns = 3600 * 10**9
    early, late = loaded.ranks.traces()
    header = {**late.header, "host": "node-2", "wall_ns": 0}
    stamps = ("asked_ns", "got_ns", "start_ns", "due_ns", "compute_end_ns", "release_ns", "sync_end_ns")
    steps = Steps.of(structs.replace(step, **{name: getattr(step, name) + apart_ns for name in stamps}) for step in late.steps)
    others = tuple({**record, "start_ns": record["start_ns"] + apart_ns} if "start_ns" in record else record for record in late.others)
    one, two = timeline(loaded), timeline(replace(loaded, ranks=Ranks(loaded.run, [early, late._replace(header=header, steps=steps, others=others)])))
    assert one is not None and two is not None
    assert two.length_s == pytest.approx(one.length_s, abs=1e-3)
    assert overview(two).shares == pytest.approx(overview(one).shares, abs=1e-2)


def test_plots_are_what_plotly_knows(report_gallery: list[LoadedRun]) -> None:
    from plotly.graph_objects import Figure

    for loaded in report_gallery:
        found = timeline(loaded)
        assert found is not None
        for figure in _drawn(found):
            Figure(figure)  # raises for an attribute that does not exist


def test_a_run_without_a_step_has_no_timeline(report_make: Make) -> None:
    assert timeline(report_make(steps=0, epochs=1, complete=False)) is None
