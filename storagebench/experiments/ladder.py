"""Climbs the ladder of `diagnosis.ladder`: the same job with one thing changed a rung, all rungs in turn, several times over.

Knows no session: what runs a job and what reads raw is handed in (`Bench`), so that the order, the settings of each rung and what may be left out are
tested without a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from storagebench.diagnosis.ladder import Trial
from storagebench.diagnosis.online import evidence_of
from storagebench.diagnosis.verdict import Evidence, Verdict
from storagebench.errors import RunInvalidError, UsageError

# A paced rung has so many steps at least; an unpaced one is as long as it is asked to be.
LEAST_STEPS: Final = 25
MANY_EPOCHS: Final = 100_000


class Ran(NamedTuple):
    """A run of a rung: its `run.json` and its summary."""

    run: Mapping[str, Any]
    summary: Mapping[str, Any]


class Bench(Protocol):
    """What the ladder drives."""

    def run(self, rung: str, repeat: int, settings: Mapping[str, Any], on_copy: bool = False) -> Ran:
        """Run the job with these settings (config key -> value) on top; `on_copy`: on the copy in memory. Raises StorageBenchError."""

    def raw(self, cache: str) -> float:
        """Bytes per second of raw reads at the job's request size, best of threads x depth; `cache` is the job's state, or warm for this client's own limit."""


@dataclass(frozen=True)
class Asked:
    """`seconds` of a rung, `repeats` of the ladder; the job's compute time of a step and cache state;
    the loader that reads the copy in memory; what cannot be done here, and why."""

    seconds: float
    repeats: int
    compute_s: float
    cache: str
    pinned_loader: str
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Climbed:
    """What the rungs gave: samples/s of each repeat, the evidence of the job and of the copy in memory, what a sample takes from the storage, and
    why the job's own runs are invalid, if they are."""

    rungs: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    cold: list[Evidence] = field(default_factory=list)
    pinned: list[Evidence] = field(default_factory=list)
    bytes_per_sample: float = 0.0
    invalid: str | None = None

    def add(self, rung: str, samples_per_s: float) -> None:
        self.rungs.setdefault(rung, []).append(samples_per_s)


def job_settings(asked: Asked) -> dict[str, Any]:
    """The job itself, long enough for the ladder. What the rungs measure anyway is left out of the single run."""
    seconds = max(asked.seconds, LEAST_STEPS * asked.compute_s)
    return {
        "run.duration_s": seconds,
        "run.max_steps": None,
        "run.null_duration_s": 0.0,
        "run.headroom_duration_s": 0.0,
        "train.epochs": MANY_EPOCHS,
    }


def rung_settings(asked: Asked) -> dict[str, dict[str, Any]]:
    """The settings of each rung that is a run of the engine, in the order in which they are climbed."""
    job = job_settings(asked)
    unpaced = {**job, "run.duration_s": asked.seconds, "run.compute_time_s": 0.0}
    return {
        "null": {**unpaced, "loader.name": "null"},
        "synthetic": {**job, "loader.name": "null"},
        "pinned": {**unpaced, "loader.name": asked.pinned_loader, "run.cache": "as-is"},
        "warm": {**unpaced, "run.cache": "warm"},
        "cold": job,
        "fetch": {**unpaced, "run.decode": "none", "run.verify": "off"},
    }


def climb(bench: Bench, asked: Asked, say: Callable[[str], None] = lambda _text: None) -> Climbed:
    """All rungs, one after the other, `repeats` times. A rung that cannot be done is left out with its reason; the job itself must succeed."""
    found = Climbed(absent=dict(asked.absent))
    for repeat in range(1, asked.repeats + 1):
        for rung, settings in rung_settings(asked).items():
            if rung not in found.absent:
                _climb_one(bench, found, rung, repeat, settings)
        for rung, cache in (("ceiling", asked.cache), ("client", "warm")):
            if rung not in found.absent:
                found.add(rung, bench.raw(cache) / found.bytes_per_sample)
        say(f"repeat {repeat} of {asked.repeats}: " + ", ".join(f"{name} {values[-1]:.4g}" for name, values in found.rungs.items()) + " samples/s")
    return found


def _climb_one(bench: Bench, found: Climbed, rung: str, repeat: int, settings: Mapping[str, Any]) -> None:
    try:
        ran = bench.run(rung, repeat, settings, on_copy=rung == "pinned")
    except UsageError as error:
        if rung == "cold":
            raise
        found.absent[rung] = error.message
        return
    if not ran.summary["samples_per_s"]:
        reason = f"the rung {rung} measured no step after its warm-up"
        if rung == "cold":
            raise RunInvalidError(reason, "use a longer --rung-duration, or fewer --warmup-steps")
        found.absent[rung] = reason
        return
    found.add(rung, ran.summary["samples_per_s"])
    if rung not in ("cold", "pinned"):
        return
    evidence = evidence_of(ran.run, ran.summary)
    assert evidence is not None, "a run that has a rate has evidence"
    (found.cold if rung == "cold" else found.pinned).append(evidence)
    if rung == "cold":
        found.bytes_per_sample = _stored(ran)
        errors = [finding["message"] for finding in ran.summary["findings"] if finding["severity"] == "error"]
        found.invalid = found.invalid or (errors[0] if errors else None)


def _stored(ran: Ran) -> float:
    """Bytes that a sample takes from the storage."""
    return float(ran.run["dataset"]["stored_bytes"] / ran.run["dataset"]["num_samples"])


def turn(bench: Bench, asked: Asked, verdict: Verdict, repeats: int) -> Trial | None:
    """The job as it is and with the knob turned, in turns; None where the verdict has no knob that storagebench can turn, or the knob does not fit."""
    if not verdict.settings:
        return None
    found: dict[str, list[float]] = {"before": [], "after": []}
    for repeat in range(1, repeats + 1):
        for name in ("before", "after") if repeat % 2 else ("after", "before"):
            knob = verdict.settings if name == "after" else {}
            try:
                au = bench.run(name, repeat, {**job_settings(asked), **knob}).summary["au_nominal"]
            except UsageError:
                return None
            if au is None:
                return None
            found[name].append(au)
    return Trial(dict(verdict.settings), tuple(found["before"]), tuple(found["after"]))
