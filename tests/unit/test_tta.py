"""Time to accuracy and cost: formulas by hand, what must hold of them, epochs as counts, olympic means, reference convergence points."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storagebench.checks.distributions import student_t_quantile
from storagebench.model import convergence, costs, tta
from storagebench.model.epochs import between, observed, time_spread
from storagebench.model.olympic import RUNS_REQUIRED, dropped_runs, olympic_mean
from storagebench.model.target import first_crossing
from storagebench.trainname import reaches

RATE = st.floats(1e-3, 1e9)
SECONDS = st.floats(0.0, 1e7)
SHARE = st.floats(0.0, 1.0)
PRICE = st.floats(0.0, 1e4)
# Sums of a few products: what is equal on paper differs by some units in the last place.
CLOSE = 1e-9


def test_the_formulas_by_hand() -> None:
    """8 x 7009 samples/s of H100s on ImageNet: 22.85 s an epoch (reference/workloads.md section 5), 35 epochs."""
    assert tta.rate_with_overlap(56_072.0, 40_000.0, 90_000.0) == 40_000
    assert tta.epoch_s(1_281_167, 56_072.0) == pytest.approx(22.85, abs=0.01)
    assert tta.time_to_target_s(35, tta.epoch_s(1_281_167, 56_072.0, eval_s=2.0, evals_per_epoch=0.25), start_s=10.0) == pytest.approx(
        10 + 35 * (22.849 + 0.5), abs=0.05
    )
    assert tta.stall_share(80.0, 100.0) == pytest.approx(0.2)
    assert tta.stall_share(101.0, 100.0) == 0.0
    for broken in (lambda: tta.epoch_s(10, 0.0), lambda: tta.stall_share(1.0, -1.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            broken()


@given(RATE, SHARE)
def test_without_stalls_the_rate_is_the_compute_rate(compute_per_s: float, share: float) -> None:
    rate = tta.rate_with_overlap(compute_per_s, share * compute_per_s, compute_per_s * 2)
    assert tta.stall_share(rate, compute_per_s) == pytest.approx(1.0 - share, abs=1e-6)
    assert tta.stall_share(compute_per_s, compute_per_s) == 0.0


def cost(time_s: float = 7200.0, share: float | None = 0.25, price: float = 3.0, **others: float | None) -> costs.Cost:
    values = {"train_s": time_s, "start_s": 0.0, "epochs": 4, "accelerators": 8, **others}
    return costs.training_cost(time_s=time_s, share=share, price_per_hour=price, **values)  # type: ignore[arg-type]


def test_the_cost_by_hand() -> None:
    """2 h of 8 at 3 a piece and hour: 48, of which a quarter is stalls; 100 GB at 0.73 for 2 of 730 h, 400 GB read at 0.01, a million requests at 4e-7."""
    full = cost(stored_gb=100.0, price_per_gb_month=0.73, read_gb=400.0, price_per_gb_read=0.01, requests=1e6, price_per_request=4e-7)
    assert (full.accelerators, full.stalls) == (48.0, 12.0)
    assert (full.keeping, full.reading, full.requests) == pytest.approx((0.2, 4.0, 0.4))
    assert full.total == pytest.approx(52.6) and full.epoch == pytest.approx(52.6 / 4)
    bare = cost(share=None)
    assert (bare.total, bare.stalls, bare.keeping, bare.reading, bare.requests) == (48.0, None, None, None, None)
    assert cost(start_s=3600.0).epoch == pytest.approx((48 - 24) / 4)


@given(SECONDS, SECONDS, PRICE, PRICE, SHARE)
def test_cost_grows_with_time_and_price(one_s: float, more_s: float, price: float, more: float, share: float) -> None:
    least = cost(one_s, share, price, stored_gb=10.0, price_per_gb_month=0.1)
    assert cost(one_s + more_s, share, price, stored_gb=10.0, price_per_gb_month=0.1).total >= least.total
    assert cost(one_s, share, price + more, stored_gb=10.0, price_per_gb_month=0.1).total >= least.total
    assert least.stalls is not None and 0.0 <= least.stalls <= least.accelerators * (1 + CLOSE)


def test_epochs_are_counts_and_so_is_the_time() -> None:
    """Edge of the reference, section 1: DGX-1 v0.5 Transformer, four of 3 epochs and one of 4. No quantile lies between."""
    seen = observed([3, 4, 3, 3, 3], "logs")
    assert (seen.fewest, seen.most, seen.mean) == (3, 4, 3.2)
    assert [seen.quantile(share) for share in (0.0, 0.1, 0.5, 0.8, 0.81, 0.9, 1.0)] == [3, 3, 3, 3, 4, 4, 4]
    spread = time_spread(seen, lambda count: 5.0 + 600.0 * count)
    assert spread.as_dict() == {"least_s": 1805.0, "p10_s": 1805.0, "p50_s": 1805.0, "p90_s": 2405.0, "most_s": 2405.0, "mean_s": 1925.0}


def test_a_range_says_nothing_of_what_lies_in_it() -> None:
    known = between(13, 20, "published")
    assert (known.quantile(0.5), known.mean) == (None, None)
    spread = time_spread(known, float)
    assert (spread.least_s, spread.p50_s, spread.most_s, spread.mean_s) == (13, None, 20, None)
    assert between(35, 35, "published").quantile(0.5) == 35
    for broken in (lambda: between(4, 3, ""), lambda: between(0, 3, ""), lambda: observed([], ""), lambda: observed([0], "")):
        with pytest.raises(ValueError, match="from 1"):
            broken()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), SHARE)
def test_a_quantile_is_a_count_that_was_seen(counts: list[int], share: float) -> None:
    value = observed(counts, "").quantile(share)
    assert value in counts
    assert sum(count <= value for count in counts) >= share * len(counts) - 1e-6


def test_olympic_mean_by_hand() -> None:
    assert olympic_mean([5.0, 1.0, 3.0]) == (3.0, 1, "")
    assert olympic_mean([1.0, 2.0]).value == 1.5 and "plain mean" in olympic_mean([1.0, 2.0]).why
    one_missing = olympic_mean([1.0, 2.0, 4.0, None])
    assert (one_missing.value, one_missing.dropped) == (3.0, 1) and "did not converge" in one_missing.why
    assert olympic_mean([1.0, None, 3.0, None]).value is None
    assert olympic_mean([1.0, None]).value is None
    assert olympic_mean([]).value is None


def test_of_forty_runs_four_are_dropped_on_either_side() -> None:
    assert (RUNS_REQUIRED["unet3d"], dropped_runs("unet3d"), dropped_runs("resnet")) == (40, 4, 1)
    times: list[float | None] = [float(value) for value in range(36)]
    mean = olympic_mean([*times, None, None, None, None], dropped_runs("unet3d"))
    assert mean.value == sum(range(4, 36)) / 32
    assert olympic_mean([*times[:35], None, None, None, None, None], dropped_runs("unet3d")).value is None


@given(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=50), st.integers(1, 4))
def test_olympic_mean_lies_between_the_runs_and_heeds_no_order(times: list[float], drop: int) -> None:
    mean = olympic_mean(times, drop)
    assert mean.value is not None and min(times) * (1 - CLOSE) <= mean.value <= max(times) * (1 + CLOSE)
    assert olympic_mean(times[::-1], drop) == mean


REFERENCE_128 = [16, 14, 16, 17, 16, 16, 15, 16, 15, 16]
REFERENCE_256 = [20, 21, 21, 20, 22, 22, 21, 21, 20, 20]


def points() -> list[convergence.ReferencePoint]:
    return [convergence.reference_point(128, REFERENCE_128), convergence.reference_point(256, REFERENCE_256)]


@pytest.mark.parametrize(
    ("index", "mean", "stdev", "speedup", "fewest"), [(0, "15.75", "0.43", "3.53%", "15.21"), (1, "20.75", "0.66", "4.12%", "19.93")]
)
def test_reference_points_are_those_of_the_rules_appendix(index: int, mean: str, stdev: str, speedup: str, fewest: str) -> None:
    point = points()[index]
    floor = convergence.fewest_mean_epochs(point, RUNS_REQUIRED["resnet"] - 2)
    assert (f"{point.mean:.2f}", f"{point.stdev:.2f}", f"{point.mean / floor - 1:.2%}", f"{floor:.2f}") == (mean, stdev, speedup, fewest)


def test_submissions_of_the_rules_appendix() -> None:
    first = convergence.judge(points(), 128, [15, 15, 15, 16, 16], 5)
    assert (f"{first.mean_epochs:.2f}", first.passed) == ("15.33", True)
    assert convergence.normalised_s(100.0, first) == pytest.approx(100 * 15.75 / (46 / 3))
    second = convergence.judge(points(), 256, [19, 19, 19, 20, 21], 5)
    assert (f"{second.mean_epochs:.2f}", second.passed, second.factor) == ("19.33", False, 1.0)
    third = convergence.judge(points(), 192, [17, 18, 18, 18, 20], 5)
    assert third.point is not None and third.max_speedup is not None
    assert (third.mean_epochs, f"{third.point.mean:.2f}", f"{third.point.stdev:.3f}") == (18.0, "18.25", "0.547")
    assert (f"{third.max_speedup - 1:.2%}", third.passed, third.why) == ("3.68%", True, "reference interpolated")
    assert convergence.judge(points(), 512, [30, 30, 30, 30, 30], 5).passed is None
    assert convergence.judge(points(), 64, [16, 16, 16, 16, 16], 5).passed is True
    sixth = convergence.judge(points(), 64, [13, 13, 13, 13, 13], 5)
    assert sixth.passed is None and "its own reference is needed" in sixth.why
    slower = convergence.judge(points(), 128, [17, 17, 17, 17, None], 5)
    assert (slower.passed, slower.factor) == (True, 1.0)
    assert convergence.judge(points(), 128, [17, 17, 17, None, None], 5).passed is False


def test_the_t_test_is_scipy_s() -> None:
    """At the fewest mean epochs the one-sided p-value of scipy's test of two samples is 0.05."""
    stats = pytest.importorskip("scipy.stats")
    point = points()[0]
    for runs in (3, 8, 32):
        floor = convergence.fewest_mean_epochs(point, runs)
        found = stats.ttest_ind_from_stats(floor, point.stdev, runs, point.mean, point.stdev, point.num_runs, alternative="less")
        assert found.pvalue == pytest.approx(0.05, abs=1e-6)
    for df in (1, 2, 9, 11, 38, 200):
        assert student_t_quantile(0.95, df) == pytest.approx(stats.t.ppf(0.95, df), abs=1e-6)


