"""The differential ladder: the same job with one thing changed a rung, and what the differences say (reference/measurement.md section 2).

A rung has samples per second of all ranks, one value a repeat; the rungs of one repeat were measured one after the other, so their differences pair.

    null        the null loader, unpaced             what the harness itself can do
    synthetic   the null loader, paced               G, the accelerators' own rate here
    pinned      the loader on a copy in memory       P, parse, decode, collate, hand over: all but the storage
    warm        the loader on a warm page cache      the same with the file system
    cold        the job itself                       C, the result
    fetch       the loader cold, no decode, unpaced  Fw, what its own requests get out of the storage
    ceiling     raw reads, best of threads x depth   F, what the storage gives
    client      raw reads from memory                what this client could take from any storage

    stall = 1 - C/G = prep + storage + in flight + overlap, where
    prep = (G - min(G, P)) / G                       decode's, the host's or the loader's, by what the CPU did meanwhile
    storage = (min(G, P) - min(G, P, F)) / G
    in flight = (min(G, P, F) - min(G, P, F, Fw)) / G
    overlap = (min(G, P, F, Fw) - C) / G
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from storagebench.checks.distributions import student_t_quantile
from storagebench.diagnosis.verdict import AT_LIMIT, HALF, Evidence, Verdict, verdict_of
from storagebench.diagnosis.whatif import Prediction

RUNGS: Final = ("null", "synthetic", "pinned", "warm", "cold", "fetch", "ceiling", "client")
ABOUT: Final[Mapping[str, str]] = {
    "null": "null loader, no compute time: the harness",
    "synthetic": "null loader: the accelerators",
    "pinned": "loader on a copy in memory: all but the storage",
    "warm": "loader on a warm page cache",
    "cold": "the job itself",
    "fetch": "loader cold, no decode: what its requests get",
    "ceiling": "raw reads, best of threads x depth: the storage",
    "client": "raw reads from memory: this client",
}
PARTS: Final = ("storage", "decode", "loader", "host", "overlap")
# Less is noise, and no verdict is built on it.
LEAST_EFFECT: Final = 0.03
_LEVEL: Final = 0.95


@dataclass(frozen=True)
class Part:
    """A share of the accelerators' time (0..1, median over the repeats) with its interval at 95 % (None for one repeat)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Trial:
    """The knob, turned: AU with the job as it was and with the knob, taken in turns."""

    settings: Mapping[str, Any]
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def gain(self) -> float:
        return median(self.after) - median(self.before)


@dataclass(frozen=True)
class Diagnosis:
    """A ladder, judged. `rungs` has the samples/s of each repeat, `absent` why a rung has none; `split` the stall by part, `stall` all of it.
    `invalid`: why the job's own runs are, and with them all of this."""

    rungs: Mapping[str, tuple[float, ...]]
    absent: Mapping[str, str]
    au: float
    stall: Part
    split: Mapping[str, Part]
    verdict: Verdict
    evidence: Evidence
    trial: Trial | None = None
    predictions: tuple[Prediction, ...] = ()
    invalid: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "bottleneck": self.verdict.bottleneck,
            **self.verdict.as_dict(),
            "invalid": self.invalid,
            "au": self.au,
            "stall": self.stall.__dict__,
            "split": {name: part.__dict__ for name, part in self.split.items()},
            "rungs": {name: {"about": ABOUT[name], "samples_per_s": list(values)} for name, values in self.rungs.items()},
            "absent": dict(self.absent),
            "trial": None if self.trial is None else {**self.trial.__dict__, "gain": self.trial.gain},
            "what_if": [prediction.as_dict() for prediction in self.predictions],
        }


