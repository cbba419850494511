"""Drives the real LoadGen (`mlperf_loadgen`) and writes down what it measured and said. `python tests/truth/loadgen_driver.py` records the cases anew.

LoadGen measures time itself, so a case is: a system under test that answers at once, or late for the queries named; LoadGen's own latency of each sample,
taken out of its trace; and the verdict, percentiles and words of its logs. Order does not count in what is judged, so latencies are kept sorted.
"""

from __future__ import annotations

import base64
import json
import random
import re
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

CASES = Path(__file__).parent / "loadgen_cases.json"
SCENARIOS = {"single-stream": "SingleStream", "multi-stream": "MultiStream", "server": "Server", "offline": "Offline"}
QSL_SEED, SAMPLE_SEED, SCHEDULE_SEED = 2085463073848966840, 2747215439041700203, 16159082839903944936


@dataclass(frozen=True)
class Case:
    """What LoadGen is set to, and which queries its system under test answers late. `max_queries` ends a run early (0: not)."""

    name: str
    scenario: str
    percentile: float
    min_queries: int
    min_duration_ms: int = 0
    qps: float = 20000.0  # server's rate, offline's expected rate, the inverse of the other two's expected latency
    limit_ms: float = 100.0
    late: tuple[int, ...] = ()
    late_s: float = 0.15
    answer_s: float = 0.0
    max_queries: int = 0
    total_samples: int = 200
    qsl_samples: int = 100
    samples_per_query: int = 8
    want_over: int | None = None  # the recorder tries again until so many are over the limit


def drive(case: Case) -> dict[str, Any]:
    """Run LoadGen once: what it measured (`measured`) and said (`said`), and which queries it issued (`issued`)."""
    import mlperf_loadgen as lg

    settings = _settings(lg, case)
    answer = _System(lg, case)
    with tempfile.TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir = folder
        logs = lg.LogSettings()
        logs.enable_trace, logs.log_output = True, output
        sut = lg.ConstructSUT(answer.issue, lambda: None)
        qsl = lg.ConstructQSL(case.total_samples, case.qsl_samples, lambda _: None, lambda _: None)
        lg.StartTestWithLogSettings(sut, qsl, settings, logs)
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        answer.close()
        return _read(case, Path(folder))


