"""Asking an S3 server again: what kind of failure a client's exception is, and the loop that all clients share (`s3_policy` has the limits).

The clients' own retries are switched off, so that each is seen, counted by its kind and held against one budget. Measured through a proxy that spoils answers
(obstore 0.12.1, s3fs 2026.9.0 with aiobotocore 3.10.0, pyarrow 25.0.1; one failure each, GETs that came):
- obstore `max_retries` 0: one GET for each, resuming a body after a cut included, which it does with retries on.
- botocore `total_max_attempts` 1 and s3fs `retries` 1: one GET, but two where a kept connection is reset before the answer: aiohttp asks such a GET again by
  itself. `s3_s3fs_client` switches that off (`_retry_connection` of its session).
- pyarrow `max_attempts` 1: one GET, but two where a kept connection is reset before the answer: curl's own, which has no switch. Its `request_timeout` works on Linux
  too (its documentation says not), as curl's low speed limit of 1 byte/s over an average of seconds: a body that stopped ended 6 to 7 s after the timeout.

Kinds: the HTTP status (`503`, `500`, `429` ...), `reset` (the connection ended before or in an answer), `truncated` (fewer bytes than the answer said, or than were
asked for), `wrong_range` (not the range that was asked for), `timeout` (no byte for that long), `connect` (no connection: refused, unreachable, no such name).
Everything else is no matter of asking again: 403, 404, 301, an object that is shorter than the manifest says, TLS.
What a failed attempt had transferred is thrown away. It is never delivered, and it is in no count of ours, as no client tells how much it was.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from storagebench.storage.counting import Tally
from storagebench.storage.s3_errors import FaultyAnswerError, GaveUpError, ReadFailedError, error_code
from storagebench.storage.s3_policy import RetryPolicy

_T = TypeVar("_T")
_STATUS_OF_CODE: Final = {
    "SlowDown": "503", "SLOW_DOWN": "503", "ServiceUnavailable": "503", "SERVICE_UNAVAILABLE": "503", "Throttling": "503", "THROTTLING": "503",
    "InternalError": "500", "INTERNAL_FAILURE": "500", "TooManyRequests": "429", "RequestTimeout": "timeout", "REQUEST_TIMEOUT": "timeout",
}  # fmt: skip
# In this order: the text of a body that was reset also says that it is incomplete, that of a refused connection also that sending failed.
_NETWORK: Final = (
    (None, re.compile(r"(?i)certificate|UnknownIssuer|SSLError|SSLCertVerification|curlCode: (?:35|51|58|60|77|83)\b")),
    ("connect", re.compile(r"kind: Connect\b|ConnectionRefused|Connect(?:ion)? ?Timeout|(?i:connection refused|cannot connect to host|connect timeout|dns error"
                           r"|name resolution|getaddrinfo|could ?n[o']t connect|curlCode: [5-7]\b)")),
    ("timeout", re.compile(r"TimedOut|kind: Timeout|ReadTimeout|TimeoutError|(?i:timed out|read timeout|curlCode: 28\b)")),
    ("reset", re.compile(r"ConnectionReset|BrokenPipe|ConnectionAborted|IncompleteMessage|ServerDisconnected|ConnectionClosed|NotConnected"
                         r"|(?i:connection reset|connection was closed|connection closed before|server disconnected|curlCode: (?:52|55|56)\b)")),
    ("truncated", re.compile(r"IncompleteBody|UnexpectedEof|ContentLengthError|IncompleteRead|(?i:payload is not completed|curlCode: 18\b)")),
    ("wrong_range", re.compile(r"UnexpectedRange")),
    ("connect", re.compile(r"EndpointConnectionError|NETWORK_CONNECTION")),
)  # fmt: skip


def retry_kind(error: BaseException) -> str | None:
    """What kind of failure this is, for those after which asking again may help; None for the others."""
    if isinstance(error, FaultyAnswerError):
        return error.kind
    if isinstance(error, ReadFailedError):
        return retry_kind(error.error)
    status = _status(error)
    if status is not None:
        return status or None
    kwargs = getattr(error, "kwargs", None)  # botocore's exceptions have what is behind them there, and not in their text
    inner = kwargs.get("error") if isinstance(kwargs, Mapping) else None
    for text in (repr(inner), f"{type(error).__name__} {error} {error.__cause__!r}"):
        for kind, pattern in _NETWORK:
            if pattern.search(text):
                return kind
    return None


def _status(error: BaseException) -> str | None:
    """The status of an answer that is worth another try, "" of one that is not, None where there was none."""
    found = re.search(r"(?:status code: |HTTP status )(\d{3})", str(error))
    code = error_code(error)
    if code in _STATUS_OF_CODE:
        return _STATUS_OF_CODE[code]
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            code = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", code))
    code = found[1] if found else code
    if re.fullmatch(r"5\d\d|429", code):
        return code
    return "" if code and code != "NETWORK_CONNECTION" else None  # pyarrow's word for all that is no answer


class Retrier:
    """The loop, with the budget of one store in one process. Thread-safe."""

    def __init__(self, policy: RetryPolicy, tally: Tally, seed: int | None = None) -> None:
        """`seed` is for the jitter; None: of its own."""
        self._policy, self._tally = policy, tally
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._requests = self._retries = 0
        self._kinds: Counter[str] = Counter()

    def call(self, attempt: Callable[[], _T]) -> _T:
        """What the attempt returns. Raises its exception where asking again is no use, and GaveUpError beyond a limit."""
        attempts = self.begin()
        while True:
            try:
                return attempt()
            except Exception as error:
                wait_s = attempts.failed(error)
            time.sleep(wait_s)

    async def call_async(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """The same on an event loop."""
        attempts = self.begin()
        while True:
            try:
                return await attempt()
            except Exception as error:
                wait_s = attempts.failed(error)
            await asyncio.sleep(wait_s)

    def begin(self) -> Attempts:
        """One more request."""
        with self._lock:
            self._requests += 1
        return Attempts(self, self._policy)

    def take(self, retry: int, kind: str) -> float | None:
        """Seconds to wait before this retry; None where the budget is spent."""
        with self._lock:
            if self._retries >= self._policy.allowed(self._requests):
                return None
            self._retries += 1
            self._kinds[kind] += 1
            wait_s = self._policy.wait_s(retry, self._random.random())
        self._tally.retried(kind)
        return wait_s

    def so_far(self) -> str:
        """Of this store, for a message."""
        with self._lock:
            kinds = ", ".join(f"{kind} x {count}" for kind, count in self._kinds.most_common())
            return f"this process: {self._retries} retries of {self._requests} requests" + (f" ({kinds})" if kinds else "")


class Attempts:
    """Those of one request."""

    def __init__(self, retrier: Retrier, policy: RetryPolicy) -> None:
        self._retrier, self._policy = retrier, policy
        self.progressed()

    def progressed(self) -> None:
        """Something came that is kept (a stream goes on behind it): from here on it counts as a new request, but for the budget."""
        self._retries = 0
        self._first_s = time.monotonic()

    def failed(self, error: Exception) -> float:
        """Seconds to wait until the next attempt. Raises `error` where asking again is no use, and GaveUpError beyond a limit."""
        kind = retry_kind(error)
        if kind is None:
            raise error
        policy, took_s = self._policy, time.monotonic() - self._first_s
        tried = f"asked {self._retries + 1} times in {took_s:.1f} s, the last answer being {_words(kind)}"
        if self._retries >= policy.retries:
            raise GaveUpError(error, f"{tried}; the limit is retries={policy.retries}; {self._retrier.so_far()}", "retries")
        if took_s > policy.window_s:
            limit = f"no attempt begins later than {policy.window_s:g} s after the first (timeout={policy.timeout_s:g}s)"
            raise GaveUpError(error, f"{tried}; {limit}; {self._retrier.so_far()}", "timeout")
        wait_s = self._retrier.take(self._retries + 1, kind)
        if wait_s is None:
            raise GaveUpError(error, f"{tried}; the retry budget is spent (retry_budget={policy.budget}); {self._retrier.so_far()}", "retry_budget")
        self._retries += 1
        return wait_s


def _words(kind: str) -> str:
    return {
        "reset": "a reset of the connection",
        "truncated": "a truncated body",
        "wrong_range": "another range than was asked for",
        "timeout": "no byte within the timeout",
        "connect": "no connection",
    }.get(kind, f"status {kind}")
