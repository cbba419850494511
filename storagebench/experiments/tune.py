"""Tunes: searches a space of settings for a time, looks again at the best few, and holds the best against the defaults in fresh runs, in turns.

Knows no session and no Optuna: what measures a point, what proposes one, and the time it took are handed in, so that planted landscapes test all of it.
The state is the list of trials so far, whatever process made them: the same command goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, Final, NamedTuple, Protocol

from storagebench.checks.comparison import verdict_of
from storagebench.checks.statistics import Ratio, Side, Spread, ratio_interval, spread_of
from storagebench.experiments.space import Dimension, Point, default_point, key_of, neighbours, num_points

SEARCH, FINAL, CONFIRM = "search", "final", "confirm"
# The verdict on a best that failed in one of its fresh runs: however fast the others were, nobody is told to use it.
UNRELIABLE: Final = "unreliable"
FINALISTS: Final = 4
FINAL_REPEATS: Final = 2
# From four against four on ranks are exact at 95 % (checks.statistics); more pairs narrow the interval for as long as there is time.
LEAST_PAIRS: Final = 4
MOST_PAIRS: Final = 15
_WANTED_PAIRS: Final = 6
# What the end of a tuning needs is kept back, but no more than this share of the time.
_MOST_RESERVE: Final = 0.5
LEAST_SEARCH: Final = 6
# In turns with the sampler: a step away from the best so far. A sampler alone takes long over the last step on a grid.
_STARTUP: Final = 10


class Trial(NamedTuple):
    """One run. `value` is None where it gave none (refused, failed, false), and `why` says so; `seconds` is all that it took."""

    number: int
    phase: str
    point: Point
    value: float | None
    seconds: float
    run_id: str = ""
    why: str = ""


class Measured(NamedTuple):
    """What a trial gave."""

    value: float | None
    seconds: float
    run_id: str = ""
    why: str = ""


class Proposer(Protocol):
    """Suggests points, and learns what they gave."""

    def ask(self) -> Point: ...
    def tell(self, point: Point, value: float | None) -> None:
        """`value` None: it cannot be run."""


@dataclass(frozen=True)
class Asked:
    """The space, the seconds in all, the seed, and the most trials of the search (None: as many as the time holds)."""

    space: Sequence[Dimension]
    seconds: float
    seed: int
    most_trials: int | None = None


@dataclass(frozen=True)
class Tuned:
    """`best` is the point that the search settled on (None where none but the default could be run), `ratio` best / defaults over the fresh runs, `better` whether
    its interval says that the best beats the defaults."""

    trials: tuple[Trial, ...]
    default: Point
    best: Point | None
    default_spread: Spread | None
    best_spread: Spread | None
    ratio: Ratio | None
    verdict: str

    @property
    def better(self) -> bool:
        return self.verdict == "better"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "default": dict(self.default),
            "best": None if self.best is None else dict(self.best),
            "verdict": self.verdict,
            "ratio": None if self.ratio is None else dict(self.ratio.__dict__),
            "default_runs": None if self.default_spread is None else self.default_spread.as_dict(),
            "best_runs": None if self.best_spread is None else self.best_spread.as_dict(),
            "trials": [{**trial._asdict(), "point": dict(trial.point)} for trial in self.trials],
        }


Measure = Callable[[int, str, Point], Measured]


class Tuning:
    """The loop. `refuses` says why a point would not be run at all (it does not fit into the budget), or "": that costs no time and is no trial."""

    def __init__(
        self,
        asked: Asked,
        proposer: Proposer,
        measure: Measure,
        refuses: Callable[[Point], str],
        past: Sequence[Trial] = (),
        note: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self._asked, self._proposer, self._measure, self._refuses, self._note = asked, proposer, measure, refuses, note
        self._default = default_point(asked.space)
        self._trials = list(past)
        self._refused: dict[Any, str] = {}
        for trial in past:
            if trial.phase == SEARCH:
                proposer.tell(trial.point, trial.value)

    def run(self) -> Tuned:
        """Search, look again, confirm."""
        if not self._of(SEARCH):
            self._take(SEARCH, self._default)
        while self._may_search() and (point := self._propose()) is not None:
            self._take(SEARCH, point)
        finalists = self._finalists()
        while self._may_look_again(len(finalists)):
            self._take(FINAL, finalists[len(self._of(FINAL)) % len(finalists)])
        best = self._best(finalists)
        if best is not None:
            self._confirm(best)
        return self._result(best)

    def _of(self, phase: str) -> list[Trial]:
        return [trial for trial in self._trials if trial.phase == phase]

    @property
    def _spent_s(self) -> float:
        return sum(trial.seconds for trial in self._trials)

    @property
    def _trial_s(self) -> float:
        """What a trial takes, as far as is known."""
        return mean(trial.seconds for trial in self._trials) if self._trials else 0.0

    def _take(self, phase: str, point: Point) -> None:
        number = len(self._trials)
        trial = Trial(number, phase, dict(point), *self._measure(number, phase, point))
        self._trials.append(trial)
        self._note(trial)
        if phase == SEARCH:
            self._proposer.tell(point, trial.value)

    def _may_search(self) -> bool:
        done = len(self._of(SEARCH))
        if self._of(FINAL) or self._of(CONFIRM) or (self._asked.most_trials is not None and done >= self._asked.most_trials):
            return False
        reserve = min(_MOST_RESERVE * self._asked.seconds, self._trial_s * (FINALISTS * FINAL_REPEATS + 2 * _WANTED_PAIRS))
        return done < LEAST_SEARCH or self._spent_s + self._trial_s <= self._asked.seconds - reserve

    def _may_look_again(self, num_finalists: int) -> bool:
        """Where the time is short, the pairs that confirm come first."""
        done = len(self._of(FINAL))
        if num_finalists < 2 or done >= FINAL_REPEATS * num_finalists or self._of(CONFIRM):
            return False
        return self._spent_s + self._trial_s * (1 + 2 * LEAST_PAIRS) <= self._asked.seconds

    def _propose(self) -> Point | None:
        """A point that was not tried and is not refused; None where there is none left."""
        tried = {key_of(trial.point) for trial in self._trials}
        done = len(self._of(SEARCH))
        if done >= _STARTUP and done % 3 == 0:
            near = self._near_the_best(tried)
            if near is not None:
                return near
        for _ in range(4 * num_points(self._asked.space)):
            point = self._proposer.ask()
            if key_of(point) not in tried and not self._is_refused(point):
                return point
            if len(tried) + len(self._refused) >= num_points(self._asked.space):
                return None
            near = self._near_the_best(tried) if key_of(point) in tried else None
            if near is not None:
                return near
        return None

    def _near_the_best(self, tried: set[Any]) -> Point | None:
        """An untried step away from one of the best few so far, the best first."""
        draw = random.Random(f"{self._asked.seed}-{len(self._trials)}")
        for start in self._leaders(FINALISTS, with_default=True):
            near = list(neighbours(self._asked.space, start))
            single = 2 * len(self._asked.space)
            for part in (near[:single], near[single:]):
                draw.shuffle(part)
                for point in part:
                    if key_of(point) not in tried and not self._is_refused(point):
                        return point
        return None

    def _is_refused(self, point: Point) -> bool:
        key = key_of(point)
        if key not in self._refused:
            why = self._refuses(point)
            if not why:
                return False
            self._refused[key] = why
            self._proposer.tell(point, None)
        return True

    def _values(self, point: Point, *phases: str) -> list[float]:
        key = key_of(point)
        return [trial.value for trial in self._trials if trial.value is not None and trial.phase in phases and key_of(trial.point) == key]

    def _leaders(self, count: int, with_default: bool) -> list[Point]:
        points = {key_of(trial.point): trial.point for trial in self._of(SEARCH) if trial.value is not None}
        if not with_default:
            points.pop(key_of(self._default), None)
        return sorted(points.values(), key=lambda point: -median(self._values(point, SEARCH)))[:count]

    def _finalists(self) -> list[Point]:
        return self._leaders(FINALISTS, with_default=False)

    def _best(self, finalists: Sequence[Point]) -> Point | None:
        """The best median over all trials of a finalist: the one that search flattered falls back. One that failed meanwhile is out."""
        failed = {key_of(trial.point) for trial in self._of(FINAL) if trial.value is None}
        able = [point for point in finalists if key_of(point) not in failed]
        return max(able, key=lambda point: median(self._values(point, SEARCH, FINAL)), default=None)

    def _confirm(self, best: Point) -> None:
        """Fresh runs of both in turns, the first of a pair drawn; the search's own values do not count, since it picked the highest of them."""
        while True:
            done = len(self._of(CONFIRM))
            pairs, half = divmod(done, 2)
            if not half and (pairs >= MOST_PAIRS or (pairs >= LEAST_PAIRS and self._spent_s + 2 * self._trial_s > self._asked.seconds)):
                return
            first = random.Random(f"{self._asked.seed}-pair-{pairs}").random() < 0.5
            self._take(CONFIRM, self._default if first != bool(half) else best)

    def _result(self, best: Point | None) -> Tuned:
        sides = [] if best is None else [self._values(point, CONFIRM) for point in (self._default, best)]
        usable = bool(sides) and all(sides) and min(min(side) for side in sides) > 0
        ratio = ratio_interval(Side(tuple(sides[0])), Side(tuple(sides[1]))) if usable else None
        verdict = verdict_of(ratio, True) if ratio is not None and not ratio.weak else "not distinguishable"
        if best is not None and any(trial.value is None and key_of(trial.point) == key_of(best) for trial in self._of(CONFIRM)):
            verdict = UNRELIABLE
        spreads = [spread_of(side) if side else None for side in sides] or [None, None]
        return Tuned(tuple(self._trials), self._default, best, spreads[0], spreads[1], ratio, verdict)


def least_trials() -> int:
    """Trials that a tuning makes at least, where all can be run."""
    return LEAST_SEARCH + 2 * LEAST_PAIRS


def trial_of(row: Mapping[str, Any]) -> Trial:
    """A trial as the journal has it."""
    return Trial(**{name: row[name] for name in Trial._fields})
