"""When an S3 request is asked again, how it is told from others, and how calls are dealt out to several servers. No server in here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from storagebench.checks.rules_bytes import retries_found
from storagebench.errors import DatasetError, StorageError, UsageError
from storagebench.protocols import IOCounters, StoreSpec
from storagebench.storage import s3_retry, spec_of_reader
from storagebench.storage.counting import Tally
from storagebench.storage.s3_config import endpoints_of, resolve
from storagebench.storage.s3_errors import FaultyAnswerError, GaveUpError, NotPartialError, ReadFailedError
from storagebench.storage.s3_policy import FREE_RETRIES, RetryPolicy, parse_policy
from storagebench.storage.s3_retry import Retrier, retry_kind


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of the loop, none of which is waited."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(s3_retry.time, "sleep", waits.append)
    monkeypatch.setattr(s3_retry.asyncio, "sleep", sleep)
    return waits


def test_the_options() -> None:
    assert parse_policy(None, None, None) == RetryPolicy() == RetryPolicy(8, 0.2, None, 20.0)
    assert parse_policy("0", "500", "1.5s") == RetryPolicy(0, None, 500, 1.5)
    assert parse_policy("3", "2.5%", "2min") == RetryPolicy(3, 0.025, None, 120.0)
    assert [RetryPolicy(budget_share=0.025).budget, RetryPolicy(budget_share=None, budget_count=7).budget] == ["2.5%", "7"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("101", None, None), "retries is '101'.*0 to 100"), (("-1", None, None), "retries is '-1'"), (("two", None, None), "retries is 'two'"),
        ((None, "101%", None), "retry_budget is '101%'"), ((None, "0.2", None), "retry_budget is '0.2'"), ((None, "-5", None), "retry_budget"),
        ((None, None, "0s"), "timeout is '0s'.*0.1 s to 3600 s"), ((None, None, "2h"), "2h"), ((None, None, "soon"), "soon"),
    ],
)  # fmt: skip
def test_options_out_of_bounds(options: tuple[Any, Any, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_policy(*options)
    assert caught.value.hint


def test_waits_grow_and_are_bounded() -> None:
    policy = RetryPolicy()
    assert [policy.wait_s(retry, 0.0) for retry in range(1, 8)] == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5]
    assert [policy.wait_s(retry, 1.0) for retry in (1, 2, 5, 100)] == [0.2, 0.4, 3.0, 3.0]
    all_waits = [sum(policy.wait_s(retry, jitter) for retry in range(1, policy.retries + 1)) for jitter in (0.0, 1.0)]
    assert all_waits == pytest.approx([7.5, 15.0])  # a server that comes back after 5 s is waited for
    assert policy.window_s == 75


def test_the_budget_is_a_share_and_some_free_ones_or_a_number() -> None:
    assert [RetryPolicy().allowed(requests) for requests in (0, 1000)] == [FREE_RETRIES, FREE_RETRIES + 200]
    assert [parse_policy(None, budget, None).allowed(10**6) for budget in ("0", "7", "0%")] == [0, 7, FREE_RETRIES]


class Flaky:
    """Fails so many times with this error, then gives 7."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.left, self.error, self.calls = failures, error, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return 7

    async def later(self) -> int:
        return self()


@pytest.mark.parametrize("run", [lambda retrier, work: retrier.call(work), lambda retrier, work: asyncio.run(retrier.call_async(work.later))])
def test_the_loop(run: Callable[[Retrier, Flaky], int], slept: list[float]) -> None:
    tally = Tally()
    retrier = Retrier(RetryPolicy(retries=3), tally, seed=1)
    busy = OSError("Server returned non-2xx status code: 503 Service Unavailable")
    assert run(retrier, Flaky(3, busy)) == 7
    assert len(slept) == 3 and all(0.1 * 2**i <= wait <= 0.2 * 2**i for i, wait in enumerate(slept))
    assert tally.counters() == IOCounters(retries=3, retries_by_kind={"503": 3})
    work = Flaky(9, busy)
    with pytest.raises(
        GaveUpError, match=r"asked 4 times in .* status 503; the limit is retries=3; this process: 6 retries of 2 requests \(503 x 6\)"
    ) as caught:
        run(retrier, work)
    assert caught.value.error is busy and caught.value.option == "retries" and work.calls == 4
    for error in (PermissionError("no"), FileNotFoundError("x"), DatasetError("short"), NotPartialError()):
        work = Flaky(1, error)
        with pytest.raises(type(error)):
            run(retrier, work)
        assert work.calls == 1


