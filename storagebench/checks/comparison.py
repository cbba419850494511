"""Two sets of runs -> better, worse, or not distinguishable, and whether a regression beyond a margin is excluded. Pure, on saved runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from storagebench.checks.comparability import Difference, SavedRun, refuse_incomparable, refuse_unusable, shown_differences
from storagebench.checks.statistics import LEVEL, Ratio, Side, Spread, StepSeries, ratio_interval, spread_of
from storagebench.errors import EXIT_INCONCLUSIVE, EXIT_INVALID, EXIT_OK
from storagebench.ranks import epoch_starts
from storagebench.traces import Floats, Steps
from storagebench.window import own_steps, spans_of_clock_ns

Amount = Callable[[Steps], Floats]


class Metric(NamedTuple):
    """A figure of the summary. `step_amount` is what each step adds to its numerator, where it is a sum over steps divided by the window."""

    name: str
    higher_is_better: bool
    step_amount: Amount | None = None


METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("samples_per_s", True, lambda steps: steps.samples / 1.0),
        Metric("delivered_bytes_per_s", True, lambda steps: steps.record_bytes / 1.0),
        Metric("au_nominal", True, lambda steps: (steps.due_ns - steps.start_ns) / 1e9),
        Metric("time_to_first_batch_s", False),
        Metric("cpu_s_per_gb", False),
    )
}
EXIT_OF_REGRESSION: Final = {"excluded": EXIT_OK, "shown": EXIT_INVALID, "undecided": EXIT_INCONCLUSIVE}


@dataclass(frozen=True)
class Comparison:
    """`verdict` is better, worse or not distinguishable (the interval against 1); `regression` beyond `margin` (a ratio, 0 to 1) is excluded, shown
    or undecided. `decides` is False where a side has a single run and the user did not allow that to decide: both stay open then."""

    metric: str
    higher_is_better: bool
    margin: float
    base_runs: tuple[str, ...]
    new_runs: tuple[str, ...]
    base: Spread
    new: Spread
    ratio: Ratio
    decides: bool
    verdict: str
    regression: str
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_OF_REGRESSION[self.regression]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **{name: getattr(self, name) for name in ("metric", "higher_is_better", "margin", "decides", "verdict", "regression", "exit_code")},
            "level": LEVEL,
            "base": {"runs": list(self.base_runs), **self.base.as_dict()},
            "new": {"runs": list(self.new_runs), **self.new.as_dict()},
            "ratio": dict(self.ratio.__dict__),
            "differences": [difference._asdict() for difference in self.differences],
            "warnings": list(self.warnings),
        }


def compare(base: Sequence[SavedRun], new: Sequence[SavedRun], metric_name: str, margin: float, allow_single: bool = False) -> Comparison:
    """Compare two sets of runs, none empty. Raises RunInvalidError for invalid or incomplete runs, UsageError for runs that are not comparable.

    A single run on a side decides nothing unless `allow_single`: of 2,000 real A/A pairs of single runs on a shared host the steps alone called 57 %
    different, and against five runs 8 %, at a stated 5 % (tests/unit/data/steps.json).
    """
    metric = METRICS[metric_name]
    refuse_unusable([*base, *new], metric.name)
    refuse_incomparable(base, new)
    base_side, new_side = _side(base, metric), _side(new, metric)
    ratio = ratio_interval(base_side, new_side)
    decides = ratio.low is not None and (allow_single or not ratio.weak)
    return Comparison(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        margin=margin,
        base_runs=tuple(saved.summary["run_id"] for saved in base),
        new_runs=tuple(saved.summary["run_id"] for saved in new),
        base=spread_of(base_side.values),
        new=spread_of(new_side.values),
        ratio=ratio,
        decides=decides,
        verdict=verdict_of(ratio, metric.higher_is_better) if decides else "not distinguishable",
        regression=regression_of(ratio, metric.higher_is_better, margin) if decides else "undecided",
        differences=tuple(shown_differences(base, new)),
        warnings=tuple(_warnings([*base, *new])),
    )


def verdict_of(ratio: Ratio, higher_is_better: bool) -> str:
    """Better or worse where the interval leaves 1 out."""
    if ratio.low is None or ratio.high is None or ratio.low <= 1 <= ratio.high:
        return "not distinguishable"
    return "better" if (ratio.low > 1) == higher_is_better else "worse"


def regression_of(ratio: Ratio, higher_is_better: bool, margin: float) -> str:
    """A regression beyond the margin is a ratio below 1 - margin, or above 1 + margin where less is better."""
    if ratio.low is None or ratio.high is None:
        return "undecided"
    if higher_is_better:
        excluded, shown = ratio.low >= 1 - margin, ratio.high < 1 - margin
    else:
        excluded, shown = ratio.high <= 1 + margin, ratio.low > 1 + margin
    return "excluded" if excluded else "shown" if shown else "undecided"


def _side(runs: Sequence[SavedRun], metric: Metric) -> Side:
    steps = step_series(runs[0], metric.step_amount) if len(runs) == 1 and metric.step_amount is not None else None
    return Side(tuple(float(saved.summary[metric.name]) for saved in runs), steps)


def step_series(saved: SavedRun, amount: Amount) -> StepSeries | None:
    """The measured steps of the rank with the longest window, which sets the rates; their seconds add up to that window. None without steps."""
    longest = max(range(len(saved.ranks)), key=lambda index: saved.ranks[index].clock_ns, default=None)
    if longest is None:
        return None
    trace = saved.ranks.trace(longest)
    own = own_steps(trace.steps)
    measured, clock_ns = spans_of_clock_ns(own, epoch_starts(trace.others))
    return StepSeries(amount(own.pick(measured)), clock_ns / 1e9) if len(clock_ns) else None


def _warnings(runs: Sequence[SavedRun]) -> list[str]:
    """`CODE in run-a, run-b`, for the warnings that make the runs' own numbers weak."""
    by_code: dict[str, list[str]] = {}
    for saved in runs:
        for code in dict.fromkeys(finding["code"] for finding in saved.summary["findings"] if finding["severity"] == "warning"):
            by_code.setdefault(code, []).append(saved.summary["run_id"])
    return [f"{code} in {', '.join(names)}" for code, names in by_code.items()]
