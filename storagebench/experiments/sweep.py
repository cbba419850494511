"""Drives a sweep: every unit `repeats` times, interleaved, going on where an earlier command was ended.

Knows no session: what runs a unit is handed in, and what was run before is asked of `Past`, so that order and resumption are tested without a run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from storagebench.errors import EXIT_INTERRUPTED, EXIT_TERMINATED
from storagebench.experiments.units_of_suite import Unit

SWEEP_FILE: Final = "sweep.json"
JOURNAL_FILE: Final = "sweep.jsonl"
SWEEP_SCHEMA: Final = 1
INTERRUPTED_CODES: Final = (None, EXIT_INTERRUPTED, EXIT_TERMINATED)


class Turn(NamedTuple):
    """A unit in a round; rounds count from 1."""

    round: int
    unit: str


class Refused(NamedTuple):
    """Why a unit could not be run at all: nothing was measured."""

    message: str
    hint: str
    exit_code: int


class Ended(NamedTuple):
    """How a run ended; `message` where it failed."""

    run_id: str
    exit_code: int
    message: str = ""


class Past(Protocol):
    """What earlier commands left in the folder."""

    def exists(self, run_id: str) -> bool:
        """There is a folder of that run."""

    def finished(self, run_id: str) -> bool:
        """It ended by itself, well or not; one that was interrupted did not."""


def turns(units: Sequence[str], repeats: int, seed: int) -> list[Turn]:
    """Round after round, all units in each, in an order that is drawn anew for each round: what drifts on the machine meets all alike.

    >>> [turn.unit for turn in turns(["a", "b", "c"], 2, seed=1)]
    ['b', 'c', 'a', 'a', 'c', 'b']
    """
    found = []
    for number in range(1, repeats + 1):
        order = list(units)
        random.Random(f"{seed}-{number}").shuffle(order)
        found += [Turn(number, unit) for unit in order]
    return found


def run_ids(unit: Unit, round_: int, attempt: int) -> list[str]:
    """The runs of a unit in a round: `NAME-r2`, several jobs `JOB-UNIT-r2`; the second attempt, after an interrupt, has `-again1` at its end."""
    names = [unit.name] if len(unit.jobs) == 1 else [f"{unit.name}-{job.name}" for job in unit.jobs]
    end = f"-again{attempt}" if attempt else ""
    return [f"{name}-r{round_}{end}" for name in names]


class Standing(NamedTuple):
    """Where a turn stands: its run ids (of the attempt that finished, else of the next one), and whether it finished."""

    run_ids: list[str]
    finished: bool


def standing(unit: Unit, round_: int, past: Past) -> Standing:
    """An attempt is finished when all of its runs are; one that began and did not finish is passed over."""
    attempt = 0
    while True:
        ids = run_ids(unit, round_, attempt)
        if all(map(past.finished, ids)):
            return Standing(ids, True)
        if not any(map(past.exists, ids)):
            return Standing(ids, False)
        attempt += 1


def drive(
    units: Mapping[str, Unit],
    order: Sequence[Turn],
    past: Past,
    run_unit: Callable[[Unit, int, Sequence[str]], Refused | Sequence[Ended]],
    note: Callable[[Mapping[str, Any]], None],
    say: Callable[[str], None],
) -> None:
    """Run what is not finished. `run_unit` raises only what is to end the sweep (an interrupt); `note` keeps a row in the journal.

    A unit that was refused (nothing measured) is not asked for again by this command: it would be refused each time. One whose run failed is.
    """
    todo = [(turn, where) for turn in order if not (where := standing(units[turn.unit], turn.round, past)).finished]
    if len(todo) < len(order):
        say(f"{len(order) - len(todo)} of {len(order)} are there already")
    refused: set[str] = set()
    for number, (turn, where) in enumerate(todo, 1):
        if turn.unit in refused:
            continue
        say(f"{number} of {len(todo)}: {turn.unit}, round {turn.round}")
        outcome = run_unit(units[turn.unit], turn.round, where.run_ids)
        if isinstance(outcome, Refused):
            refused.add(turn.unit)
            note({"kind": "refused", "unit": turn.unit, "round": turn.round, **outcome._asdict()})
            say(f"error: {turn.unit}: {outcome.message}\nhint: {outcome.hint}")
            continue
        for ended in outcome:
            note({"kind": "ended", "unit": turn.unit, "round": turn.round, **ended._asdict()})
            if ended.message:
                say(f"error: {ended.run_id}: {ended.message}")


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """What is different between two plain documents, a line for each key: `axes.loaders: ['direct'] -> ['direct', 'files']`.

    >>> list(differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}))
    ['b.c: 2 -> 3']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif before != now:
        yield f"{path}: {before!r} -> {now!r}"