def test_the_budget_and_the_window_end_it(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    cut = FaultyAnswerError("asked for 5, got 4")
    cut.kind = "truncated"
    retrier = Retrier(RetryPolicy(budget_share=None, budget_count=5), Tally())
    assert retrier.call(Flaky(4, cut)) == 7
    with pytest.raises(
        GaveUpError, match=r"asked 2 times .* a truncated body; the retry budget is spent \(retry_budget=5\); .* 5 retries of 2 requests"
    ):
        retrier.call(Flaky(4, cut))
    now = [0.0]
    monkeypatch.setattr(s3_retry.time, "monotonic", lambda: now[0])
    work = Flaky(9, TimeoutError("timed out"))

    def slow() -> int:
        now[0] += 20
        return work()

    with pytest.raises(GaveUpError, match=r"asked 4 times in 80\.0 s, .* no byte within the timeout; no attempt begins later than 75 s"):
        Retrier(RetryPolicy(), Tally()).call(slow)


def test_a_stream_that_goes_on_has_its_attempts_anew(slept: list[float]) -> None:
    attempts = Retrier(RetryPolicy(retries=1), Tally()).begin()
    error = ConnectionResetError(104, "Connection reset by peer")
    for _ in range(5):
        attempts.failed(error)
        attempts.progressed()
    attempts.failed(error)
    with pytest.raises(GaveUpError, match="the limit is retries=1"):
        attempts.failed(error)


class BotoError(Exception):
    """As botocore's, which keep what is behind them in `kwargs`, and the answer in `response`."""

    def __init__(self, text: str, error: Exception | None = None, response: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.kwargs = {"error": error}
        if response is not None:
            self.response = response


def answer(code: str, status: int) -> dict[str, Any]:
    return {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


OBSTORE = "Generic S3 error: Error performing GET http://h/b/k in 1ms - HTTP error: error sending request Debug source: "
ARROW = "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: "
# Texts as the clients gave them through the proxy of tests/faults, shortened.
KINDS: list[tuple[Exception, str | None]] = [
    (OSError("Generic S3 error: Error performing GET http://h/b/k in 4µs - Server returned non-2xx status code: 503 Service Unavailable: <Error>"
             "<Code>SlowDown</Code></Error>"), "503"),
    (OSError("Server returned non-2xx status code: 500 Internal Server Error"), "500"),
    (OSError("Server returned non-2xx status code: 429 Too Many Requests"), "429"),
    (OSError("Server returned non-2xx status code: 400 Bad Request: <Error><Code>RequestTimeout</Code></Error>"), "timeout"),
    (OSError("Server returned non-2xx status code: 400 Bad Request: <Error><Code>Other</Code> ConnectionReset</Error>"), None),
    (PermissionError("Server returned non-2xx status code: 403 Forbidden: <Error><Code>ExpiredToken</Code></Error>"), None),
    (OSError(OBSTORE + 'HttpError { kind: Interrupted, Os { code: 104, kind: ConnectionReset, message: "Connection reset by peer" } }'), "reset"),
    (OSError(OBSTORE + "HttpError { kind: Timeout, source: reqwest::Error { kind: Request, source: TimedOut } }"), "timeout"),
    (OSError(OBSTORE + "HttpError { kind: Connect, source: Os { code: 111, kind: ConnectionRefused } }"), "connect"),
    (OSError(OBSTORE + "HttpError { kind: Connect, source: InvalidCertificate(UnknownIssuer) }"), None),
    (OSError("Generic S3 error: HTTP error: request or response body error Debug source: Custom { kind: UnexpectedEof, error: IncompleteBody }"), "truncated"),
    (OSError("Generic S3 error: Requested 1024..11024, got 1032..11032 Debug source: UnexpectedRange { }"), "wrong_range"),
    (BotoError("SlowDown", response=answer("SlowDown", 503)), "503"),
    (BotoError("?", response=answer("Strange", 502)), "502"),
    (BotoError("?", response=answer("503", 503)), "503"),
    (BotoError("?", response=answer("NoSuchKey", 404)), None),
    (BotoError("?", response=answer("PermanentRedirect", 301)), None),
    (BotoError('Could not connect to the endpoint URL: "http://h/"', ConnectionResetError(104, "Connection reset by peer")), "reset"),
    (BotoError('Could not connect to the endpoint URL: "http://h/"', OSError("Cannot connect to host h:9 ssl:default [Connect call failed]")), "connect"),
    (BotoError('Could not connect to the endpoint URL: "http://h/"'), "connect"),
    (BotoError('Read timeout on endpoint URL: "http://h/"', TimeoutError()), "timeout"),
    (OSError("Response payload is not completed: <ContentLengthError: 400>. ConnectionResetError(104, 'Connection reset by peer')"), "reset"),
    (OSError("Response payload is not completed: <ContentLengthError: 400, message='Not enough data'>"), "truncated"),
    (OSError("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."), "503"),
    (OSError("AWS Error UNKNOWN (HTTP status 502) during HeadObject operation"), "502"),
    (OSError("AWS Error UNKNOWN (HTTP status 403) during GetObject operation: Unable to parse ExceptionName: ExpiredToken"), None),
    (OSError(ARROW + "56, Failure when receiving data from the peer; Details: Recv failure: Connection reset by peer"), "reset"),
    (OSError(ARROW + "18, Transferred a partial file; Details: end of response with 5000 bytes missing"), "truncated"),
    (OSError(ARROW + "28, Timeout was reached; Details: Operation too slow. Less than 1 bytes/sec transferred the last 2 seconds"), "timeout"),
    (OSError(ARROW + "7, Couldn't connect to server"), "connect"),
    (OSError(ARROW + "60, SSL peer certificate or SSH remote key was not OK"), None),
    (ReadFailedError("k", TimeoutError("timed out")), "timeout"),
    (StorageError("what our own code says"), None),
    (ValueError("a defect of ours"), None),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), KINDS)
def test_kinds(error: Exception, kind: str | None) -> None:
    assert retry_kind(error) == kind


def test_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x" * 20)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y" * 40)
    assert endpoints_of("http://a:9000/, https://b") == ("http://a:9000", "https://b")
    assert endpoints_of(None) == ()
    for text, words in (
        ("http://a,http://a/", "twice"),
        ("http://a,", "which is no http"),
        ("http://a,ftp://b", "'ftp://b'"),
        ("http://k:s@a", "credentials"),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            endpoints_of(text)
    spec = StoreSpec("s3", "s3://bucket/p", {"endpoint_url": "http://a,http://b,http://c"})
    of_rank = spec_of_reader(spec, 4)
    found = [resolve(spec_of_reader(of_rank, worker))[0].endpoint for worker in range(4)]
    assert found == ["http://b", "http://c", "http://a", "http://b"]
    alone = StoreSpec("s3", "s3://b/p", {"endpoint_url": "http://a"})
    assert spec_of_reader(alone, 4) is alone and spec_of_reader(StoreSpec("posix", "/x"), 4).options == {}


def test_counters_by_name() -> None:
    one = IOCounters(5, 2, 1, 0, {"503": 1}, {"a": 5})
    both = one + IOCounters(6, 1, 2, 0, {"503": 1, "reset": 1}, {"b": 6})
    assert both == IOCounters(11, 3, 3, 0, {"503": 2, "reset": 1}, {"a": 5, "b": 6})
    assert both - one == IOCounters(6, 1, 2, 0, {"503": 1, "reset": 1}, {"b": 6})


def test_the_finding_says_how_many_of_which_kind_and_what_to_do() -> None:
    busy = {"retries": 30, "requests": 1000, "retries_by_kind": {"reset": 10, "503": 20}}
    (found,) = retries_found(busy)
    assert "30 retries of 1000 requests, 3.0% (503 x 20, reset x 10)" in found.message and "--num-workers" in found.hint
    (found,) = retries_found({"retries": 1, "requests": None, "retries_by_kind": {"truncated": 1}})
    assert found.message.startswith("1 retries (truncated x 1)") and "network" in found.hint
    assert not list(retries_found({**busy, "retries": 0})) and not list(retries_found({**busy, "retries": None}))
