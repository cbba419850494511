"""Query runs: the engine on a fake clock against Lindley's recursion, the judge on made traces, and real runs on a store of known latency."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storagebench.build import generate
from storagebench.checks.queries import judge_query_run
from storagebench.clock import FakeClock
from storagebench.configfile import load_workload
from storagebench.errors import DatasetError, StorageError, UsageError
from storagebench.launch import Interrupted
from storagebench.manifest import Dataset
from storagebench.queryengine import Pace, Pool, issue
from storagebench.queryrecords import COLUMNS, SampleRecord, query_trace_path, query_traces, read_query_trace
from storagebench.querysession import execute_queries, prepare_queries
from storagebench.report.queries import one_query_run
from storagebench.request import Request
from storagebench.scenarios.bisection import find_max
from storagebench.scenarios.schedule import Plan, Query, Seeds, first, queries
from storagebench.storage import open_store

MS = 1_000_000
Made = Callable[..., tuple[str, Dataset]]


# --- the search for a rate ------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(limit=st.floats(0.01, 1e6), start=st.floats(0.01, 1e6), tolerance=st.floats(0.001, 0.5))
def test_bisection_brackets_the_largest_rate_that_holds(limit: float, start: float, tolerance: float) -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = find_max(holds, start, tolerance, 100)
    assert found.best is not None and found.failed is not None
    assert found.best <= limit < found.failed <= found.best * (1 + tolerance) * (1 + 1e-12)
    assert found.trials == len(tried) == len(set(tried))


def test_bisection_ends_where_nothing_or_everything_holds() -> None:
    assert find_max(lambda _: False, 1.0, 0.05, 100).best is None
    everything = find_max(lambda _: True, 1.0, 0.05, 100)
    assert everything.failed is None and everything.best is not None and everything.best > 1e6
    assert find_max(lambda _: True, 1.0, 0.05, 3) == (4.0, None, 3)


# --- the engine on a fake clock -------------------------------------------------------------------------------------------------------------


def _issued(scenario: Any, some: list[Query], service_ns: int, pace: Pace | None = None) -> tuple[list[SampleRecord], Any]:
    """One reader that takes the same time for each sample, in the issuer's own thread."""
    clock, records = FakeClock(start_ns=10**9), list[SampleRecord]()

    def read(sample: int) -> tuple[int, bool, bool]:
        clock.advance_ns(service_ns)
        return 100, True, False

    pool = Pool([read], clock, records.append, in_place=True)
    issued = issue(some, pace or Pace(scenario, len(some), 0), pool, clock)
    pool.close()
    return records, issued


@settings(deadline=None, max_examples=60)
@given(gaps_ms=st.lists(st.integers(0, 30), min_size=1, max_size=40), service_ms=st.integers(1, 20))
def test_server_latency_counts_from_the_schedule(gaps_ms: list[int], service_ms: int) -> None:
    """Lindley: with one server, done_k = max(due_k, done_k-1) + service. A late issue is part of the latency, never taken out of it."""
    due = [sum(gaps_ms[:index]) * MS for index in range(len(gaps_ms))]
    records, issued = _issued("server", [Query(number, at, (number,)) for number, at in enumerate(due)], service_ms * MS)
    done_ns = 0
    for record, due_ns in zip(records, due, strict=True):
        begin_ns = max(due_ns, done_ns)
        done_ns = begin_ns + service_ms * MS
        assert record.scheduled_ns - issued.start_ns == due_ns
        assert (record.issued_ns - issued.start_ns, record.done_ns - issued.start_ns) == (begin_ns, done_ns)


def test_single_stream_issues_on_completion_until_count_and_duration_are_met() -> None:
    plan = Plan("single-stream", 50, 1, 5, 1.0, Seeds(1, 2, 3))
    records, issued = _issued("single-stream", queries(plan), 7 * MS, Pace("single-stream", 5, 100 * MS))  # type: ignore[arg-type]
    assert issued.queries == 16  # issued at 0, 7, ... 105 ms: the first at or after 100 ms is the last
    assert [record.sample for record in records] == [query.samples[0] for query in first(plan, 16)]
    assert {record.done_ns - record.scheduled_ns for record in records} == {7 * MS}
    assert all(before.done_ns == after.scheduled_ns for before, after in pairwise(records))


