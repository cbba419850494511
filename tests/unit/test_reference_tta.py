"""Published trainings, worked out again: DAWNBench to the digit, MLPerf's logs within the bounds of issue 7, each odd row by a named rule."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from storagebench.model.olympic import olympic_mean

_spec = importlib.util.spec_from_file_location("reference_tta", Path(__file__).parents[2] / "benchmarks" / "reference_tta.py")
assert _spec is not None and _spec.loader is not None
reference: Any = importlib.util.module_from_spec(_spec)
sys.modules["reference_tta"] = reference  # dataclasses look their own module up
_spec.loader.exec_module(reference)

ROWS = reference.read_runs()
CHECKED = {one.submission: one for one in reference.check_all(ROWS)}
LOOSE = {"maskrcnn", "ssd"}
TIGHT = {"resnet", "gnmt", "transformer", "bert", "dlrm", "rnnt"}


def of(*submission: str) -> list[Any]:
    return [row for row in ROWS if row.submission == submission]


def by_rule() -> dict[str, set[tuple[str, ...]]]:
    found: dict[str, set[tuple[str, ...]]] = {}
    for row in ROWS:
        rule = reference.rule_of(row)
        if rule is not None:
            found.setdefault(rule.name, set()).add((*row.submission, str(row.run)) if rule.name == "no epoch time" else row.submission)
    return found


def test_dawnbench_s_times_and_costs_are_ours() -> None:
    count, differences = reference.dawnbench_differences()
    assert (count, differences) == (29, [])


def test_the_bounds_are_those_of_the_issue() -> None:
    assert {**dict.fromkeys(TIGHT, 0.05), **dict.fromkeys(LOOSE, 0.20)} == reference.BOUNDS


@pytest.mark.parametrize("submission", list(CHECKED), ids=" ".join)
def test_the_projection_is_within_its_bound(submission: tuple[str, str, str]) -> None:
    one = CHECKED[submission]
    if submission in {("0.5", "dgx2", "resnet"), ("3.0", "dgxh100", "unet3d")}:
        assert (one.verdict, one.ratio, one.projected) == ("not projected", None, 0)
        assert one.notes
    elif submission[2] in {"ncf", "minigo"}:
        assert one.verdict == "shown" and one.notes
    else:
        assert one.verdict == "within", one


def test_odd_rows_are_read_by_a_named_rule_and_no_others() -> None:
    assert by_rule() == {
        "no epoch events": {("3.0", "dgxh100", "unet3d")},
        "logged twice": {("0.5", "dgx2", "resnet")},
        "no epoch time": {("0.5", "dgx2", "gnmt", "0"), ("0.5", "dgx2", "gnmt", "8")},
        "a start too many": {("0.7", "dgx1", "ssd"), ("0.7", "dgxa100", "ssd")},
        "last epoch cut off": {("3.0", "dgxh100", "ssd")},
    }
    assert sum(one.runs for one in CHECKED.values()) == len(ROWS) == 263


def test_the_bounds_hold_without_the_two_rules_that_change_epochs_as_well() -> None:
    for submission in (("0.7", "dgx1", "ssd"), ("0.7", "dgxa100", "ssd"), ("3.0", "dgxh100", "ssd")):
        assert abs(median(row.epochs * row.epoch_s / row.tta_s for row in of(*submission)) - 1) <= 0.20


def test_ncf_s_residual_is_what_goes_before_the_first_epoch() -> None:
    for system in ("dgx1", "dgx2"):
        one = CHECKED["0.5", system, "ncf"]
        rows = of("0.5", system, "ncf")
        assert one.ratio < 0.8 and one.start_s > 5.0
        with_start = median((one.start_s + reference.projected_s(row)) / row.tta_s for row in rows)
        assert with_start == pytest.approx(1.0, abs=0.02)


def test_minigo_s_events_do_not_count_the_way_to_the_target() -> None:
    for system in ("dgx1", "dgxa100"):
        rows = of("0.7", system, "minigo")
        assert {row.epochs for row in rows} == {54}
        assert max(row.tta_s for row in rows) > 1.15 * min(row.tta_s for row in rows)
        assert CHECKED["0.7", system, "minigo"].ratio > 1.1


def test_edge_1_the_target_in_float32() -> None:
    rows = {row.run: row for row in of("0.5", "dgx2", "gnmt")}
    assert rows[0].quality == rows[8].quality == 21.799999237060547
    assert all(reference.reached(row) for row in rows.values())


def test_edge_2_a_run_that_did_not_converge_is_the_slowest() -> None:
    rows = {row.run: row for row in of("3.0", "dgxh100", "resnet")}
    assert (rows[3].quality, rows[3].epochs, reference.reached(rows[3]), reference.reached(rows[1])) == (0.75894, 37, False, True)
    assert rows[3].tta_s > rows[1].tta_s
    mean = olympic_mean([row.tta_s if reference.reached(row) else None for row in (rows[1], rows[1], rows[1], rows[3])])
    assert mean.value == pytest.approx(rows[1].tta_s) and "did not converge" in mean.why


def test_edge_3_the_end_of_a_log_is_not_the_target() -> None:
    for system, below in (("dgx1", 9), ("dgx2", 5)):
        rows = of("0.5", system, "ncf")
        missed = [row for row in rows if reference.reached(row) is False]
        assert len(rows) == 50 and len(missed) == below
        assert {row.epochs for row in missed} == {20}


def test_only_these_ended_below_their_target() -> None:
    missed = {row.submission for row in ROWS if reference.reached(row) is False}
    assert missed == {("0.5", "dgx1", "ncf"), ("0.5", "dgx2", "ncf"), ("3.0", "dgxh100", "resnet")}


def test_edge_4_a_straggler_moves_the_mean_and_not_the_median() -> None:
    rows = {row.run: row for row in of("3.0", "dgxh100", "maskrcnn")}
    assert (rows[2].epochs, rows[2].tta_s) == (33, 2352.97)
    times = [row.tta_s for row in rows.values()]
    assert sum(times) / 3 > 1.3 * median(times) and olympic_mean(times).value == median(times) == 1152.27


def test_edge_6_columns_that_mean_something_else() -> None:
    (bleu,) = {reference.quality_of(row) for row in of("0.7", "dgx1", "gnmt") if row.run == 2}
    assert bleu == pytest.approx(24.08)
    assert {reference.global_batch_size(row) for row in of("0.5", "dgx1", "resnet")} == {1664}
    assert {reference.global_batch_size(row) for row in of("0.7", "dgx1", "resnet")} == {1664}
    assert {reference.global_batch_size(row) for row in of("0.5", "dgx1", "gnmt")} == {1024}
    assert {reference.train_samples(row) for row in of("0.5", "dgx1", "ssd")} == {None}
    assert {reference.train_samples(row) for row in of("3.0", "dgxh100", "ssd")} == {None}
    assert {reference.train_samples(row) for row in of("0.7", "dgx1", "ssd")} == {117_266}
    assert {reference.train_samples(row) for row in of("0.7", "dgx1", "maskrcnn")} == {None}


def test_ffcv_s_times_are_linear_in_the_epochs() -> None:
    line = reference.fit_time([epochs for epochs, _ in reference.FFCV], [minutes for _, minutes in reference.FFCV])
    assert (f"{line.epoch:.4f}", f"{line.start:.2f}", f"{line.largest_residual:.2f}") == ("0.8657", "0.98", "0.07")
    assert 1_281_167 / (line.epoch * 60) == pytest.approx(24_665, rel=1e-3)


def test_the_command_prints_every_submission(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reference_tta.py"])
    assert reference.main() == 0
    out = capsys.readouterr().out
    for submission in CHECKED:
        assert f"\n{' '.join(submission)} " in out
    assert "29 entries, 0 differ" in out and "MISSED" not in out


def test_a_missed_bound_is_seen() -> None:
    rows = [reference.Logged("0.7", "dgx1", "resnet", run, 1664, 1_281_167, 37, 5000.0, 114.7, 0.76) for run in range(3)]
    assert reference.check(rows).verdict == "MISSED"
