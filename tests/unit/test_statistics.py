"""Intervals: exact small cases, then false alarms and power by simulation and on recorded runs (tests/unit/data/record_steps.py made them)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from storagebench.checks import statistics as st
from storagebench.checks.comparison import METRICS, regression_of, step_series, verdict_of
from storagebench.checks.distributions import rank_counts, student_t_quantile
from storagebench.report.load import LoadedRun

PAIRS = 2000
# Stated are 5 %; Done-when 8 of issue 3 allows one point more.
MOST_FALSE_ALARMS = 0.06
RECORDED = json.loads(Path(__file__).with_name("data").joinpath("steps.json").read_text())
RATES = np.array([run["samples_per_s"] for run in RECORDED["runs"]])
STEPS = [np.array(run["step_us"]) / 1e6 for run in RECORDED["runs"]]


def one_run(seconds: NDArray[np.float64]) -> st.Side:
    return st.Side((1 / float(seconds.mean()),), st.StepSeries(np.ones(len(seconds)), seconds))


def alarm(base: st.Side, new: st.Side) -> bool:
    return verdict_of(st.ratio_interval(base, new), True) != "not distinguishable"


@pytest.mark.parametrize(
    ("probability", "df", "expected"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 4, 2.77645), (0.975, 30, 2.04227), (0.95, 10, 1.81246), (0.5, 3, 0.0), (0.975, 1e9, 1.95996)],
)
def test_student_t_is_the_table_s(probability: float, df: float, expected: float) -> None:
    assert student_t_quantile(probability, df) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("num_runs", "low", "coverage"), [(6, 1, 0.96875), (8, 1, 0.9921875), (9, 2, 0.9609375), (20, 6, 0.95861053)])
def test_the_median_has_an_exact_interval_from_six_runs_on(num_runs: int, low: int, coverage: float) -> None:
    interval = st.median_interval([float(value) for value in range(num_runs, 0, -1)])
    assert interval is not None
    assert (interval.low, interval.high, interval.method) == (low, num_runs + 1 - low, st.ORDER)
    assert interval.coverage == pytest.approx(coverage, abs=1e-8)


def test_fewer_runs_have_a_t_interval_that_says_so_and_one_run_has_none() -> None:
    interval = st.median_interval([math.exp(0.99), math.exp(1.01)])
    assert interval is not None
    assert (interval.method, interval.coverage) == (st.T_LOGS, 0.95)
    assert math.log(interval.low) == pytest.approx(1 - 12.7062047 * 0.01, abs=1e-6)
    assert math.log(interval.high) == pytest.approx(1 + 12.7062047 * 0.01, abs=1e-6)
    assert st.median_interval([5.0]) is None
    assert st.median_interval([0.0, 1.0, 2.0]) is None


def test_spread() -> None:
    spread = st.spread_of([90.0, 110.0, 100.0])
    assert (spread.num_runs, spread.median, spread.minimum, spread.maximum, spread.spread) == (3, 100, 90, 110, 0.2)
    assert spread.variation == pytest.approx(0.1)
    single = st.spread_of([7.0])
    assert (single.median, single.spread, single.variation, single.interval) == (7, None, None, None)
    with pytest.raises(ValueError, match="at least 1"):
        st.spread_of([])


def test_welch_by_hand() -> None:
    """Logs -0.01, 0.01 against 0.09, 0.11: each mean has variance 1e-4, and 2 degrees of freedom are left."""
    ratio = st.ratio_interval(st.Side((math.exp(-0.01), math.exp(0.01))), st.Side((math.exp(0.11), math.exp(0.09))))
    assert ratio.low is not None and ratio.high is not None
    assert (ratio.method, ratio.weak) == (st.WELCH, False)
    assert math.log(ratio.value) == pytest.approx(0.1)
    assert (math.log(ratio.low), math.log(ratio.high)) == pytest.approx((0.1 - 4.30265 * math.sqrt(2e-4), 0.1 + 4.30265 * math.sqrt(2e-4)), abs=1e-6)


def test_rank_counts_are_the_table_s() -> None:
    """Of the 252 orders of 5 and 5: 1, 1, 2, 3, 5 have U = 0 .. 4 (Mann and Whitney 1947); all of them add up."""
    counts = rank_counts(5, 5)
    assert (counts[:5], sum(counts), counts == counts[::-1]) == ((1, 1, 2, 3, 5), 252, True)
    assert sum(rank_counts(7, 30)) == math.comb(37, 7)


def test_ranks_by_hand() -> None:
    """Five against five: P(U < 3) = 4 / 252, so the third smallest and third largest of the 25 differences cover 1 - 8 / 252 = 96.8 %."""
    base, new = (1.0, 2.0, 4.0, 8.0, 16.0), (3.0, 6.0, 12.0, 24.0, 4800.0)
    ratios = sorted(high / low for high in new for low in base)
    ratio = st.ratio_interval(st.Side(base), st.Side(new))
    assert (ratio.method, ratio.weak) == (st.RANKS, False)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((ratios[12], ratios[2], ratios[22]))
    methods = {
        (m, n): st.ratio_interval(st.Side(tuple(range(1, m + 1))), st.Side(tuple(range(1, n + 1)))).method for m in (2, 3, 4) for n in (4, 5, 8)
    }
    assert [pair for pair, method in methods.items() if method == st.RANKS] == [(2, 8), (3, 5), (3, 8), (4, 4), (4, 5), (4, 8)]


def test_a_disturbed_run_of_seven_does_not_hide_a_slow_down() -> None:
    base = (100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 60.0)
    ratio = st.ratio_interval(st.Side(base), st.Side((90.0, 91.0, 50.0, 90.5, 89.5, 90.2, 89.8)))
    assert regression_of(ratio, True, 0.05) == "shown"
    five = st.ratio_interval(st.Side(base[2:]), st.Side((90.0, 91.0, 90.5, 89.5, 90.2)))
    assert regression_of(five, True, 0.05) == "undecided"  # of five it may hide one, and never turns it over


def test_one_run_against_several_takes_their_spread() -> None:
    """Logs -0.01, 0.01 against 0: variance 2e-4 / 2 + 2e-4 with 1 degree of freedom."""
    ratio = st.ratio_interval(st.Side((math.exp(-0.01), math.exp(0.01))), st.Side((1.0,)))
    assert ratio.high is not None
    assert (ratio.method, ratio.weak) == (st.ONE_AGAINST_SEVERAL, True)
    assert math.log(ratio.high) == pytest.approx(12.7062047 * math.sqrt(3e-4), abs=1e-6)


def test_what_cannot_be_had_is_not_made_up() -> None:
    short = one_run(np.linspace(1, 2, st.MIN_STEPS - 1))
    ratio = st.ratio_interval(short, one_run(np.linspace(1, 2, 100)))
    assert (ratio.low, ratio.high, ratio.method, ratio.weak) == (None, None, st.NO_INTERVAL, True)
    assert regression_of(ratio, True, 0.05) == "undecided"
    for values in ((), (0.0, 1.0), (-1.0,)):
        with pytest.raises(ValueError, match="above 0"):
            st.ratio_interval(st.Side(values), st.Side((1.0, 2.0)))


def test_runs_without_any_spread_give_a_point() -> None:
    ratio = st.ratio_interval(st.Side((2.0, 2.0)), st.Side((1.0, 1.0)))
    assert ratio.value == ratio.low == ratio.high == pytest.approx(0.5)
    assert st.log_rate_variance(st.StepSeries(np.ones(80), np.full(80, 0.01))) == pytest.approx((0.0, 7.0))


def test_swapping_the_sides_turns_the_interval_over() -> None:
    base, new = st.Side(tuple(RATES[:5])), st.Side(tuple(RATES[5:9]))
    there, back = st.ratio_interval(base, new), st.ratio_interval(new, base)
    assert there.low is not None and back.high is not None
    assert there.low == pytest.approx(1 / back.high)
    assert there.low == pytest.approx(st.ratio_interval(st.Side(base.values[::-1]), new).low)  # the order of the runs does not matter


@pytest.mark.parametrize(
    ("low", "high", "higher", "verdict", "regression"),
    [
        (0.96, 1.03, True, "not distinguishable", "excluded"),
        (0.96, 0.99, True, "worse", "excluded"),
        (0.90, 1.02, True, "not distinguishable", "undecided"),
        (0.94, 0.97, True, "worse", "undecided"),
        (0.89, 0.93, True, "worse", "shown"),
        (1.01, 1.30, True, "better", "excluded"),
        (1.06, 1.30, False, "worse", "shown"),
        (1.01, 1.04, False, "worse", "excluded"),
        (0.70, 0.90, False, "better", "excluded"),
        (0.95, 1.05, True, "not distinguishable", "excluded"),
        (0.94, 0.95, True, "worse", "undecided"),
    ],
)
def test_verdicts(low: float, high: float, higher: bool, verdict: str, regression: str) -> None:
    ratio = st.Ratio(math.sqrt(low * high), low, high, st.WELCH, False)
    assert (verdict_of(ratio, higher), regression_of(ratio, higher, 0.05)) == (verdict, regression)


def test_the_steps_of_a_run_add_up_to_its_window(report_make: Callable[..., LoadedRun]) -> None:
    saved = report_make(world_size=2, steps=50, epochs=2)
    for name in ("samples_per_s", "au_nominal"):
        amount = METRICS[name].step_amount
        assert amount is not None
        steps = step_series(saved, amount)
        assert steps is not None
        assert len(steps.seconds) == saved.summary["measured_steps"] == 99
        assert steps.seconds.sum() == pytest.approx(saved.summary["window_s"], rel=1e-9)


def correlated(rng: np.random.Generator, correlation: float, num_steps: int) -> NDArray[np.float64]:
    """Step times of 10 ms, log-normal (sigma 0.5) with this lag-1 correlation of the logs; one row a run, PAIRS x 2 of them."""
    noise = rng.standard_normal((2 * PAIRS, num_steps + 50))
    for step in range(1, num_steps + 50):
        noise[:, step] = correlation * noise[:, step - 1] + math.sqrt(1 - correlation**2) * noise[:, step]
    return 0.01 * np.exp(0.5 * noise[:, 50:])


@pytest.mark.parametrize(("correlation", "num_steps"), [(0.0, 60), (0.3, 60), (0.6, 200), (0.8, 400)])
def test_false_alarms_of_blocks_on_simulated_steps(correlation: float, num_steps: int) -> None:
    runs = correlated(np.random.default_rng(11), correlation, num_steps)
    alarms = sum(alarm(one_run(runs[2 * pair]), one_run(runs[2 * pair + 1])) for pair in range(PAIRS))
    assert 0.01 * PAIRS <= alarms <= MOST_FALSE_ALARMS * PAIRS


def test_false_alarms_without_blocks_would_be_many() -> None:
    """What the blocks are for: taken as independent, steps with correlation 0.6 raise an alarm in a third of the A/A pairs."""
    runs = np.log(correlated(np.random.default_rng(11), 0.6, 200))
    differences = runs[::2].mean(axis=1) - runs[1::2].mean(axis=1)
    errors = np.sqrt((runs[::2].var(axis=1) + runs[1::2].var(axis=1)) / runs.shape[1])
    assert np.mean(np.abs(differences) > 1.96 * errors) > 0.25


def resampled(rng: np.random.Generator, seconds: NDArray[np.float64], block: int = 10) -> NDArray[np.float64]:
    starts = rng.integers(0, len(seconds), -(-len(seconds) // block))
    return np.asarray(np.concatenate([np.take(seconds, range(start, start + block), mode="wrap") for start in starts])[: len(seconds)])


def test_false_alarms_of_blocks_on_recorded_steps() -> None:
    """Both runs of a pair are made of blocks of one recorded run, so that nothing differs between them."""
    rng = np.random.default_rng(12)
    pairs = [STEPS[pair % len(STEPS)] for pair in range(PAIRS)]
    alarms = sum(alarm(one_run(resampled(rng, seconds)), one_run(resampled(rng, seconds))) for seconds in pairs)
    assert alarms <= MOST_FALSE_ALARMS * PAIRS


@pytest.mark.parametrize("num_runs", [2, 3, 5, 8])
def test_false_alarms_of_repeats_on_recorded_runs(num_runs: int) -> None:
    rng = np.random.default_rng(13)
    alarms = 0
    for _ in range(PAIRS):
        picked = rng.choice(RATES, 2 * num_runs, replace=False)
        alarms += alarm(st.Side(tuple(picked[:num_runs])), st.Side(tuple(picked[num_runs:])))
    assert alarms <= MOST_FALSE_ALARMS * PAIRS


def test_single_recorded_runs_differ_more_than_their_steps_tell() -> None:
    """Why a single run on a side decides nothing: real pairs of single runs raise alarms far beyond the stated level."""
    rng = np.random.default_rng(14)
    pairs: list[Sequence[int]] = [rng.choice(len(STEPS), 2, replace=False).tolist() for _ in range(500)]
    alarms = sum(alarm(one_run(STEPS[first]), one_run(STEPS[second])) for first, second in pairs)
    assert alarms > 0.3 * len(pairs)


@pytest.mark.parametrize("num_runs", [2, 3, 5])
def test_false_alarms_and_power_on_log_normal_runs(num_runs: int) -> None:
    """Runs that differ by 2 %: false alarms keep to the level; with five on each side a slow-down of 10 % is found, and shown to be over 5 % in 9 of 10."""
    runs = np.exp(0.02 * np.random.default_rng(15).standard_normal((PAIRS, 2, num_runs)))
    alarms = sum(alarm(st.Side(tuple(base)), st.Side(tuple(new))) for base, new in runs)
    assert alarms <= MOST_FALSE_ALARMS * PAIRS
    slower = [st.ratio_interval(st.Side(tuple(base)), st.Side(tuple(0.9 * new))) for base, new in runs]
    if num_runs == 5:
        assert sum(verdict_of(ratio, True) == "worse" for ratio in slower) >= 0.99 * PAIRS
        assert sum(regression_of(ratio, True, 0.05) == "shown" for ratio in slower) >= 0.9 * PAIRS
