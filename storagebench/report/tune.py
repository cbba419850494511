"""A tuning as text: what was turned, the best against the defaults, and as the last line a command to copy, or that the defaults stand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from storagebench.checks.statistics import LEVEL, Spread
from storagebench.experiments.space import Dimension, Point
from storagebench.experiments.tune import SEARCH, UNRELIABLE, Tuned
from storagebench.report import wording as w
from storagebench.report.repeats import HEADINGS, aligned, spread_cells

_NAMES: Final = {"au_nominal": "AU", "samples_per_s": "samples/s without compute time"}


def tune_text(tuned: Tuned, metric: str, why: str, space: Sequence[Dimension], best_command: Sequence[str], default_command: Sequence[str]) -> str:
    """The page of a tuning."""
    searched = [trial for trial in tuned.trials if trial.phase == SEARCH]
    failed = [trial for trial in tuned.trials if trial.value is None]
    lines = [f"objective  {_NAMES[metric]}: {w.printable(why)}"]
    lines += [f"{'turned' if not index else '':<9}  {_dimension(one)}" for index, one in enumerate(space)]
    lines.append(
        f"trials     {len(searched)} settings searched, {len(tuned.trials)} runs in {w.seconds(sum(trial.seconds for trial in tuned.trials))}"
    )
    lines += [f"failed     {trial.run_id}: {w.printable(trial.why)}" for trial in failed]
    if tuned.best is not None:
        lines += [f"best       {settings(tuned.best)}", f"defaults   {settings(tuned.default)}", "", _table(tuned, metric)]
    lines += ["", conclusion(tuned, metric)]
    lines.append(shlex.join(best_command if tuned.better else default_command))
    return "\n".join(lines) + "\n"


def settings(point: Point) -> str:
    return " ".join(f"{key}={w.printable(value)}" for key, value in point.items())


def conclusion(tuned: Tuned, metric: str) -> str:
    """What one may say; the command line follows it."""
    if tuned.best is None:
        return "Could not beat the defaults: no other setting could be run. The defaults are:"
    if tuned.verdict == UNRELIABLE:
        return "Could not beat the defaults: the best found failed in some of its fresh runs (see above). The defaults are:"
    if tuned.ratio is None or tuned.ratio.low is None or tuned.ratio.high is None:
        return "Could not beat the defaults: the runs that were to confirm it gave no interval. The defaults are:"
    between = f"{tuned.ratio.low - 1:+.1%} to {tuned.ratio.high - 1:+.1%} at {LEVEL:.0%}, {tuned.ratio.method}"
    if tuned.better:
        return f"The best beats the defaults: {tuned.ratio.value - 1:+.1%} {_NAMES[metric]} ({between}). To use it:"
    return f"Could not beat the defaults: the best found gives {tuned.ratio.value - 1:+.1%} {_NAMES[metric]} ({between}). The defaults are:"


def _dimension(one: Dimension) -> str:
    return f"{one.key}: {', '.join(w.printable(value) for value in one.values)} (default {w.printable(one.default)})"


def _table(tuned: Tuned, metric: str) -> str:
    sides: list[tuple[str, Spread | None]] = [("defaults", tuned.default_spread), ("best", tuned.best_spread)]
    rows = [[f"confirmed {_NAMES[metric]}", *HEADINGS]]
    rows += [[name, *(spread_cells(metric, spread) if spread is not None else [w.UNKNOWN] * len(HEADINGS))] for name, spread in sides]
    return aligned(rows)