def diagnose(rungs: Mapping[str, Sequence[float]], absent: Mapping[str, str], cold: Sequence[Evidence], pinned: Sequence[Evidence]) -> Diagnosis:
    """Judge a ladder. `cold` and `pinned` are the evidence of those runs, one a repeat (`pinned` may be empty).

    The evidence of the job itself, with what the other rungs measured in the place of what a run alone can only estimate.
    """
    measured = {name: tuple(values) for name, values in rungs.items() if values}
    evidence = _evidence(measured, cold, pinned)
    verdict = verdict_of(evidence)
    rows = [_parts(measured, index, _owner_of_prep(evidence, pinned)) for index in range(len(measured["cold"]))]
    split = {name: _part([row[name] for row in rows]) for name in PARTS}
    stall = _part([sum(row.values()) for row in rows])
    if verdict.bottleneck not in ("accelerator", "host") and _is_noise(stall):
        verdict = Verdict(
            "accelerator",
            (f"the stall is {stall.value:.1%} of the time, which these repeats cannot tell from none",),
            "more accelerators: `storagebench diagnose --what-if accelerators=N`",
        )
    return Diagnosis(measured, dict(absent), evidence.au or 0.0, stall, split, verdict, evidence)


def _is_noise(stall: Part) -> bool:
    return stall.value < LEAST_EFFECT or (stall.low is not None and stall.low <= 0.0)


def _evidence(rungs: Mapping[str, Sequence[float]], cold: Sequence[Evidence], pinned: Sequence[Evidence]) -> Evidence:
    middle = _middle(cold)
    achieved = median(rungs["cold"])
    full = _middle(pinned) if pinned and _cpu_was_full(_middle(pinned)) else None
    nominal = middle.accelerator
    return replace(
        middle,
        achieved=achieved,
        accelerator=median(rungs["synthetic"]) if "synthetic" in rungs else nominal,
        cpu=median(rungs["pinned"]) if full else middle.cpu,
        prep_cpu_share=full.prep_cpu_share if full else middle.prep_cpu_share,
        storage=median(rungs["ceiling"]) if "ceiling" in rungs else None,
        au_null=min(1.0, median(rungs["synthetic"]) / nominal) if nominal and "synthetic" in rungs else middle.au_null,
    )


def _middle(several: Sequence[Evidence]) -> Evidence:
    """The median of each figure; unknown where one is."""
    names = [name for name, value in several[0].__dict__.items() if name != "setting" and not isinstance(value, Mapping)]
    middle: dict[str, Any] = {}
    for name in names:
        values = [getattr(each, name) for each in several]
        middle[name] = None if None in values else median(values)
    return replace(several[0], **middle)


def _cpu_was_full(e: Evidence) -> bool:
    return e.cpu is not None and e.achieved >= AT_LIMIT * e.cpu


def _owner_of_prep(evidence: Evidence, pinned: Sequence[Evidence]) -> str:
    """Whose the time is that is lost with the storage out of the way."""
    if not pinned:
        return "decode"
    e = _middle(pinned)
    if verdict_of(replace(evidence, storage=None)).bottleneck == "host":
        return "host"
    return ("decode" if e.prep_cpu_share >= HALF else "host") if _cpu_was_full(e) else "loader"


def _parts(rungs: Mapping[str, Sequence[float]], index: int, prep_owner: str) -> dict[str, float]:
    """The stall of one repeat, by part; they add up to 1 - C/G."""
    rate = {name: values[min(index, len(values) - 1)] for name, values in rungs.items()}
    best = rate.get("synthetic") or max(rate["cold"], 1e-9)
    parts = dict.fromkeys(PARTS, 0.0)
    left = best
    for rung, owner in (("pinned", prep_owner), ("ceiling", "storage"), ("fetch", "loader")):
        lower = min(left, rate.get(rung, left))
        parts[owner] += (left - lower) / best
        left = lower
    parts["overlap"] += (left - rate["cold"]) / best
    return parts


def _part(values: Sequence[float]) -> Part:
    """The median, and Student's t around the mean."""
    count = len(values)
    if count < 2:
        return Part(values[0], None, None)
    mean = sum(values) / count
    deviation = (sum((value - mean) ** 2 for value in values) / (count - 1)) ** 0.5
    half = student_t_quantile((1 + _LEVEL) / 2, count - 1) * deviation / count**0.5
    return Part(median(values), mean - half, mean + half)