def _settings(lg: Any, case: Case) -> Any:
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, SCENARIOS[case.scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count, settings.max_query_count = case.min_duration_ms, case.min_queries, case.max_queries
    settings.qsl_rng_seed, settings.sample_index_rng_seed, settings.schedule_rng_seed = QSL_SEED, SAMPLE_SEED, SCHEDULE_SEED
    if case.scenario == "single-stream":
        settings.single_stream_target_latency_percentile, settings.single_stream_expected_latency_ns = case.percentile, 1e9 / case.qps
    elif case.scenario == "multi-stream":
        settings.multi_stream_target_latency_percentile, settings.multi_stream_expected_latency_ns = case.percentile, 1e9 / case.qps
        settings.multi_stream_samples_per_query = case.samples_per_query
    elif case.scenario == "server":
        settings.server_target_latency_percentile, settings.server_target_qps = case.percentile, case.qps
        settings.server_target_latency_ns = round(case.limit_ms * 1e6)
    else:
        settings.offline_expected_qps = case.qps
    return settings


class _System:
    """The system under test: answers in the issuing thread, or for late queries in one thread of its own, in order."""

    def __init__(self, lg: Any, case: Case) -> None:
        self._lg, self._case, self._late, self._count = lg, case, frozenset(case.late), 0
        self._queue: SimpleQueue[tuple[float, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._answer_late)
        self._thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        number, self._count = self._count, self._count + 1
        responses = [self._lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
        if self._case.answer_s:
            time.sleep(self._case.answer_s)
        if number in self._late:
            self._queue.put((time.monotonic() + self._case.late_s, responses))
        elif len(responses) > 1:  # one after another, so that the samples of a query differ
            for response in responses:
                self._lg.QuerySamplesComplete([response])
        else:
            self._lg.QuerySamplesComplete(responses)

    def _answer_late(self) -> None:
        while (item := self._queue.get()) is not None:
            time.sleep(max(0.0, item[0] - time.monotonic()))
            self._lg.QuerySamplesComplete(item[1])

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()


def _read(case: Case, folder: Path) -> dict[str, Any]:
    """The three logs of a run."""
    said: dict[str, Any] = {}
    for line in (folder / "mlperf_log_detail.txt").read_text().splitlines():
        record = json.loads(_NO_NUMBER.sub(r"\1null", line.removeprefix(":::MLLOG ")))
        said[record["key"]] = record["value"]
    text = (folder / "mlperf_log_summary.txt").read_text()
    said["summary_result"] = text.partition("Result is : ")[2].split()[0]
    begins = '{"name":"Sample","cat":"default","ph":"b"'
    lines = (folder / "mlperf_log_trace.json").read_text().splitlines()  # which as a whole is not always JSON
    samples = [json.loads(line.rstrip(",")) for line in lines if line.startswith(begins)]
    samples.sort(key=lambda event: event["args"]["sample_seq"])
    asked = {key: value for key, value in asdict(case).items() if key in _ALWAYS or value != getattr(Case, key)}
    return {
        "case": asked,
        "measured": _measured(samples),
        "issued": _issued(samples, said),
        "said": {key: said[key] for key in _KEYS + _percentiles(said) if key in said},
    }


_NO_NUMBER = re.compile(r'("value": )-?(?:nan|inf)')  # a rate over no time, which JSON has nothing for
_ALWAYS = ("name", "scenario", "percentile", "min_queries")
_KEYS = (
    "result_validity", "summary_result", "result_perf_constraints_met", "result_min_duration_met", "result_min_queries_met", "early_stopping_met",
    "result_invalid_reason", "early_stopping_result", "result_query_count", "result_overlatency_query_count", "early_stopping_latency_ss",
    "early_stopping_latency_ms", "result_min_latency_ns", "result_max_latency_ns", "result_mean_latency_ns", "result_min_query_latency_ns",
    "result_max_query_latency_ns", "result_mean_query_latency_ns", "result_scheduled_samples_per_sec", "result_completed_samples_per_sec",
    "result_samples_per_second", "result_qps_with_loadgen_overhead", "effective_samples_per_query", "effective_min_query_count",
    "generated_query_count", "generated_query_duration", "loadgen_version",
)  # fmt: skip


def _percentiles(said: dict[str, Any]) -> tuple[str, ...]:
    return tuple(key for key in said if "_percentile_" in key and key.startswith("result_"))


def _measured(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Latencies as LoadGen has them. Stamps of the trace are microseconds from its own start, with three places."""
    by_query: dict[int, int] = {}
    for event in samples:
        number, latency = event["args"]["query_seq"], event["args"]["complete_ns"]
        by_query[number] = max(by_query.get(number, 0), latency)
    last = max(samples, key=lambda event: event["args"]["query_seq"])
    begin_us = min(event["ts"] for event in samples)
    scheduled_ns = round((last["ts"] - begin_us) * 1000)
    number = last["args"]["query_seq"]
    return {
        "queries_issued": len(by_query),
        "sample_latencies_ns": pack([event["args"]["complete_ns"] for event in samples]),
        "query_latencies_ns": pack(list(by_query.values()) if len(by_query) < len(samples) else []),
        "last_scheduled_ns": scheduled_ns,
        "last_issued_ns": scheduled_ns + last["args"]["issue_start_ns"],
        "last_done_ns": scheduled_ns + by_query[number],
    }


def _issued(samples: list[dict[str, Any]], said: dict[str, Any]) -> dict[str, Any]:
    """What the random choices were: a checksum of all sample indices in order, and the first few as they are."""
    indices = [event["args"]["sample_idx"] for event in samples]
    begin_us = samples[0]["ts"]
    first = {event["args"]["query_seq"]: round((event["ts"] - begin_us) * 1000) for event in samples[:8]}
    return {
        "loaded_qsl_crc32": crc(said["loaded_qsl_set"]),
        "indices_crc32": crc(indices),
        "first_indices": indices[:8],
        "first_due_ns": list(first.values()),
    }


def crc(values: Sequence[int]) -> int:
    return zlib.crc32(np.array(values, np.int64).tobytes())


def pack(values: Sequence[int]) -> str:
    """Sorted, as differences: a byte or two each."""
    ordered = np.sort(np.array(values, np.int64))
    return base64.b85encode(zlib.compress(np.diff(ordered, prepend=0).astype(np.int32).tobytes(), 9)).decode()


def unpack(text: str) -> list[int]:
    return np.cumsum(np.frombuffer(zlib.decompress(base64.b85decode(text)), np.int32).astype(np.int64)).tolist()


# Queries that prove a percentile with 0, 1 and 2 over the latency (reference: MLPerf inference rules' table; recomputed in test_loadgen).
NEEDED = {0.90: (44, 64, 81), 0.95: (90, 130, 165), 0.97: (152, 219, 277), 0.99: (459, 662, 838), 0.999: (4603, 6636, 8403)}


def _spread(over: int, queries: int) -> tuple[int, ...]:
    """Which queries are late: the last one is not, so that the run's end stays its own."""
    return tuple(random.Random(queries).sample(range(queries - 1), over))


def cases() -> list[Case]:
    found = []
    for percentile, needed in NEEDED.items():
        for over, count in enumerate(needed):
            for queries in (count - 1, count):
                name = f"server p{percentile * 100:g} t={over} n={queries}"
                found.append(Case(name, "server", percentile, queries, late=_spread(over, queries), want_over=over, qps=8000.0))
    for percentile in (0.90, 0.95, 0.97, 0.99):
        one, two = NEEDED[percentile][1:]
        for queries in (one - 1, one, two - 1, two):
            found.append(Case(f"single-stream p{percentile * 100:g} n={queries}", "single-stream", percentile, queries))
    for queries in (661, 662, 837, 838):
        found.append(Case(f"multi-stream p99 n={queries}", "multi-stream", 0.99, queries))
    base = Case("", "single-stream", 0.90, 64)
    ended = {"min_queries": 500, "max_queries": 300}
    found += [
        replace(base, name="single-stream 1 query", min_queries=1),
        replace(base, name="single-stream duration met", min_duration_ms=300, answer_s=0.001, qps=1000.0),
        replace(base, name="single-stream ran out before the duration", min_duration_ms=300, qps=300.0),
        replace(base, name="single-stream count not met", **ended),
        replace(base, name="single-stream p90 n=5000", min_queries=5000),
        replace(base, name="multi-stream count not met", scenario="multi-stream", percentile=0.9, **ended),
        replace(base, name="multi-stream p90 of 3", scenario="multi-stream", samples_per_query=3, min_queries=100),
        replace(base, name="multi-stream duration met", scenario="multi-stream", min_duration_ms=200, answer_s=0.002, qps=400.0),
        replace(base, name="multi-stream ran out before the duration", scenario="multi-stream", min_duration_ms=300, qps=300.0),
        replace(base, name="server percentile over the limit", scenario="server", min_queries=200, qps=2000.0, late=_spread(40, 200), want_over=40),
        replace(base, name="server percentile met, not proved", scenario="server", min_queries=200, qps=2000.0, late=_spread(15, 200), want_over=15),
        replace(base, name="server duration met", scenario="server", min_duration_ms=300, qps=1000.0),
        replace(base, name="server duration not met, too few", scenario="server", min_duration_ms=1000, qps=1000.0, max_queries=50),
        replace(base, name="server duration not met, enough", scenario="server", min_duration_ms=1000, qps=1000.0, max_queries=200),
        replace(base, name="server count not met", scenario="server", qps=1000.0, **ended),
        replace(base, name="server slower than it is asked", scenario="server", min_queries=200, qps=2000.0, answer_s=0.002, limit_ms=20.0),
        replace(base, name="server 1 query", scenario="server", min_queries=1, qps=100.0),
        replace(base, name="offline count", scenario="offline", min_queries=2000, qps=1.0),
        replace(base, name="offline duration met", scenario="offline", min_duration_ms=50, qps=2000.0, min_queries=100, answer_s=0.1),
        replace(base, name="offline duration not met", scenario="offline", min_duration_ms=5000, qps=20.0, min_queries=100),
        replace(base, name="offline 1 sample", scenario="offline", min_queries=1, qps=1.0),
        replace(base, name="single-stream QSL of one", qsl_samples=1, min_queries=64),
        replace(base, name="server QSL is all of an even dataset", scenario="server", qsl_samples=200, min_queries=500, qps=4000.0),
        replace(base, name="server QSL of 70001", scenario="server", total_samples=70_001, qsl_samples=70_001, min_queries=300, qps=8000.0),
        replace(base, name="multi-stream QSL of 65536", scenario="multi-stream", total_samples=65_536, qsl_samples=65_536, min_queries=100),
    ]  # fmt: skip
    return found


def _record(case: Case) -> dict[str, Any]:
    for _ in range(20):
        found = drive(case)
        if case.want_over is None or found["said"]["result_overlatency_query_count"] == case.want_over:
            return found
    raise RuntimeError(f"{case.name}: this machine is too busy to have {case.want_over} over the limit")


if __name__ == "__main__":
    recorded = []
    for one in cases():
        recorded.append(_record(one))
        print(one.name, recorded[-1]["said"]["result_validity"], recorded[-1]["said"]["summary_result"])
    CASES.write_text("[\n" + ",\n".join(json.dumps(record) for record in recorded) + "\n]\n")
    print(f"{len(recorded)} cases, {CASES.stat().st_size} bytes")
