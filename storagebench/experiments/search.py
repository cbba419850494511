"""The policy of `search`: what was tried so far -> the next number of accelerators to try, or the answer. No clock, no run, no disk in here.

Three phases. *Bracket*: from a first guess upwards (by 1, 2, 4 ...) until a number misses the threshold. *Narrow*: where N accelerators reach the AU a,
what feeds them gives N a to all, so N a / threshold of them could be kept busy; that number is tried next, and after a few such steps the middle, until
the bracket is N and N + 1. *Confirm*: new runs at N and at N + 1, in turns (ABBA, so that a drift meets both alike), each judged by `signtest`. The runs
that found N do not count for it: they were picked because of how they came out. Where the confirmation says otherwise, the candidates move.

A number that does not fit into this host (`refused`) counts as one that is not kept busy, for that reason. A run that failed or is invalid is made once
more; a second one ends the search. Every run is counted, and `most_runs` bounds them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from storagebench.experiments.signtest import Statement, boundary, state

Purpose = Literal["bracket", "confirm"]
Outcome = Literal["met", "missed", "refused", "unusable"]
State = Literal["found", "bounded", "undecided", "ended"]
# Steps towards what the last miss predicts, before the bracket is just halved.
PREDICTED_STEPS: Final = 4
# Above this AU nothing can be told of what there is to give.
NEARLY_BUSY: Final = 0.98


@dataclass(frozen=True)
class Rules:
    """What is asked: AU at or above `threshold`, said with `confidence` (of each of the two statements) after at most `confirmations` runs at a number,
    for 1 to `most_accelerators`, in at most `most_runs` runs; `start` is the first guess."""

    threshold: float
    confidence: float
    confirmations: int
    most_accelerators: int
    most_runs: int
    start: int = 1


@dataclass(frozen=True)
class Trial:
    """One number that was tried, and how it came out; `why` says it of what was refused or cannot be used, with `exit_code`."""

    accelerators: int
    purpose: Purpose
    outcome: Outcome
    au: float | None = None
    why: str = ""
    exit_code: int = 0


class Ask(NamedTuple):
    """Try this number next."""

    accelerators: int
    purpose: Purpose


@dataclass(frozen=True)
class Answer:
    """`best`: the largest number that is kept busy (0: not even one); `fails`: the smallest one above it that is not, or cannot be tried.

    `found`: both confirmed and next to one another. `bounded`: `best` is confirmed, and nothing above it could be tried, for the reason `why`.
    `undecided`: the runs of the numbers between did not agree. `ended`: before that, for the reason `why`; then `best` may be unconfirmed (0 then)."""

    state: State
    best: int
    fails: int
    why: str = ""
    exit_code: int = 0


def next_step(rules: Rules, history: Sequence[Trial]) -> Ask | Answer:
    """The next number, or the answer. Pure; the same for the same history."""
    broken = _unusable(history)
    if isinstance(broken, Ask):
        return _within(rules, history, broken)
    if broken is not None:
        return _ended(rules, history, f"two runs in a row at {broken.accelerators} could not be used: {broken.why}", broken.exit_code)
    bracket = _bracket(rules, history)
    if isinstance(bracket, int):
        return _within(rules, history, Ask(bracket, "bracket"))
    low, high = _moved(rules, history, bracket[0])
    wanted = _turn(rules, history, low, high)
    if wanted is not None:
        return _within(rules, history, Ask(wanted, "confirm"))
    if high > low + 1:
        numbers = str(low + 1) if high == low + 2 else f"{low + 1} to {high - 1}"
        return Answer("undecided", low, high, f"the runs at {numbers} did not agree often enough")
    why = _bound(rules, history, high)
    return Answer("bounded" if why else "found", low, high, why)


def statement(rules: Rules, history: Sequence[Trial], accelerators: int) -> Statement:
    """What the confirmation runs say of a number. None at all are always kept busy; what is not to be tried or was refused never is."""
    if accelerators < 1:
        return "meets"
    if _bound(rules, history, accelerators):
        return "misses"
    met, missed = counts(history, accelerators)
    return state(met, missed, boundary(rules.confidence, rules.confirmations))


def counts(history: Sequence[Trial], accelerators: int) -> tuple[int, int]:
    """Confirmation runs at this number that met the threshold, and that missed it."""
    outcomes = [trial.outcome for trial in history if trial.accelerators == accelerators and trial.purpose == "confirm"]
    return outcomes.count("met"), outcomes.count("missed")


def num_runs(history: Sequence[Trial]) -> int:
    """Runs that were made; what was refused was none."""
    return sum(trial.outcome != "refused" for trial in history)


def _within(rules: Rules, history: Sequence[Trial], ask: Ask) -> Ask | Answer:
    if num_runs(history) < rules.most_runs:
        return ask
    return _ended(rules, history, f"{rules.most_runs} runs were made, and more are not allowed (--max-runs)")


def _ended(rules: Rules, history: Sequence[Trial], why: str, exit_code: int = 0) -> Answer:
    """What is confirmed so far."""
    tried = sorted({trial.accelerators for trial in history})
    best = max((n for n in tried if statement(rules, history, n) == "meets"), default=0)
    missed = [n for n in tried if n > best and (statement(rules, history, n) == "misses" or _outcomes(history, n) == {"missed"})]
    return Answer("ended", best, min(missed, default=rules.most_accelerators + 1), why, exit_code)


def _outcomes(history: Sequence[Trial], accelerators: int) -> set[str]:
    return {trial.outcome for trial in history if trial.accelerators == accelerators and trial.outcome in ("met", "missed")}


def _unusable(history: Sequence[Trial]) -> Ask | Trial | None:
    """After a run that cannot be used: the same again, or that second run."""
    if not history or history[-1].outcome != "unusable":
        return None
    last = history[-1]
    again = len(history) > 1 and history[-2].outcome == "unusable" and history[-2].accelerators == last.accelerators
    return last if again else Ask(last.accelerators, last.purpose)


def _bound(rules: Rules, history: Sequence[Trial], accelerators: int) -> str:
    """Why this number cannot be tried, or an empty string."""
    if accelerators > rules.most_accelerators:
        return f"no more than {rules.most_accelerators} were to be tried (--max-accelerators)"
    return next((trial.why for trial in history if trial.accelerators == accelerators and trial.outcome == "refused"), "")


def _bracket(rules: Rules, history: Sequence[Trial]) -> int | tuple[int, int]:
    """The next number of the bracket, or the bracket once it is N and N + 1."""
    tried = [trial for trial in history if trial.purpose == "bracket" and trial.outcome != "unusable"]
    low, high = 0, rules.most_accelerators + 1
    for trial in tried:
        low, high = (max(low, trial.accelerators), high) if trial.outcome == "met" else (low, min(high, trial.accelerators))
    if high <= low + 1:
        return low, high
    if not tried:
        return min(max(rules.start, 1), rules.most_accelerators)
    inside = sum(1 for _ in _after_first_miss(tried))
    if not inside:
        predicted = _predicted(rules, tried, low)
        further = low + (1 << (len(tried) - 1))
        return min(further if predicted is None else min(further, max(predicted, low) + 1), rules.most_accelerators)
    predicted = _predicted(rules, tried, high)
    if predicted is None or inside > PREDICTED_STEPS:
        return (low + high) // 2
    return min(max(predicted, low + 1), high - 1)


def _predicted(rules: Rules, tried: Sequence[Trial], accelerators: int) -> int | None:
    """How many could be kept busy by what these many get; None where they were all busy, so that it does not show."""
    au = next((trial.au for trial in tried if trial.accelerators == accelerators), None)
    if au is None or au > NEARLY_BUSY or rules.threshold <= 0:
        return None
    return int(accelerators * au / rules.threshold)


def _after_first_miss(tried: Sequence[Trial]) -> Iterator[Trial]:
    """The first trial that did not meet the threshold, and all after it."""
    seen = False
    for trial in tried:
        seen = seen or trial.outcome != "met"
        if seen:
            yield trial


def _moved(rules: Rules, history: Sequence[Trial], candidate: int) -> tuple[int, int]:
    """The two numbers that are to be confirmed: the candidate and the next one, moved by what confirmation runs have said already."""
    low, high = candidate, candidate + 1
    while (said := statement(rules, history, high)) in ("meets", "undecided"):
        low, high = (high if said == "meets" else low), high + 1
    while (said := statement(rules, history, low)) in ("misses", "undecided"):
        low, high = low - 1, (low if said == "misses" else high)
    return low, high


def _turn(rules: Rules, history: Sequence[Trial], low: int, high: int) -> int | None:
    """Which of the two is next: the one with fewer runs; where they have as many, the lower one first in even rounds. None where both are settled."""
    still_open = [n for n in (low, high) if statement(rules, history, n) == "open"]
    if len(still_open) < 2:
        return still_open[0] if still_open else None
    made = {n: sum(counts(history, n)) for n in still_open}
    if made[low] == made[high]:
        return low if made[low] % 2 == 0 else high
    return low if made[low] < made[high] else high
