"""Long times in words: an epoch lasts seconds or days, and an axis has one unit."""

from __future__ import annotations

from typing import Final, NamedTuple

from storagebench.report import wording as w


class TimeUnit(NamedTuple):
    """`name` on an axis, `short` beside a number, and how many seconds it is."""

    name: str
    short: str
    seconds: float


_UNITS: Final = (TimeUnit("seconds", "s", 1.0), TimeUnit("minutes", "min", 60.0), TimeUnit("hours", "h", 3600.0), TimeUnit("days", "d", 86_400.0))
# A unit goes this far in its own numbers, so that no axis reads 0.03 hours or 20000 seconds.
_MOST_OF_UNIT: Final = (300.0, 180.0, 96.0)


def unit_for(most_s: float) -> TimeUnit:
    """The unit in which times up to this one read best.

    >>> unit_for(12).short, unit_for(3000).short, unit_for(40_000).short, unit_for(1e6).short
    ('s', 'min', 'h', 'd')
    """
    return next((unit for unit, most in zip(_UNITS, _MOST_OF_UNIT, strict=False) if most_s <= most * unit.seconds), _UNITS[-1])


def long_time(value: float | None) -> str:
    """Three digits with the unit that fits, also beyond a minute.

    >>> long_time(0.0123), long_time(42), long_time(2720), long_time(50_000)
    ('12.3 ms', '42 s', '45.3 min', '13.9 h')
    """
    if value is None:
        return w.UNKNOWN
    unit = unit_for(value)
    return w.seconds(value) if unit.seconds == 1.0 else f"{w.number(value / unit.seconds)} {unit.short}"