def test_a_reference_without_spread_allows_no_speed_up() -> None:
    point = convergence.reference_point(256, [4] * 20)
    assert convergence.fewest_mean_epochs(point, 3) == 4
    assert convergence.judge([point], 256, [4, 4, 4, 4, 4], 5).passed is True
    with pytest.raises(ValueError, match="too few"):
        convergence.reference_point(256, [4, 4])


def test_the_target_is_met_in_float32() -> None:
    """Edge case 1: runs 0 and 8 of v0.5 dgx2 gnmt stop at 21.799999237060547 = float32(21.8)."""
    assert 21.799999237060547 < 21.8 and reaches(21.799999237060547, 21.8)
    assert not reaches(0.75894, 0.759)
    assert reaches(0.0579, 0.058, lower_is_better=True) and not reaches(0.059, 0.058, lower_is_better=True)
    assert not reaches(math.nan, 0.5)


def test_the_first_crossing_counts_not_the_best() -> None:
    """Edge case 5: accuracy goes up and down."""
    curve = [(1, 0.90), (2, 0.95), (3, None), (4, 0.93), (5, 0.99)]
    assert first_crossing(curve, 0.94) == 2
    assert first_crossing(curve, 0.995) is None


def test_the_checker_of_mlcommons_allows_the_same() -> None:
    """All reference points of mlperf-logging, where it is installed: its bisection to 1e-4 against the closed form, with its own standard deviation."""
    checker = pytest.importorskip("mlperf_logging.rcp_checker.rcp_checker")
    compared = 0
    for path in sorted(Path(checker.__file__).parent.glob("training_*/rcps_*.json")):
        version, benchmark = path.parent.name.removeprefix("training_"), path.stem.removeprefix("rcps_")
        if benchmark == "dlrm":  # it has points, and the checker no number of runs for it any more
            continue
        found = checker.RCP_Checker("training", version, benchmark, False, None)
        for row in found.rcp_data.values():
            epochs = row["Epochs to converge"]
            if epochs:  # not one that was interpolated
                point = replace(convergence.reference_point(row["BS"], epochs, dropped_runs(benchmark)), stdev=statistics.pstdev(epochs))
                assert convergence.fewest_mean_epochs(point, found.submission_runs - 2) == pytest.approx(row["Min Epochs"], rel=1e-6, abs=2e-4)
                compared += 1
    assert compared > 500
