"""What a search found: the answer with the curve, the knee, and what ended it. A pure function of what was asked and what was tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from storagebench.errors import EXIT_INCONCLUSIVE, EXIT_OK, UsageError
from storagebench.experiments.knee import Knee, fit_knee
from storagebench.experiments.search import Answer, Ask, Rules, counts, next_step
from storagebench.experiments.searchstate import Tried, interrupted, load_search, rules_of, tried
from storagebench.experiments.signtest import boundary, error_of
from storagebench.workload import edition_of, saved_targets, target_of


@dataclass(frozen=True)
class Point:
    """All usable runs of a number: `au` and `bytes_per_s` (None where unknown) of each in order, how many met the threshold, and what stood in the way
    of them, with how many runs said so. `refused`: why it could not be tried."""

    accelerators: int
    au: tuple[float, ...]
    bytes_per_s: tuple[float, ...]
    met: int
    confirm_met: int
    confirm_missed: int
    bottlenecks: Mapping[str, int]
    refused: str = ""


@dataclass(frozen=True)
class Work:
    """What the accelerators of a search work on, as its workload says: `epoch_s` accelerator seconds of compute in an epoch (None where not known) of
    `samples`; `epochs` the fewest and most that its target `target` took (None where no target with epochs is published)."""

    accelerator: str = ""
    samples: int | None = None
    epoch_s: float | None = None
    target: str = ""
    epochs: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """The result. `demand_bytes_per_s` is that of one accelerator at AU 1; `resource` what stood in the way at the number above `answer.best`, and `why`
    the first reason of such a run; `answer` is None while the search is not at its end. `error`: the exact one of each of its two statements, 0..1."""

    name: str
    workload: str
    loader: str
    store: str
    rules: Rules
    answer: Answer | None
    error: float
    points: tuple[Point, ...]
    demand_bytes_per_s: float | None
    knee: Knee | None
    resource: str | None
    why: str
    au_null: float | None
    guess: Mapping[str, Any]
    notes: tuple[str, ...]
    left_out: Mapping[str, str]
    interrupted: tuple[str, ...]
    command: tuple[str, ...]
    work: Work = Work()

    @property
    def exit_code(self) -> int:
        """0 for an answer, 7 where the runs did not agree or more were needed, that of the runs which could not be used where they ended it."""
        if self.answer is None:
            return EXIT_INCONCLUSIVE
        if self.answer.state in ("found", "bounded"):
            return EXIT_OK
        return self.answer.exit_code or EXIT_INCONCLUSIVE

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = {name: value for name, value in self.__dict__.items() if name not in ("rules", "answer", "points", "knee", "work")}
        return {
            **plain,
            "guess": dict(self.guess),
            "left_out": dict(self.left_out),
            "exit_code": self.exit_code,
            "rules": asdict(self.rules),
            "answer": None if self.answer is None else asdict(self.answer),
            "knee": None if self.knee is None else self.knee._asdict(),
            "work": asdict(self.work),
            "points": [{**asdict(point), "bottlenecks": dict(point.bottlenecks)} for point in self.points],
        }


def found_in(folder: Path) -> Found:
    """The result of a search's folder. Raises UsageError where it holds none, DatasetError where it is damaged."""
    asked = load_search(folder)
    rules = rules_of(asked)
    return judged(folder.name, asked, tried(folder, rules), interrupted(folder, rules))


def judged(name: str, asked: Mapping[str, Any], all_tried: Sequence[Tried], stopped: Sequence[str] = ()) -> Found:
    """The same from what was asked and tried."""
    rules = rules_of(asked)
    history = [one.trial for one in all_tried if one.counts]
    step = next_step(rules, history)
    answer = None if isinstance(step, Ask) else step
    usable = [one for one in all_tried if one.trial.outcome in ("met", "missed") and one.summary is not None]
    points = tuple(_point(n, all_tried) for n in sorted({one.trial.accelerators for one in all_tried if one.trial.outcome != "unusable"}))
    demand = _demand(usable)
    rates = [(one.trial.accelerators, rate) for one in usable if one.summary and (rate := one.summary["delivered_bytes_per_s"]) is not None]
    resource, why = _in_the_way(answer, usable)
    return Found(
        name=name,
        workload=str(asked.get("workload", "")),
        loader=str(asked.get("loader", "")),
        store=str(asked.get("store", "")),
        rules=rules,
        answer=answer,
        error=error_of(boundary(rules.confidence, rules.confirmations)),
        points=points,
        demand_bytes_per_s=demand,
        knee=fit_knee(rates, demand, rules.threshold) if demand and rates else None,
        resource=resource,
        why=why,
        au_null=_au_null(answer, usable),
        guess=asked.get("guess", {}),
        notes=tuple(_notes(points)),
        left_out={one.run_id: one.trial.why for one in all_tried if one.trial.outcome == "unusable"},
        interrupted=tuple(stopped),
        command=tuple(map(str, asked.get("command", ()))),
        work=_work(str(asked.get("workload", "")), asked.get("settings", {}), usable),
    )


