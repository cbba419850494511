"""A comparison as text: both sides' figures, the ratio with its interval and method, what differs, and the verdict as the last line."""

from __future__ import annotations

from typing import Final

from storagebench.checks.comparison import Comparison
from storagebench.checks.statistics import LEVEL
from storagebench.report import wording as w
from storagebench.report.repeats import HEADINGS, aligned, figure, spread_cells

_WEAK: Final = "weak              a side has a single run, so what differs from run to run is not (or not well) in this interval"
_UNITS: Final = {"delivered_bytes_per_s": "MB/s"}


def comparison_text(comparison: Comparison) -> str:
    """The page of a comparison."""
    metric, ratio = comparison.metric, comparison.ratio
    heading = f"{metric}, in {_UNITS[metric]}" if metric in _UNITS else metric
    rows = [[heading, *HEADINGS], *([side, *spread_cells(metric, spread)] for side, spread in (("BASE", comparison.base), ("NEW", comparison.new)))]
    lines = [aligned(rows), "", f"ratio NEW / BASE  {_ratio(comparison)}", f"interval by       {ratio.method}"]
    lines += [f"differs           {w.printable(d.fact)}: {w.printable(d.base)} -> {w.printable(d.new)}" for d in comparison.differences]
    lines += [f"warning           {w.printable(warning)}" for warning in comparison.warnings]
    if ratio.weak:
        lines.append(_WEAK)
    return "\n".join([*lines, "", verdict_sentence(comparison)]) + "\n"


def _ratio(comparison: Comparison) -> str:
    ratio = comparison.ratio
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.4f} (no interval)"
    return f"{ratio.value:.4f} ({LEVEL:.0%} interval {ratio.low:.4f} to {ratio.high:.4f})"


def verdict_sentence(comparison: Comparison) -> str:
    """What one may say: the direction, how sure, and whether the margin is kept."""
    ratio, metric = comparison.ratio, comparison.metric
    medians = f"{figure(metric, comparison.new.median)} against {figure(metric, comparison.base.median)}"
    unit = f" {_UNITS[metric]}" if metric in _UNITS else ""
    if ratio.low is None or ratio.high is None:
        between = "no interval can be given"
    else:
        between = f"{ratio.low - 1:+.1%} to {ratio.high - 1:+.1%} at {LEVEL:.0%}"
    margin = f"{comparison.margin * 100:g}%"
    if not comparison.decides:
        end = "a single run on a side decides nothing: repeat both sides (`run --repeat 5`), or say --allow-single"
    else:
        end = {
            "excluded": f"a regression beyond {margin} is excluded",
            "shown": f"a regression beyond {margin} is shown",
            "undecided": f"a regression beyond {margin} is neither shown nor excluded: repeat both sides more often",
        }[comparison.regression]
    strength = " (weak)" if ratio.weak else ""
    return f"{comparison.verdict}{strength}: {metric} of NEW is {medians}{unit} of BASE, {between}; {end}."
