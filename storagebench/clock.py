"""Time. The engine and the accelerator see only the `Clock` protocol, so that the same code runs on a fake clock with exact answers.

Durations come from CLOCK_MONOTONIC, which all processes of one host share; the wall clock is only ever written down, never subtracted.
"""

from __future__ import annotations

import time
from typing import Protocol

# time.sleep is absolute on CLOCK_MONOTONIC from Python 3.11; it wakes 60 to 150 us late on an idle core (reference/measurement.md section 1).
# The default timer slack of Linux is 50 us; 1 ns takes that part away, for this thread only and without root.
_PR_SET_TIMERSLACK = 29


class Clock(Protocol):
    """Monotonic nanoseconds, common to all processes of one host."""

    def now_ns(self) -> int:
        """Nanoseconds of the monotonic clock."""

    def sleep_until_ns(self, deadline_ns: int) -> int:
        """Return at or after the deadline, and the time then. Returns at once if it has passed."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, to be written down and never subtracted."""


class SystemClock:
    """The real clock."""

    def __init__(self) -> None:
        _set_timer_slack_ns(1)

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_until_ns(self, deadline_ns: int) -> int:
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


class FakeClock:
    """A clock that moves only when somebody sleeps or `advance_ns` is called; sleeping may be made late by a fixed overshoot."""

    def __init__(self, start_ns: int = 0, overshoot_ns: int = 0) -> None:
        self._now_ns = start_ns
        self.overshoot_ns = overshoot_ns

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_until_ns(self, deadline_ns: int) -> int:
        if deadline_ns > self._now_ns:
            self._now_ns = deadline_ns + self.overshoot_ns
        return self._now_ns

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self._now_ns

    def advance_ns(self, duration_ns: int) -> None:
        self._now_ns += duration_ns


def _set_timer_slack_ns(slack_ns: int) -> None:
    import ctypes

    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, slack_ns, 0, 0, 0)
    except (OSError, AttributeError):
        return  # not Linux: sleeps are a little later, and au_null shows it