def _point(accelerators: int, all_tried: Sequence[Tried]) -> Point:
    mine = [one for one in all_tried if one.trial.accelerators == accelerators]
    usable = [one for one in mine if one.trial.outcome in ("met", "missed")]
    summaries = [one.summary for one in usable if one.summary is not None]
    met, missed = counts([one.trial for one in mine], accelerators)
    return Point(
        accelerators=accelerators,
        au=tuple(one.trial.au for one in usable if one.trial.au is not None),
        bytes_per_s=tuple(summary["delivered_bytes_per_s"] for summary in summaries if summary["delivered_bytes_per_s"] is not None),
        met=sum(one.trial.outcome == "met" for one in usable),
        confirm_met=met,
        confirm_missed=missed,
        bottlenecks=dict(Counter(str(summary["bottleneck"] or "unknown") for summary in summaries).most_common()),
        refused=next((one.trial.why for one in mine if one.trial.outcome == "refused"), ""),
    )


def _demand(usable: Sequence[Tried]) -> float | None:
    """Delivered bytes per second of one accelerator at AU 1: the bytes of a sample x batch size / compute time, over all usable runs."""
    samples = num_bytes = 0.0
    for one in usable:
        if one.summary is not None:
            samples, num_bytes = samples + one.summary["samples"], num_bytes + one.summary["delivered_bytes"]
    if not samples or usable[0].summary is None or not usable[0].summary["compute_time_s"]:
        return None
    return float(num_bytes / samples * usable[0].summary["batch_size"] / usable[0].summary["compute_time_s"])


def _work(name: str, settings: Mapping[str, Any], usable: Sequence[Tried]) -> Work:
    """The whole epoch of the workload, not what was measured of it; the epochs of its target in effect."""
    samples = settings.get("dataset.num_samples")
    summary = usable[0].summary if usable else None
    epoch_s = None
    if samples and summary is not None and summary["compute_time_s"]:
        epoch_s = float(samples / summary["batch_size"] * summary["compute_time_s"])
    accelerator = str(settings.get("run.accelerator", ""))
    try:
        workload = saved_targets(name, {key.removeprefix("train."): value for key, value in settings.items()})
        target = target_of(workload)
    except UsageError:  # written before targets had a source and date: the search says what it says all the same
        target = None
    if target is None or target.epochs is None:
        return Work(accelerator, samples, epoch_s)
    return Work(accelerator, samples, epoch_s, f"{edition_of(workload)}: {target.metric} {target.value:g}", target.epochs)


def _in_the_way(answer: Answer | None, usable: Sequence[Tried]) -> tuple[str | None, str]:
    """What most runs at the number above the best say, and the first reason of one of them; for a bounded search, its bound."""
    if answer is None:
        return None, ""
    if answer.state == "bounded":
        return None, answer.why
    summaries = [
        one.summary for one in usable if one.trial.accelerators == answer.fails and one.trial.outcome == "missed" and one.summary is not None
    ]
    votes = Counter(summary["bottleneck"] for summary in summaries if summary["bottleneck"]).most_common(1)
    if not votes:
        return None, answer.why
    first = next(summary for summary in summaries if summary["bottleneck"] == votes[0][0])
    reasons = (first["verdict"] or {}).get("why") or [""]
    return votes[0][0], str(reasons[0])


def _au_null(answer: Answer | None, usable: Sequence[Tried]) -> float | None:
    """The harness's own limit at the number above the best (or the largest tried): the median of those runs."""
    if not usable:
        return None
    tried_numbers = {one.trial.accelerators for one in usable}
    wanted = answer.fails if answer is not None and answer.fails in tried_numbers else max(tried_numbers)
    values = [one.summary["au_null"] for one in usable if one.trial.accelerators == wanted and one.summary and one.summary["au_null"] is not None]
    return median(values) if values else None


def _notes(points: Sequence[Point]) -> list[str]:
    """Where more accelerators did better than fewer: then there is no such thing as the largest number."""
    notes = []
    rated = [point for point in points if point.au]
    for fewer, more in ((a, b) for i, a in enumerate(rated) for b in rated[i + 1 :]):
        if 2 * fewer.met < len(fewer.au) and 2 * more.met > len(more.au):
            notes.append(
                f"{more.accelerators} accelerators met the threshold and {fewer.accelerators} did not: AU does not just fall with their number"
            )
    return notes
