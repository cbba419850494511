"""When an S3 request is asked again: the one policy of all our S3 clients, whose own retries are switched off. Pure.

Three limits, and the first that is met ends the request: attempts of one request (`retries`), time since its first attempt (three times
`timeout` and 15 s), and retries of the whole process (`retry_budget`). The last keeps a storage that fails most of the time from being measured as a slow one.

The wait before a retry is exponential with equal jitter (half fixed, half random), after AWS, "Exponential Backoff And Jitter": 0.1 to 0.2 s before the first,
twice that before each further one, 1.5 to 3 s at most. With the default of 8 retries a refused request fails after 7.5 to 15 s, so that a server that comes back
after 5 s is waited for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from storagebench.errors import UsageError
from storagebench.units import parse_duration

DEFAULT_RETRIES: Final = 8
MAX_RETRIES: Final = 100
DEFAULT_BUDGET: Final = "20%"
DEFAULT_TIMEOUT: Final = "20s"
# With a share for a budget so many retries are free in any case: 32 requests in flight that wait 5 s for a server need 5 each.
FREE_RETRIES: Final = 200
_TIMEOUT_RANGE_S: Final = (0.1, 3600.0)
# Slower than this an answer is given up, however steadily its bytes drop in: 32 in flight at once still get that over a link of 3 Mbit/s.
LOW_SPEED_BYTES_PER_S: Final = 10_000
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 3.0
_WINDOW_TIMEOUTS: Final = 3
_WINDOW_WAITS_S: Final = 15.0  # all waits of the default number of retries, at their longest


@dataclass(frozen=True)
class RetryPolicy:
    """`retries` of one request, 0 to 100. `budget_share` (0..1 of a process's requests, `FREE_RETRIES` more) or `budget_count` (of a process), the other is None.
    `timeout_s`: without a byte, before the first of an answer and between two."""

    retries: int = DEFAULT_RETRIES
    budget_share: float | None = 0.2
    budget_count: int | None = None
    timeout_s: float = 20.0

    @property
    def window_s(self) -> float:
        """No attempt begins later than this after the first one: a silent server is given up after a few timeouts, however many retries there are."""
        return _WINDOW_TIMEOUTS * self.timeout_s + _WINDOW_WAITS_S

    def longest_s(self, num_bytes: int) -> float:
        """Seconds that one attempt to read or write so many bytes may take in all."""
        return _WINDOW_TIMEOUTS * self.timeout_s + num_bytes / LOW_SPEED_BYTES_PER_S

    @property
    def budget(self) -> str:
        """As the option `retry_budget` has it."""
        return str(self.budget_count) if self.budget_share is None else f"{self.budget_share * 100:g}%"

    def allowed(self, requests: int) -> int:
        """Retries that a process may have made once it has begun so many requests."""
        if self.budget_share is None:
            return self.budget_count or 0
        return FREE_RETRIES + int(self.budget_share * requests)

    def wait_s(self, retry: int, jitter: float) -> float:
        """Seconds before the retry of that number (from 1); `jitter` is uniform in 0..1."""
        longest: float = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(retry - 1, 10))
        return longest * (0.5 + 0.5 * jitter)


def parse_policy(retries: str | None, budget: str | None, timeout: str | None) -> RetryPolicy:
    """The policy that these options name; None: the default. Raises UsageError."""
    retries, budget = retries or str(DEFAULT_RETRIES), budget or DEFAULT_BUDGET
    if not (retries.isascii() and retries.isdigit() and int(retries) <= MAX_RETRIES):
        raise UsageError(
            f"storage option retries is {retries!r}, and it is a whole number from 0 to {MAX_RETRIES}", f"write it like retries={DEFAULT_RETRIES}"
        )
    found = re.fullmatch(r"(\d{1,9})(?:(\.\d{1,6})?(%))?", budget, re.ASCII)
    share = float(found[1] + (found[2] or "")) / 100 if found and found[3] else None
    if not found or (share is not None and share > 1):
        raise UsageError(
            f"storage option retry_budget is {budget!r}, and it is a share of the requests (0% to 100%) or a number of retries",
            f"write it like retry_budget={DEFAULT_BUDGET} or retry_budget=500",
        )
    seconds, (least, most) = parse_duration(timeout or DEFAULT_TIMEOUT), _TIMEOUT_RANGE_S
    if not least <= seconds <= most:
        raise UsageError(f"storage option timeout is {timeout!r}, and it is {least:g} s to {most:g} s", f"write it like timeout={DEFAULT_TIMEOUT}")
    return RetryPolicy(int(retries), share, None if share is not None else int(found[1]), seconds)
