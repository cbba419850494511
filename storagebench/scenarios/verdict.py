"""What LoadGen says of a performance run: the percentiles as it reads them, whether duration, count, latency and early stopping are met, VALID or not.

Arithmetic on nanoseconds that others measured. Rules: duration counts to the issue of the last query (single- and multi-stream), to when it was
scheduled (server), or is the longest latency (offline); the percentile of n sorted latencies is number floor(n p), counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from storagebench.scenarios.early_stopping import most_over, proves, queries_needed
from storagebench.scenarios.schedule import Scenario

REPORTED_PERCENTILES: Final = (0.50, 0.90, 0.95, 0.97, 0.99, 0.999)
_INFERRED_PERCENTILE: Final = 0.99  # single-stream also estimates what multi-stream is judged by
_TOO_FEW_RAN: Final = "The test exited early, before enough queries were issued."
_TOO_SHORT: Final = {
    "single-stream": "Decrease the expected latency so the loadgen pre-generates more queries.",
    "multi-stream": "Decrease the expected latency so the loadgen pre-generates more queries.",
    "server": "Increase the target QPS so the loadgen pre-generates more queries.",
    "offline": "Increase expected QPS so the loadgen pre-generates a larger (coalesced) query.",
}


@dataclass(frozen=True)
class Rules:
    """What a run is held against. `percentile` 0..1; `latency_limit_ns` is server's; `min_query_count` is 1 in offline, and `samples_per_query` 1 in
    single-stream and server."""

    scenario: Scenario
    percentile: float
    latency_limit_ns: int
    min_duration_s: float
    min_query_count: int
    samples_per_query: int = 1


@dataclass(frozen=True)
class Measured:
    """What was measured, in nanoseconds. Latencies count from when a query was scheduled; `query_latencies_ns` (multi-stream) ends with a query's last
    sample. The stamps of the last query issued count from the start."""

    queries_issued: int
    sample_latencies_ns: Sequence[int]
    query_latencies_ns: Sequence[int]
    last_scheduled_ns: int
    last_issued_ns: int
    last_done_ns: int


@dataclass(frozen=True)
class EarlyStopping:
    """`met`: enough queries were issued. Single- and multi-stream: so many of the highest latencies are discarded, and the highest left is the estimate.
    Server: so many queries were over the limit, and so many more would be needed if none of them were."""

    met: bool
    queries_needed: int
    discarded: int | None = None
    estimate_ns: int | None = None
    estimate_p99_ns: int | None = None
    over_limit: int | None = None
    more_queries: int = 0


@dataclass(frozen=True)
class Verdict:
    """VALID where all that applies is met. `percentiles_ns` by percentile; `latency_ns` at the asked one. `rate`: completed queries (server) or samples
    (offline) a second, or queries a second with the harness's own time (the other two); `scheduled_qps` is server's."""

    valid: bool
    min_duration_met: bool
    min_queries_met: bool
    latency_met: bool
    early_stopping: EarlyStopping | None
    latency_ns: int
    percentiles_ns: dict[float, int]
    min_ns: int
    max_ns: int
    mean_ns: int
    rate: float | None
    scheduled_qps: float | None = None
    recommendations: tuple[str, ...] = field(default=())


def percentile_ns(ordered: Sequence[int], percentile: float) -> int:
    """The latency at a percentile (0..1, exclusive) of latencies in rising order, as LoadGen picks it: no interpolation.

    >>> percentile_ns(range(100), 0.90), percentile_ns([7], 0.99)
    (90, 7)
    """
    return int(ordered[int(len(ordered) * percentile)])


def judge(rules: Rules, measured: Measured) -> Verdict:
    """LoadGen's verdict on a run with at least one query. Multi-stream's percentiles are of queries, all others' of samples."""
    by_query = rules.scenario == "multi-stream"
    ordered = sorted(measured.query_latencies_ns if by_query else measured.sample_latencies_ns)
    latency_ns = percentile_ns(ordered, rules.percentile)
    stopping = early_stopping(rules, measured.queries_issued, ordered)
    duration_met = _duration_s(rules, measured) >= rules.min_duration_s
    queries_met = (
        measured.queries_issued >= rules.min_query_count and len(measured.sample_latencies_ns) >= rules.min_query_count * rules.samples_per_query
    )
    latency_met = rules.scenario != "server" or latency_ns <= rules.latency_limit_ns
    told = [(latency_met, "Reduce target QPS to improve latency."), (duration_met, _TOO_SHORT[rules.scenario]), (queries_met, _TOO_FEW_RAN)]
    rate, scheduled = _rates(rules, measured)
    return Verdict(
        valid=duration_met and queries_met and latency_met and (stopping is None or stopping.met),
        min_duration_met=duration_met,
        min_queries_met=queries_met,
        latency_met=latency_met,
        early_stopping=stopping,
        latency_ns=latency_ns,
        percentiles_ns={percentile: percentile_ns(ordered, percentile) for percentile in REPORTED_PERCENTILES},
        min_ns=int(ordered[0]),
        max_ns=int(ordered[-1]),
        mean_ns=int(sum(map(int, ordered)) // len(ordered)),
        rate=rate,
        scheduled_qps=scheduled,
        recommendations=tuple(text for met, text in told if not met),
    )


def early_stopping(rules: Rules, queries: int, ordered: Sequence[int]) -> EarlyStopping | None:
    """Early stopping on latencies in rising order; None in offline, which has none."""
    if rules.scenario == "offline":
        return None
    if rules.scenario == "server":
        over = sum(1 for latency in ordered if latency > rules.latency_limit_ns)
        met = proves(queries, over, rules.percentile)
        needed = queries_needed(over, rules.percentile)
        return EarlyStopping(met, needed, over_limit=over, more_queries=0 if met else needed - queries)
    needed = queries_needed(1, rules.percentile)
    if queries < needed:
        return EarlyStopping(False, needed, more_queries=needed - queries)
    discarded, estimate_ns = _estimate(rules.percentile, queries, ordered)
    inferred = None
    if rules.scenario == "single-stream" and queries >= queries_needed(1, _INFERRED_PERCENTILE):
        inferred = _estimate(_INFERRED_PERCENTILE, queries, ordered)[1]
    return EarlyStopping(True, needed, discarded, estimate_ns, inferred)


def _estimate(percentile: float, queries: int, ordered: Sequence[int]) -> tuple[int, int]:
    """How many of the highest are discarded, and the highest left: with t allowed over a latency, the t-th highest is proved to hold."""
    allowed = most_over(queries, percentile)
    return allowed - 1, int(ordered[queries - allowed])


def _duration_s(rules: Rules, measured: Measured) -> float:
    if rules.scenario == "offline":
        return max(measured.sample_latencies_ns) / 1e9
    return (measured.last_scheduled_ns if rules.scenario == "server" else measured.last_issued_ns) / 1e9


def _rates(rules: Rules, measured: Measured) -> tuple[float | None, float | None]:
    """(completed, scheduled) a second; the last query opens the range's end and does not count, but in offline."""
    samples = len(measured.sample_latencies_ns)
    if rules.scenario == "offline":
        return _over(samples, max(measured.sample_latencies_ns)), None
    if rules.scenario == "server":
        return _over(samples - 1, measured.last_done_ns), _over(samples - 1, measured.last_scheduled_ns)
    return _over(measured.queries_issued - 1, measured.last_issued_ns), None


def _over(count: int, duration_ns: int) -> float | None:
    return count / (duration_ns / 1e9) if duration_ns > 0 else None


def early_stopping_text(rules: Rules, queries: int, found: EarlyStopping | None) -> str:
    """The same in LoadGen's words, on one line; empty in offline."""
    if found is None:
        return ""
    if rules.scenario == "server":
        if found.met:
            return "* Run successful."
        return (
            f"* Run unsuccessful. * Processed {queries} queries. * Would need to run at least {found.more_queries} more queries, "
            "with the run being successful if every additional query were under latency."
        )
    if not found.met:
        return f"* Only processed {queries} queries. * Need to process at least {found.queries_needed} queries for early stopping."
    text = (
        f"* Processed at least {found.queries_needed} queries ({queries}). * Would discard {found.discarded} highest latency queries. "
        f"* Early stopping {_percent(rules.percentile)}th percentile estimate: {found.estimate_ns}"
    )
    if rules.scenario == "multi-stream":
        return text
    if found.estimate_p99_ns is not None:
        return f"{text} * Early stopping 99.0th percentile estimate: {found.estimate_p99_ns}"
    needed = queries_needed(1, _INFERRED_PERCENTILE)
    return f"{text} * Not enough queries processed for 99.0th percentile early stopping estimate (would need to process at least {needed} total queries)."


def _percent(percentile: float) -> str:
    return f"{percentile * 100:.1f}"