def test_a_search_gives_a_rate_up_as_soon_as_it_cannot_hold() -> None:
    """10 ms a read, a query each millisecond: query k takes 10 + 9 k ms, so from k = 1 on they are over a limit of 15 ms."""
    some = [Query(number, number * MS, (number,)) for number in range(1000)]
    records, issued = _issued("server", some, 10 * MS, Pace("server", 1000, 0, limit_ns=15 * MS, give_up_after=4))
    assert issued.gave_up and issued.queries == len(records) == 6
    patient, all_of_them = _issued("server", some, 10 * MS, Pace("server", 1000, 0, limit_ns=15 * MS))
    assert len(patient) == 1000 and not all_of_them.gave_up


def test_offline_is_one_query_due_at_the_start() -> None:
    records, issued = _issued("offline", [Query(0, 0, tuple(range(10)))], 3 * MS)
    assert issued.queries == 1
    assert [record.done_ns - record.scheduled_ns for record in records] == [3 * MS * place for place in range(1, 11)]


def test_workers_share_a_query_and_their_error_ends_the_run() -> None:
    import threading

    from storagebench.clock import SystemClock

    together, records = threading.Barrier(4, timeout=20), list[SampleRecord]()

    def read(sample: int) -> tuple[int, bool, bool]:
        together.wait()  # passes only with four samples in flight at once
        return 1, False, False

    pool = Pool([read] * 4, SystemClock(), records.append)
    assert issue([Query(0, 0, (0, 1, 2, 3)), Query(1, 0, (4, 5, 6, 7))], Pace("multi-stream", 2, 0), pool, SystemClock()).queries == 2
    pool.close()
    assert sorted(record.sample for record in records) == list(range(8))

    def fail(sample: int) -> tuple[int, bool, bool]:
        raise StorageError("the storage is gone", "look at it")

    broken = Pool([fail], SystemClock(), records.append)
    with pytest.raises(StorageError, match="the storage is gone"):
        issue([Query(0, 0, (0,))], Pace("multi-stream", 1, 0), broken, SystemClock())
    broken.close()


# --- the judge on a made trace --------------------------------------------------------------------------------------------------------------


