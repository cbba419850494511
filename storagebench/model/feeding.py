"""What a given storage can feed: the largest number of accelerators, AU at several numbers, and the same with one thing changed. Predictions by
`simulate`.

The number that varies is that of the system's first job; the others stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from storagebench.errors import UsageError, did_you_mean
from storagebench.model.bound import bound
from storagebench.model.simulate import simulate
from storagebench.model.system import Latency, Prediction, System
from storagebench.units import parse_duration, parse_per_second, parse_rate, parse_size

MOST_ACCELERATORS: Final = 100_000
# Steps of a prediction. Where in a step the window is cut moves AU by AU (1 - AU) / steps at most, 0.004; what is left to chance needs more of
# them, or many accelerators.
STEPS, STEPS_OF_CHANCE, MANY = 60, 150, 2000


@dataclass(frozen=True)
class Change:
    """`NAME=VALUE` of --what-if, and the system with it."""

    text: str
    change: Callable[[System], System]


@dataclass(frozen=True)
class Row:
    """A prediction and what it is of: so many accelerators of the first job, in an epoch after the first unless `first_epoch`; `question` what was
    changed."""

    accelerators: int
    prediction: Prediction
    first_epoch: bool = False
    question: str = ""

    def as_dict(self) -> dict[str, Any]:
        told = {**self.prediction.__dict__, "samples_per_s_of_all": self.prediction.all_samples_per_s}
        return {"accelerators": self.accelerators, "first_epoch": self.first_epoch, "question": self.question, "predicted": True, **told}


@dataclass(frozen=True)
class Largest:
    """The most accelerators of the first job at which every job is at or above the AU that is asked for it: by the closed form, an upper bound, and
    by the simulation, which was asked at `tried`. 0: not even one. `unlimited`: nothing limits it up to `MOST_ACCELERATORS`."""

    number: int
    by_closed_form: int
    tried: tuple[int, ...]
    unlimited: bool = False


@dataclass(frozen=True)
class Feeds:
    """All that a system is asked for: the largest number, what is at the number that was asked for (and in the first epoch, where there are
    caches), AU around the largest, and the changes."""

    largest: Largest
    base: Row
    first_epoch: Row | None
    table: tuple[Row, ...]
    what_if: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "largest": {**self.largest.__dict__, "predicted": True},
            "base": self.base.as_dict(),
            "first_epoch": None if self.first_epoch is None else self.first_epoch.as_dict(),
            "table": [row.as_dict() for row in self.table],
            "what_if": [row.as_dict() for row in self.what_if],
        }


def feeds(system: System, asked: Sequence[float], changes: Sequence[Change]) -> Feeds:
    """`asked`: AU of each job. Each change alone, then all of them together."""
    number, known = system.jobs[0].accelerators, dict[int, Prediction]()

    def ask(accelerators: int) -> Prediction:
        if accelerators not in known:
            known[accelerators] = predict(with_accelerators(system, accelerators))
        return known[accelerators]

    most = largest(system, asked, ask)
    cached = system.shared_cache_bytes or system.hosts.cache_bytes
    what_if = []
    for some in [*([change] for change in changes), *([changes] if len(changes) > 1 else [])]:
        other = with_changes(system, some)
        what_if.append(Row(other.jobs[0].accelerators, predict(other), question=" ".join(change.text for change in some)))
    return Feeds(
        largest=most,
        base=Row(number, ask(number)),
        first_epoch=Row(number, predict(replace(system, warm=False)), first_epoch=True) if cached else None,
        table=tuple(Row(count, ask(count)) for count in around(number if most.unlimited else most.number, number)),
        what_if=tuple(what_if),
    )


def with_accelerators(system: System, number: int) -> System:
    first, *others = system.jobs
    return replace(system, jobs=(replace(first, accelerators=number), *others))


def predict(system: System, seed: int = 1) -> Prediction:
    """By the simulation, over as many steps as it needs."""
    by_chance = system.store.latency.varies or system.reaching() != (1.0, 1.0)
    return simulate(system, STEPS_OF_CHANCE if by_chance and system.accelerators <= MANY else STEPS, seed)


def largest(system: System, asked: Sequence[float], ask: Callable[[int], Prediction]) -> Largest:
    """`asked`: AU of each job; `ask` predicts for a number. The bracket is the closed form's, what is in it the simulation's."""

    def meets(prediction: Prediction) -> bool:
        return all(prediction.au[job.name] >= au for job, au in zip(system.jobs, asked, strict=True))

    if not meets(bound(with_accelerators(system, 1))):
        return Largest(0, 0, ())
    most = _bisect(lambda number: meets(bound(with_accelerators(system, number))), 1, 2)
    if most >= MOST_ACCELERATORS:
        return Largest(most, most, (), True)
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return meets(ask(number))

    if holds(most):
        return Largest(most, most, tuple(tried))
    low, high = 0, most  # a twentieth below is where it mostly is: ranks in step and jitter cost little
    for part in (0.95, 0.8, 0.5):
        number = int(most * part)
        if not low < number < high:
            continue
        if holds(number):
            low = number
            break
        high = number
    while high - low > max(1, most // 200):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return Largest(low, most, tuple(tried))


def _bisect(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number up to the most for which it holds, as it does for `low`."""
    while high < MOST_ACCELERATORS and holds(high):
        low, high = high, 2 * high
    if high >= MOST_ACCELERATORS:
        high = MOST_ACCELERATORS
        if holds(high):
            return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def around(knee: int, asked: int) -> list[int]:
    """Powers of two around the knee, from a quarter of it to four times, and the number that was asked for.

    >>> around(100, 64), around(0, 1)
    ([32, 64, 128, 256], [1, 2, 4])
    """
    low, high = max(1, knee // 4), max(4, 4 * knee)
    powers = [2**power for power in range(math.ceil(math.log2(low)), int(math.log2(high)) + 1)]
    return sorted({*powers, asked})


_HINT: Final = "such as cache=2TB, bandwidth=80GB/s, iops=1M, latency=1ms, host-link=200Gbit/s or accelerators=512"


def parse_change(text: str) -> Change:
    """`NAME=VALUE`, by the units of its name. Raises UsageError."""
    name, equals, value = text.partition("=")
    if name not in _CHANGES or not equals:
        raise UsageError(f"--what-if {text!r} is not one of {', '.join(f'{known}=VALUE' for known in _CHANGES)}", did_you_mean(name, list(_CHANGES)))
    try:
        return Change(text, _CHANGES[name](value))
    except UsageError as error:
        raise UsageError(f"--what-if {text!r}: {error.message}", error.hint or _HINT) from None


def with_changes(system: System, changes: Sequence[Change]) -> System:
    """All of them at once."""
    for change in changes:
        system = change.change(system)
    return system


def _accelerators(value: str) -> Callable[[System], System]:
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= MOST_ACCELERATORS:
        raise UsageError(f"{value!r} is no whole number from 1 to {MOST_ACCELERATORS}", _HINT)
    return lambda system: with_accelerators(system, int(value))


def _bandwidth(value: str) -> Callable[[System], System]:
    rate = parse_rate(value)
    return lambda system: replace(system, store=replace(system.store, bytes_per_s=rate))


def _iops(value: str) -> Callable[[System], System]:
    rate = parse_per_second(value)
    return lambda system: replace(system, store=replace(system.store, requests_per_s=rate))


def _latency(value: str) -> Callable[[System], System]:
    seconds = parse_duration(value)
    return lambda system: replace(system, store=replace(system.store, latency=Latency(seconds)))


def _cache(value: str) -> Callable[[System], System]:
    size = float(parse_size(value))
    return lambda system: replace(system, shared_cache_bytes=size)


def _host_cache(value: str) -> Callable[[System], System]:
    size = float(parse_size(value))
    return lambda system: replace(system, hosts=replace(system.hosts, cache_bytes=size))


def _host_link(value: str) -> Callable[[System], System]:
    rate = parse_rate(value)
    return lambda system: replace(system, hosts=replace(system.hosts, link_bytes_per_s=rate))


_CHANGES: Final[dict[str, Callable[[str], Callable[[System], System]]]] = {
    "accelerators": _accelerators,
    "bandwidth": _bandwidth,
    "iops": _iops,
    "latency": _latency,
    "cache": _cache,
    "host-cache": _host_cache,
    "host-link": _host_link,
}
