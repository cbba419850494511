"""The same request several times, one run after another: all runs are kept and shown, and none is picked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storagebench.checks.statistics import LEVEL, Spread, spread_of
from storagebench.errors import EXIT_DATASET, EXIT_INVALID, EXIT_OK, EXIT_RANK, EXIT_STORAGE
from storagebench.experiments.trainings import TrainingSpread, training_spreads

Summary = Mapping[str, Any]
METRICS: Final = ("au_nominal", "samples_per_s", "delivered_bytes_per_s")
# From good to worst: a finished run with a false number, a rank that died (which storage or dataset may have caused), the storage, the dataset.
_WORSE: Final = (EXIT_OK, EXIT_INVALID, EXIT_RANK, EXIT_STORAGE, EXIT_DATASET)
# MLPerf Storage: a result whose runs differ more is not published (reference/measurement.md section 7).
UNSTABLE_SPREAD: Final = 0.05
UNSTABLE_VARIATION: Final = 0.10


@dataclass(frozen=True)
class Repeats:
    """All runs in order. `spreads` has a metric's figures over the runs in which it is true (complete and valid), or None where there are none;
    `left_out` names the other runs with the reason."""

    summaries: tuple[Summary, ...]
    spreads: Mapping[str, Spread | None]
    left_out: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """The worst of the runs'."""
        return worst_code(_code(summary) for summary in self.summaries)

    @property
    def unstable(self) -> tuple[str, ...]:
        """Metrics whose runs lie too far apart to publish: (max - min) / median over 5 %, or a standard deviation of 10 % of the mean or more."""
        return tuple(name for name, spread in self.spreads.items() if spread is not None and _is_unstable(spread))

    @property
    def trainings(self) -> Mapping[str, TrainingSpread]:
        """Time to the target and epochs of the trainings in which they are true; empty where nothing was trained."""
        return training_spreads([summary for summary in self.summaries if _is_true(summary)])

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: every summary, and the figures over them."""
        return {
            "exit_code": self.exit_code,
            "num_runs": len(self.summaries),
            "left_out": dict(self.left_out),
            "level": LEVEL,
            "unstable": list(self.unstable),
            "metrics": {name: None if spread is None else spread.as_dict() for name, spread in self.spreads.items()},
            **({"training": {name: spread.as_dict() for name, spread in self.trainings.items()}} if self.trainings else {}),
            "runs": [dict(summary) for summary in self.summaries],
        }


def worst_code(codes: Iterable[int]) -> int:
    """The exit code that tells most; 0 for none.

    >>> worst_code([0, 6, 5])
    5
    """
    return max(codes, key=lambda code: _WORSE.index(code) if code in _WORSE else len(_WORSE), default=EXIT_OK)


def run_ids(name: str, num_runs: int) -> list[str]:
    """NAME-1 to NAME-N.

    >>> run_ids("base", 2)
    ['base-1', 'base-2']
    """
    return [f"{name}-{number}" for number in range(1, num_runs + 1)]


def repeat(ids: Sequence[str], run_one: Callable[[str], Summary]) -> Repeats:
    """Make these runs in order. `run_one` makes the run of this id and returns its summary, also of a run that failed; what it raises (a bad request,
    an interrupt) ends the repetition, and the runs made so far stay on disk."""
    return summed_up([run_one(run_id) for run_id in ids])


def summed_up(summaries: Sequence[Summary]) -> Repeats:
    """The figures over these runs, at least one."""
    left_out = {summary["run_id"]: _why(summary) for summary in summaries if not _is_true(summary)}
    spreads: dict[str, Spread | None] = {}
    for metric in METRICS:
        values = [summary[metric] for summary in summaries if _is_true(summary) and summary[metric] is not None]
        spreads[metric] = spread_of(values) if values else None
    return Repeats(tuple(summaries), spreads, left_out)


def _is_true(summary: Summary) -> bool:
    return bool(summary["status"] == "complete" and summary["valid"])


def _why(summary: Summary) -> str:
    return "invalid" if summary["status"] == "complete" else str(summary["status"])


def _code(summary: Summary) -> int:
    return EXIT_RANK if summary["exit_code"] is None else int(summary["exit_code"])


def _is_unstable(spread: Spread) -> bool:
    return (spread.spread or 0.0) > UNSTABLE_SPREAD or (spread.variation or 0.0) >= UNSTABLE_VARIATION