def _made(folder: Path, latencies_ms: list[float], target_qps: float = 10.0, finished: bool = True, **query: Any) -> Path:
    """A server run whose queries are due every 100 ms, one worker, latencies as given, issued 2 ms late where longer than the limit of 15 ms."""
    run_dir = folder / "made"
    (run_dir / "trace").mkdir(parents=True)
    workload = load_workload(
        "inference-resnet50", [("query.scenario", "server", "test"), ("query.percentile", 0.9, "test"), ("query.min_duration_s", 1.0, "test")]
    )
    config = workload.workload.model_dump()
    config["query"].update(query, target_qps=target_qps)
    run = {
        "schema_version": 3, "kind": "query", "run_id": "made", "config": config, "store": {"kind": "posix", "root": "/data", "options": {}},
        "dataset": {"format": "jpeg"}, "hosts": [{"data_filesystem": {"type": "ext4"}}],
        "query": {"percentile": 0.9, "min_query_count": 40, "num_workers": 1, "qsl_samples": 1024},
    }  # fmt: skip
    (run_dir / "run.json").write_text(json.dumps(run))
    lines: list[Any] = [{"kind": "header", "target_qps": target_qps, "samples_per_query": 1}, {"kind": "cache", "cached_fraction_before": 0.0}]
    lines.append({"kind": "columns", "columns": COLUMNS})
    for number, latency_ms in enumerate(latencies_ms):
        due, late = 10**9 + number * 100 * MS, 2 * MS if latency_ms > 15 else 0
        lines.append([number, number, due, due + late, due + late, due + round(latency_ms * MS), 1000, True, False])
    if finished:
        lines.append(
            {
                "kind": "footer",
                "start_ns": 10**9,
                "gave_up": False,
                "queries": len(latencies_ms),
                "storage_bytes": 1000 * len(latencies_ms),
                "device_read_bytes": 1000 * len(latencies_ms),
            }
        )
    query_trace_path(run_dir, 0).write_text("".join(json.dumps(line) + "\n" for line in lines))
    header = {"kind": "header", "host": "a", "member": 0}
    ends = [header, {"kind": "end", "exit_code": 0, "failure": None}] if finished else [header]
    (run_dir / "trace" / "host-00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ends))
    return run_dir


PAGE = """\
INVALID: inference-resnet50, server on jpeg over posix
  why: early stopping: 50 queries with 1 over the limit prove nothing at 99 % confidence, 14 more would (if none is over)

  run                  made
  queries              50 (50 samples out of 1024), at least 40 and 1 s
  workers              1, decode parse
  latency              5 ms at the 90th percentile, limit 15 ms
                       p50 5 ms, p90 5 ms, p99 20 ms, p99.9 20 ms, max 20 ms
  early stopping       not met: 14 more queries are needed
  queries/s            9.99 of 10 asked for
  samples/s            10.2, 0.0 MB/s
  issued late by       p50 0 s, p99 1.02 ms, max 2 ms; more than 1 ms: 1 of 50
  waited for a worker  p50 0 s, p99 0 s, max 0 s
  read and checked in  p50 5 ms, p99 11.6 ms, max 18 ms
  checksums            50 compared, 0 differ
  bytes                50 kB delivered, 50 kB from the store
  cache                cold; cached before 0.0%, served from cache 0.0%

  warning LATE_ISSUE: 1 of 50 queries were issued more than 1 ms late, which counts as latency: this host is too busy or the rate too high for it
    hint: use fewer --num-workers, a lower --decode or an idle host
"""


def test_the_page_of_a_made_run(tmp_path: Path) -> None:
    summary = judge_query_run(_made(tmp_path, [5.0] * 20 + [20.0] + [5.0] * 29))
    assert one_query_run(summary) == PAGE
    assert (summary["verdict"], summary["valid"], summary["exit_code"]) == ("INVALID", True, 0)


def test_enough_queries_make_it_valid_and_a_cut_trace_incomplete(tmp_path: Path) -> None:
    valid = judge_query_run(_made(tmp_path / "a", [5.0] * 63 + [20.0]))
    assert (valid["verdict"], valid["reasons"], valid["early_stopping"]["over_limit"]) == ("VALID", [], 1)
    run_dir = _made(tmp_path / "b", [5.0] * 64, finished=False)
    path = query_trace_path(run_dir, 0)
    path.write_bytes(path.read_bytes()[:-20])  # killed in the middle of a write
    cut = judge_query_run(run_dir)
    assert (cut["status"], cut["valid"], cut["verdict"], cut["queries"]) == ("incomplete", False, "INVALID", 63)
    assert [finding["code"] for finding in cut["findings"]] == ["PARTIAL_RUN"]
    path.write_bytes(path.read_bytes().replace(b"[5, 5,", b"[5, x,"))
    with pytest.raises(DatasetError, match="damaged in line 9"):
        judge_query_run(run_dir)


def test_a_run_that_ended_before_its_first_query_is_reported_too(tmp_path: Path) -> None:
    summary = judge_query_run(_made(tmp_path, [], finished=False))
    assert (summary["status"], summary["queries"], summary["verdict"], summary["latency_s"]) == ("incomplete", 0, None, None)
    assert one_query_run(summary).startswith("DO NOT USE")
    query_trace_path(tmp_path / "made", 0).unlink()
    assert judge_query_run(tmp_path / "made")["status"] == "incomplete"


def test_a_rate_that_was_given_up_is_not_valid(tmp_path: Path) -> None:
    run_dir = _made(tmp_path, [5.0] * 64)
    path = query_trace_path(run_dir, 0)
    path.write_text(
        path.read_text().replace('"gave_up": false', '"gave_up": true').replace('"samples_per_query"', '"gives_up_after": 3, "samples_per_query"')
    )
    summary = judge_query_run(run_dir)
    assert (summary["verdict"], summary["reasons"]) == ("INVALID", ["more than 3 queries were over the limit, and the trial was ended"])


def test_a_lost_query_makes_the_numbers_false(tmp_path: Path) -> None:
    run_dir = _made(tmp_path, [5.0] * 64)
    path = query_trace_path(run_dir, 0)
    path.write_text(path.read_text().replace('"queries": 64', '"queries": 65'))
    assert [finding["code"] for finding in judge_query_run(run_dir)["findings"]] == ["SAMPLE_COUNTS"]


def test_a_cold_run_that_a_cache_served_is_false(tmp_path: Path) -> None:
    run_dir = _made(tmp_path, [5.0] * 64)
    path = query_trace_path(run_dir, 0)
    path.write_text(path.read_text().replace('"device_read_bytes": 64000', '"device_read_bytes": 32000'))
    summary = judge_query_run(run_dir)
    assert (summary["valid"], summary["exit_code"], summary["cached_fraction_served"]) == (False, 6, 0.5)
    assert one_query_run(summary).startswith("DO NOT USE")


# --- real runs ------------------------------------------------------------------------------------------------------------------------------


def _run(url: str, folder: Path, run_id: str = "run", options: Mapping[str, str] | None = None, **fields: Any) -> tuple[Path, Mapping[str, Any]]:
    values = {
        "query.min_duration_s": 0.0,
        "query.min_query_count": 70,
        "query.qsl_samples": 0,
        "run.cache": "as-is",
        **{key.replace("__", "."): value for key, value in fields.items()},
    }
    configured = load_workload("inference-resnet50", [(key, value, "test") for key, value in values.items()])
    run_dir = prepare_queries(Request(configured, url, options or {}, folder, run_id, ["test"], time.monotonic_ns()))
    return run_dir, execute_queries(run_dir)


def test_single_stream_of_a_store_of_known_latency(make_dataset: Made, tmp_path: Path) -> None:
    path, _ = make_dataset()
    _, summary = _run(f"shaped+{path}", tmp_path, options={"latency": "5ms"})
    assert summary["verdict"] == "VALID" and summary["valid"], summary["findings"]
    assert 0.005 <= summary["latency_quantiles_s"]["min"] <= summary["latency_quantiles_s"]["p50"] < 0.008  # a read and a wake-up on top
    assert summary["latency_s"] == summary["latency_quantiles_s"]["p90"] and summary["queries"] == 70
    assert summary["verified_samples"] == 70 and summary["qps"] <= 200


def test_multi_stream_takes_as_long_as_the_slowest_of_its_samples(make_dataset: Made, tmp_path: Path) -> None:
    path, _ = make_dataset()
    common: dict[str, Any] = {"query__scenario": "multi-stream", "query__percentile": 0.9}
    _, together = _run(f"shaped+{path}", tmp_path, "a", {"latency": "5ms"}, **common)
    assert together["num_workers"] == 8 and together["samples"] == 560
    assert 0.005 <= together["latency_quantiles_s"]["p50"] < 0.020
    _, in_turn = _run(f"shaped+{path}", tmp_path, "b", {"latency": "5ms"}, loader__num_workers=1, **{**common, "query__min_query_count": 5})
    assert 0.040 <= in_turn["latency_quantiles_s"]["min"] < 0.060
    assert in_turn["verdict"] == "INVALID" and "59 more" in in_turn["reasons"][0]


def test_server_below_and_above_what_the_store_can_give(make_dataset: Made, tmp_path: Path) -> None:
    """A worker with 10 ms a read answers 100 queries a second."""
    path, _ = make_dataset()
    common: dict[str, Any] = {"query__scenario": "server", "query__percentile": 0.9, "options": {"latency": "10ms"}}
    _, below = _run(f"shaped+{path}", tmp_path, "below", query__target_qps=150, query__latency_limit_s=0.1, **common)
    assert (below["verdict"], below["reasons"]) == ("VALID", [])
    run_dir, above = _run(f"shaped+{path}", tmp_path, "above", query__target_qps=400, query__latency_limit_s=0.1, loader__num_workers=1, **common)
    assert above["verdict"] == "INVALID" and above["valid"] and above["early_stopping"]["over_limit"] > 40
    assert above["queue_wait_s"]["max"] > 0.3  # 70 queries in 0.175 s, answered in 0.7 s
    assert above["recommendations"] == ["Reduce target QPS to improve latency."]
    assert one_query_run(above).startswith("INVALID")
    saved = (run_dir / "summary.json").read_bytes()
    assert json.loads(saved) == judge_query_run(run_dir) == above


def test_the_search_finds_a_rate_within_what_the_store_can_give(make_dataset: Made, tmp_path: Path) -> None:
    """Two workers with 5 ms a read answer 400 queries a second, and none within 5 ms."""
    path, _ = make_dataset()
    fields: dict[str, Any] = {
        "query__scenario": "server",
        "query__percentile": 0.5,
        "query__find_max_qps": True,
        "query__most_trials": 5,
        "loader__num_workers": 2,
    }
    run_dir, summary = _run(f"shaped+{path}", tmp_path, options={"latency": "5ms"}, query__target_qps=200, query__latency_limit_s=0.02, **fields)
    assert summary["valid"] and summary["max_qps"] is not None and 100 <= summary["max_qps"] < 700
    assert len(summary["trials"]) == len(query_traces(run_dir)) <= 5
    assert summary["max_qps"] == summary["target_qps"] < (summary["max_qps_failed"] or 1e9)
    assert "is the largest VALID rate found" in one_query_run(summary)


def test_offline_reads_the_whole_library_again_and_again(make_dataset: Made, tmp_path: Path) -> None:
    path, dataset = make_dataset(format="webdataset", samples_per_shard=8)
    run_dir, summary = _run(path, tmp_path, query__scenario="offline", query__offline_samples=160, run__decode="touch")
    assert (summary["verdict"], summary["queries"], summary["samples"]) == ("VALID", 1, 160)
    counts = read_query_trace(query_traces(run_dir)[0]).columns["sample"]
    assert sorted(set(counts.tolist())) == list(range(64)) and len(counts) == 160
    assert summary["delivered_bytes"] == sum(int(dataset.index["record_bytes"][sample]) for sample in counts.tolist())


def test_a_corrupt_sample_makes_the_numbers_false(make_dataset: Made, tmp_path: Path) -> None:
    path, dataset = make_dataset(format="raw")
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    shard = copy / dataset.names[7]
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    _, summary = _run(str(copy), tmp_path, query__scenario="offline", query__offline_samples=64)
    assert (summary["checksum_errors"], summary["bad_samples"], summary["exit_code"], summary["valid"]) == (1, [7], 3, False)
    (copy / dataset.names[9]).unlink()
    with pytest.raises(DatasetError, match=r"000009.* is missing"):
        _run(str(copy), tmp_path, "again")


def test_a_signal_ends_the_run_and_keeps_what_was_done(make_dataset: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = make_dataset()
    calls = []

    def interrupted(self: Pool, items: Any) -> None:
        calls.append(items)
        if len(calls) == 10:
            raise Interrupted(2)
        put(self, items)

    put = Pool.put
    monkeypatch.setattr(Pool, "put", interrupted)
    with pytest.raises(Interrupted):
        _run(path, tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["queries"], summary["exit_code"], summary["valid"]) == ("failed", 9, 130, False)


@pytest.mark.s3
def test_queries_over_s3(s3_environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    url = "s3://bench/queries"
    workload = load_workload("quick", [("dataset.format", "npy", "test"), ("dataset.payload", "bytes", "test"), ("dataset.num_samples", 20, "test")])
    store = open_store(url, s3_environment)
    generate(workload.workload, store)
    store.close()
    fields: dict[str, Any] = {"query__scenario": "server", "query__target_qps": 200, "query__latency_limit_s": 1.0, "query__percentile": 0.9}
    _, summary = _run(url, tmp_path, options=s3_environment, **fields)
    assert (summary["storage"], summary["verdict"], summary["verified_samples"]) == ("s3", "VALID", 70), summary["reasons"]
    assert summary["storage_bytes"] >= summary["delivered_bytes"] > 0


def test_the_numbers_of_the_shipped_workload() -> None:
    """MLPerf's mlperf.conf for resnet50 (reference: workloads.md section 6), and how many queries early stopping asks for at its percentiles."""
    query = load_workload("inference-resnet50").workload.query
    assert (query.latency_limit_s, query.qsl_samples, query.offline_samples, query.samples_per_query) == (0.015, 1024, 24_576, 8)
    assert (query.min_duration_s, query.percentile_or_default(), query.min_queries_or_default()) == (600.0, 0.90, 100)
    other = query.model_copy(update={"scenario": "multi-stream"})
    assert (other.percentile_or_default(), other.min_queries_or_default()) == (0.99, 662)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query__scenario": "server"}, "needs a rate"),
        ({"query__find_max_qps": True}, "this is single-stream"),
        ({"query__qsl_samples": 65}, "query.qsl_samples is 65, and the dataset has 64 samples"),
    ],
)
def test_what_does_not_fit_is_refused(make_dataset: Made, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        _run(make_dataset()[0], tmp_path, **fields)
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


def test_parquet_has_no_single_samples(make_dataset: Made, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match="samples of format parquet have no places of their own"):
        _run(make_dataset(format="parquet", samples_per_shard=8)[0], tmp_path)


def test_verbs_and_query_runs(tmp_path: Path, cli_here: Any) -> None:
    run_dir = _made(tmp_path, [5.0] * 64)
    reported = cli_here("report", str(run_dir))
    assert reported.returncode == 0 and reported.stdout.startswith("VALID: inference-resnet50, server"), reported.stderr
    again = (run_dir / "summary.json").read_bytes()
    as_json = cli_here("report", str(run_dir), "--json")
    assert json.loads(as_json.stdout) == [json.loads(again)]
    checked = cli_here("check", str(run_dir))
    assert (checked.returncode, checked.stdout.splitlines()[:2]) == (0, ["made: valid, no findings", "  LoadGen's verdict: VALID"])
    invalid = _made(tmp_path / "other", [5.0] * 50)
    assert cli_here("check", str(invalid), "--json").returncode == 0  # 50 with none over the limit are enough for the 90th percentile
    assert cli_here("check", str(_made(tmp_path / "few", [5.0] * 43))).returncode == 6
    for arguments, word in (
        (("compare", str(run_dir), str(invalid)), "no AU"),
        (("check", str(run_dir), "--rules", "default"), "without --rules"),
        (("report", str(run_dir), "--csv"), "no CSV row"),
        (("report", str(run_dir), "--html", str(tmp_path / "x.html")), "no HTML page"),
    ):
        refused = cli_here(*arguments)
        assert refused.returncode == 2 and word in refused.stderr and "hint: " in refused.stderr, refused.stderr


def test_the_verb(cli: Any, cli_here: Any, make_dataset: Made, tmp_path: Path) -> None:
    path, _ = make_dataset()
    arguments = ("--min-queries", "64", "--min-duration", "0s", "--set", "query.qsl_samples=0", "--cache", "as-is", "--results-dir", str(tmp_path))
    result = cli("query", "inference-resnet50", "--data-dir", path, *arguments, "--run-id", "a", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["kind"], summary["scenario"], summary["queries"], summary["verdict"]) == ("query", "single-stream", 64, "VALID")
    refused = cli_here("query", "inference-resnet50", "--data-dir", path, "--scenario", "both")
    assert refused.returncode == 2 and "query.scenario" in refused.stderr
