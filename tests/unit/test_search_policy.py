"""The policy of `search` and its sign test: exact errors, known responses, noisy ones, ones that are not monotone, and always an end."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.errors import UsageError
from storagebench.experiments.knee import fit_knee
from storagebench.experiments.search import Answer, Ask, Outcome, Rules, Trial, counts, next_step, num_runs, statement
from storagebench.experiments.signtest import boundary, error_of, state

Respond = Callable[[Ask, random.Random], Trial]
MAX = 1024


def rules(**changes: float) -> Rules:
    values = {"threshold": 0.9, "confidence": 0.95, "confirmations": 12, "most_accelerators": MAX, "most_runs": 80, "start": 1, **changes}
    return Rules(**values)  # type: ignore[arg-type]


def run_all(asked: Rules, respond: Respond, seed: int = 1) -> tuple[Answer, list[Trial]]:
    """The policy against a response; it must come to an end by itself."""
    history: list[Trial] = []
    rng = random.Random(seed)
    for _ in range(asked.most_runs + 2 * MAX):
        step = next_step(asked, history)
        assert step == next_step(asked, tuple(history))  # nothing is remembered
        if isinstance(step, Answer):
            return step, history
        assert 1 <= step.accelerators <= asked.most_accelerators
        history.append(respond(step, rng))
    raise AssertionError("no end")


def of_au(au: Callable[[int, random.Random], float], threshold: float = 0.9) -> Respond:
    def respond(ask: Ask, rng: random.Random) -> Trial:
        found = min(1.0, max(0.0, au(ask.accelerators, rng)))
        return Trial(*ask, "met" if found >= threshold else "missed", found)

    return respond


def of_chance(chance: Callable[[int], float]) -> Respond:
    def respond(ask: Ask, rng: random.Random) -> Trial:
        met = rng.random() < chance(ask.accelerators)
        return Trial(*ask, "met" if met else "missed", 0.95 if met else 0.8)

    return respond


@pytest.mark.parametrize(("confidence", "most_runs"), [(0.95, 12), (0.9, 8), (0.8, 6), (0.75, 2), (0.99, 12), (0.95, 5)])
def test_the_sign_test_errs_as_often_as_it_says(confidence: float, most_runs: int) -> None:
    """Every sequence of runs that meet with probability 1/2, enumerated."""
    bounds = boundary(confidence, most_runs)
    wrong = 0
    for sequence in itertools.product((0, 1), repeat=most_runs):
        looks = [state(sum(sequence[:n]), n - sum(sequence[:n]), bounds) for n in range(1, most_runs + 1)]
        first = next((look for look in looks if look in ("meets", "misses")), "undecided")
        wrong += first == "meets"
    # Most sequences that ever cross one side do so first; those that crossed the other side before were stopped there.
    assert wrong / 2**most_runs <= error_of(bounds) + 1e-12 <= 1 - confidence + 2e-12


def test_the_sign_test_in_known_cases() -> None:
    assert boundary(0.95, 12) == (-1, -1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2)  # 5 of 5, 8 of 9, 10 of 12
    assert error_of(boundary(0.95, 5)) == 2**-5
    assert [state(met, missed, boundary(0.95, 12)) for met, missed in ((4, 0), (5, 0), (0, 5), (8, 1), (6, 6))] == [
        "open", "meets", "misses", "meets", "undecided",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="at least 5 runs that agree"):
        boundary(0.95, 4)


@settings(max_examples=150, deadline=None)
@given(st.floats(0.05, 900), st.integers(1, MAX), st.sampled_from([0.5, 0.7, 0.9]))
def test_a_response_without_noise_is_answered_exactly(capacity: float, start: int, threshold: float) -> None:
    """AU = min(1, capacity / N): the largest N is floor(capacity / threshold)."""
    asked = rules(start=start, threshold=threshold)
    answer, history = run_all(asked, of_au(lambda n, _: capacity / n, threshold))
    expected = next(n for n in range(floor(capacity / threshold) + 1, -1, -1) if n == 0 or min(1.0, capacity / n) >= threshold)
    if expected > MAX:
        expected = MAX
    assert (answer.best, answer.state) == (expected, "bounded" if expected == MAX else "found")
    assert num_runs(history) <= 10 + 11 + 4 + 10  # upwards, four predictions, halving, 5 and 5


@settings(max_examples=100, deadline=None)
@given(st.floats(1.0, 60), st.floats(0, 0.08), st.integers(0, 10**6), st.integers(1, 80))
def test_a_noisy_response_ends_and_says_what_its_own_runs_say(capacity: float, noise: float, seed: int, start: int) -> None:
    asked = rules(start=start)
    answer, history = run_all(asked, of_au(lambda n, rng: capacity / n + rng.gauss(0, noise), 0.9), seed)
    check(asked, answer, history)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 10**6), st.integers(1, 60), st.integers(10, 80))
def test_any_response_ends_within_its_runs(chances: list[float], seed: int, start: int, most_runs: int) -> None:
    """Any probability of meeting at any number: up and down as it likes."""
    asked = rules(start=start, most_runs=most_runs, most_accelerators=64)
    answer, history = run_all(asked, of_chance(lambda n: chances[n % len(chances)]), seed)
    check(asked, answer, history)


def check(asked: Rules, answer: Answer, history: list[Trial]) -> None:
    assert num_runs(history) <= asked.most_runs
    assert 0 <= answer.best < answer.fails <= asked.most_accelerators + 1
    if answer.state == "ended":
        assert num_runs(history) == asked.most_runs and "--max-runs" in answer.why
        return
    bounds = boundary(asked.confidence, asked.confirmations)
    if answer.best:
        assert state(*counts(history, answer.best), bounds) == "meets"
    if answer.fails <= asked.most_accelerators:
        assert state(*counts(history, answer.fails), bounds) == "misses"
    assert (answer.state == "undecided") == (answer.fails > answer.best + 1)
    for between in range(answer.best + 1, answer.fails):
        assert statement(asked, history, between) == "undecided"


def test_steep_responses_are_rarely_answered_wrongly() -> None:
    """Runs meet with probability 0.95 up to 7 and 0.05 from 8 on: 400 searches, of which at most one in twenty may say anything else."""
    answers = [run_all(rules(start=5), of_chance(lambda n: 0.95 if n <= 7 else 0.05), seed)[0] for seed in range(400)]
    assert sum((answer.state, answer.best) == ("found", 7) for answer in answers) >= 380


def test_confirmation_goes_in_turns_and_counts_new_runs_only() -> None:
    _, history = run_all(rules(start=3), of_au(lambda n, _: 3.3 / n))
    assert [trial.accelerators for trial in history if trial.purpose == "bracket"] == [3, 4]
    assert [trial.accelerators for trial in history if trial.purpose == "confirm"] == [3, 4, 4, 3, 3, 4, 4, 3, 3, 4]


def test_a_number_at_the_edge_is_left_undecided_between_two_that_are_not() -> None:
    """At 5 every other run meets; the answer is the interval."""
    flips = itertools.cycle((True, False))
    answer, _ = run_all(rules(start=5), lambda ask, _: _met(ask, next(flips) if ask.accelerators == 5 else ask.accelerators < 5))
    assert (answer.state, answer.best, answer.fails) == ("undecided", 4, 6)
    assert answer.why == "the runs at 5 did not agree often enough"


def _met(ask: Ask, met: bool) -> Trial:
    return Trial(*ask, "met" if met else "missed", 0.95 if met else 0.85)


def test_the_candidate_moves_where_confirmation_says_otherwise() -> None:
    """The runs that looked were lucky at 6: the confirmation finds 4."""
    answer, history = run_all(rules(start=6), lambda ask, _: _met(ask, ask.accelerators <= (6 if ask.purpose == "bracket" else 4)))
    assert (answer.state, answer.best, answer.fails) == ("found", 4, 5)
    up, _ = run_all(rules(start=3), lambda ask, _: _met(ask, ask.accelerators <= (3 if ask.purpose == "bracket" else 5)))
    assert (up.state, up.best) == ("found", 5)
    assert num_runs(history) <= 2 + 5 * 4


@pytest.mark.parametrize("start", [1, 9, 200])
def test_what_does_not_fit_bounds_the_search_with_its_reason(start: int) -> None:
    def respond(ask: Ask, _: random.Random) -> Trial:
        return Trial(*ask, "refused", why="too little memory") if ask.accelerators > 9 else Trial(*ask, "met", 0.99)

    answer, history = run_all(rules(start=start), respond)
    assert answer == Answer("bounded", 9, 10, "too little memory")
    assert num_runs(history) <= 5 + 5 + 4


def test_all_that_may_be_tried_are_kept_busy() -> None:
    answer, _ = run_all(rules(start=3, most_accelerators=4), of_au(lambda _n, _r: 1.0))
    assert (answer.state, answer.best, answer.fails) == ("bounded", 4, 5) and "--max-accelerators" in answer.why


def test_not_even_one() -> None:
    answer, history = run_all(rules(start=8), of_au(lambda n, _: 0.5 / n))
    assert (answer.state, answer.best, answer.fails) == ("found", 0, 1)
    assert [trial.accelerators for trial in history] == [8, 1, *[1] * 5]


def test_a_run_that_cannot_be_used_is_made_once_more_and_a_second_one_ends_it() -> None:
    outcomes: list[Outcome] = ["met", "unusable", "met", "missed", "unusable", "unusable"]
    history: list[Trial] = []
    for outcome in outcomes:
        step = next_step(rules(start=4), history)
        assert isinstance(step, Ask)
        if history and history[-1].outcome == "unusable":
            assert step.accelerators == history[-1].accelerators
        why, code = ("it is invalid", 6) if outcome == "unusable" else ("", 0)
        history.append(Trial(*step, outcome, {"met": 0.95, "missed": 0.5}.get(outcome), why, code))
    answer = next_step(rules(start=4), history)
    assert isinstance(answer, Answer) and (answer.state, answer.exit_code) == ("ended", 6)
    assert "could not be used: it is invalid" in answer.why


@given(st.floats(0.5, 30), st.integers(2, 40), st.floats(0.001, 1e9))
def test_the_knee_of_runs_without_noise_is_found_exactly(knee: float, largest: int, demand: float) -> None:
    points = [(n, min(n, knee) * demand) for n in range(1, largest + 1)]
    found = fit_knee(points, demand, 0.9)
    if knee >= 0.98 * largest:
        assert found is None
        return
    assert found is not None
    assert (found.accelerators, found.plateau, found.residual) == pytest.approx((knee, knee * demand, 0.0), rel=1e-6, abs=1e-6)
    assert found.kept_busy in (floor(knee / 0.9), floor(knee / 0.9 + 1e-6))
