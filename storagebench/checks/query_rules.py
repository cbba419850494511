"""Findings over a query run, as one table of named functions on its summary: whether its numbers are true (`error`), or weak (`warning`).

LoadGen's INVALID is a result and no finding. The codes are those of `findings`, where they mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from storagebench.checks.case import ERROR, WARNING, Found
from storagebench.checks.findings import Finding
from storagebench.checks.rules_bytes import COLD_AT_MOST, WARM_AT_LEAST, retries_found
from storagebench.members import first_host

LATE_SHARE: Final = 0.01  # of the queries: at the 99th percentile their lateness is what is measured
_Run = Mapping[str, Any]
_Summary = Mapping[str, Any]


def _partial(run: _Run, s: _Summary) -> Iterator[Found]:
    if s["status"] != "complete":
        yield Found(f"the run is {s['status']}: {s['queries']} queries were answered before it ended", s["failure"] or "run it again")


def _checksum(run: _Run, s: _Summary) -> Iterator[Found]:
    if s["checksum_errors"]:
        names = ", ".join(str(sample) for sample in s["bad_samples"][:5])
        yield Found(
            f"{s['checksum_errors']} of {s['verified_samples']} checked samples have another checksum than the manifest says: sample {names}",
            "run `storagebench verify`, then generate or import the dataset again",
        )


def _cache_suspect(run: _Run, s: _Summary) -> Iterator[Found]:
    before, served, asked = s["cached_fraction_before"], s["cached_fraction_served"], s["cache"]
    if asked == "cold" and before is not None and before > COLD_AT_MOST:
        yield Found(f"called cold, but {before:.1%} of the dataset was cached before the queries", "stop what else reads the dataset")
    elif asked in ("cold", "direct") and served is not None and served > COLD_AT_MOST:
        yield Found(
            f"called {asked}, but {served:.1%} of the bytes came from a cache (samples are drawn with replacement, so some are read again)",
            "use --cache direct, or a file system that takes O_DIRECT, or a QSL far larger than memory",
        )
    elif asked == "warm" and served is not None and served < WARM_AT_LEAST:
        yield Found(f"called warm, but only {served:.1%} of the bytes came from the cache", "use a dataset that fits into free memory")


def _ram_backed(run: _Run, s: _Summary) -> Iterator[Found]:
    filesystem = (first_host(run).get("data_filesystem") or {}).get("type")
    if filesystem in ("tmpfs", "ramfs"):
        yield Found(f"the dataset lies on {filesystem}: this is memory, not storage", "use a --data-dir on the storage to be measured")


def _errors(run: _Run, s: _Summary) -> Iterator[Found]:
    if s["status"] == "complete" and s["io_errors"]:
        yield Found(f"{s['io_errors']} reads failed, and the run went on", "look at the storage's own logs, and report it")


def _counts(run: _Run, s: _Summary) -> Iterator[Found]:
    issued = s["queries_issued"]
    if s["status"] == "complete" and issued is not None and issued != s["queries"] and s["verdict"] == "VALID":
        yield Found(f"{issued} queries were issued, and {s['queries']} were answered in full", "report it: a lost query has to end the run")


def _unverified(run: _Run, s: _Summary) -> Iterator[Found]:
    if s["samples"] and not s["verified_samples"]:
        yield Found("no sample's checksum was compared", "use --decode touch or above, or --verify full")


def _cached(run: _Run, s: _Summary) -> Iterator[Found]:
    served = s["cached_fraction_served"]
    if s["cache"] == "as-is" and served is not None and served > COLD_AT_MOST:
        yield Found(f"{served:.1%} of the bytes came from the page cache", "use --cache direct to measure the storage")


def _server_cache(run: _Run, s: _Summary) -> Iterator[Found]:
    if s["server_cache"] == "unknown":
        yield Found("the server's own cache cannot be seen or dropped from here", "use a QSL larger than the server's memory")


def _late_issue(run: _Run, s: _Summary) -> Iterator[Found]:
    if s["scenario"] == "server" and s["queries"] and s["late_issues"] > LATE_SHARE * s["queries"]:
        yield Found(
            f"{s['late_issues']} of {s['queries']} queries were issued more than 1 ms late, which counts as latency: this host is too busy or the rate too high for it",
            "use fewer --num-workers, a lower --decode or an idle host",
        )


def _retries(run: _Run, s: _Summary) -> Iterator[Found]:
    yield from retries_found(s)


class _Rule(NamedTuple):
    code: str
    severity: str
    check: Callable[[_Run, _Summary], Iterator[Found]]


RULES: Final = (
    _Rule("PARTIAL_RUN", ERROR, _partial),
    _Rule("CHECKSUM", ERROR, _checksum),
    _Rule("CACHE_SUSPECT", ERROR, _cache_suspect),
    _Rule("RAM_BACKED", ERROR, _ram_backed),
    _Rule("ERRORS", ERROR, _errors),
    _Rule("SAMPLE_COUNTS", ERROR, _counts),
    _Rule("UNVERIFIED_DATA", WARNING, _unverified),
    _Rule("CACHED", WARNING, _cached),
    _Rule("SERVER_CACHE_UNKNOWN", WARNING, _server_cache),
    _Rule("LATE_ISSUE", WARNING, _late_issue),
    _Rule("RETRIES", WARNING, _retries),
)


def find_in_queries(run: _Run, summary: _Summary) -> list[Finding]:
    """All findings of these rules, errors first."""
    return [Finding(rule.code, rule.severity, each.message, each.hint) for rule in RULES for each in rule.check(run, summary)]
