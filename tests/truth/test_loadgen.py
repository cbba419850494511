"""Our arithmetic against MLPerf's own LoadGen: on its own latencies the same counts, percentiles, words and verdict, and from its seeds the same queries.

The recorded cases are made by `loadgen_driver.py`; two are also driven live where the package is installed (`mlcommons-loadgen`).
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from storagebench.scenarios.early_stopping import queries_needed
from storagebench.scenarios.schedule import Plan, Seeds, first, offline_samples, qsl_order, server_queries
from storagebench.scenarios.verdict import Measured, Rules, Verdict, early_stopping_text, judge


def _driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loadgen_driver", Path(__file__).with_name("loadgen_driver.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loadgen_driver"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


driver = _driver()
RECORDED: list[dict[str, Any]] = json.loads(driver.CASES.read_text())
NAMES = [record["case"]["name"] for record in RECORDED]


def _case(record: dict[str, Any]) -> dict[str, Any]:
    """The settings, of which only those that differ from the driver's defaults are recorded."""
    return vars(driver.Case(**record["case"]))


def _rules(case: dict[str, Any]) -> Rules:
    offline = case["scenario"] == "offline"
    width = case["samples_per_query"] if case["scenario"] == "multi-stream" else 1
    if offline:
        width = offline_samples(case["min_queries"], case["min_duration_ms"] / 1000, case["qps"])
    return Rules(
        scenario=case["scenario"],
        percentile=0.99 if offline else case["percentile"],
        latency_limit_ns=round(case["limit_ms"] * 1e6),
        min_duration_s=case["min_duration_ms"] / 1000,
        min_query_count=1 if offline else case["min_queries"],
        samples_per_query=width,
    )


def _plan(case: dict[str, Any]) -> Plan:
    rules = _rules(case)
    return Plan(
        rules.scenario,
        case["qsl_samples"],
        rules.samples_per_query,
        rules.min_query_count,
        case["qps"],
        Seeds(driver.QSL_SEED, driver.SAMPLE_SEED, driver.SCHEDULE_SEED),
    )


def _measured(record: dict[str, Any]) -> Measured:
    found = record["measured"]
    latencies = {name: driver.unpack(found[name]) for name in ("sample_latencies_ns", "query_latencies_ns")}
    return Measured(**{**found, **latencies})


def _same_verdict(record: dict[str, Any]) -> Verdict:
    rules, measured, said = _rules(_case(record)), _measured(record), record["said"]
    found = judge(rules, measured)
    assert measured.queries_issued == said["result_query_count"]
    assert ("VALID" if found.valid else "INVALID") == said["result_validity"] == said["summary_result"]
    assert (found.min_duration_met, found.min_queries_met) == (said["result_min_duration_met"], said["result_min_queries_met"])
    assert " ".join(found.recommendations) == said.get("result_invalid_reason", "").strip()
    stopping = found.early_stopping
    assert said["early_stopping_met"] is (stopping is None or stopping.met)
    assert early_stopping_text(rules, measured.queries_issued, stopping) == " ".join(said.get("early_stopping_result", "").split())
    if rules.scenario == "server":
        assert stopping is not None
        assert (found.latency_met, stopping.over_limit) == (said["result_perf_constraints_met"], said["result_overlatency_query_count"])
    return found


def _same_latencies(record: dict[str, Any], found: Verdict) -> None:
    said = record["said"]
    by_query = _case(record)["scenario"] == "multi-stream"
    query, of_query = ("query_", "per_query_") if by_query else ("", "")
    for percentile, latency_ns in found.percentiles_ns.items():
        assert latency_ns == said[f"result_{percentile * 100:.2f}_percentile_{of_query}latency_ns"]
    assert [found.min_ns, found.max_ns, found.mean_ns] == [said[f"result_{name}_{query}latency_ns"] for name in ("min", "max", "mean")]
    stopping = found.early_stopping
    if _case(record)["scenario"] == "single-stream":
        assert stopping is not None
        assert (stopping.estimate_ns or 0, stopping.estimate_p99_ns or 0) == (said["early_stopping_latency_ss"], said["early_stopping_latency_ms"])
    elif by_query:
        assert stopping is not None and (stopping.estimate_ns or 0) == said["early_stopping_latency_ms"]


def _same_rates(record: dict[str, Any], found: Verdict) -> None:
    """LoadGen prints six digits; where its start is not the first query's, it is some microseconds before it."""
    case, said = _case(record), record["said"]
    key = {
        "server": "result_completed_samples_per_sec",
        "offline": "result_samples_per_second",
        "single-stream": "result_qps_with_loadgen_overhead",
    }.get(case["scenario"])
    for ours, theirs in ((found.rate, said.get(str(key))), (found.scheduled_qps, said.get("result_scheduled_samples_per_sec"))):
        if theirs and ours:
            slack_s = 100e-6 if case["scenario"] == "single-stream" else 0.0
            count = max(said["result_query_count"] - 1, 1)
            assert math.isclose(count / ours, count / theirs, rel_tol=1e-5, abs_tol=slack_s)


def _same_queries(record: dict[str, Any]) -> None:
    case, issued, said = _case(record), record["issued"], record["said"]
    plan = _plan(case)
    assert plan.samples_per_query == said["effective_samples_per_query"]
    assert plan.min_query_count == said["effective_min_query_count"]
    padding = plan.samples_per_query - 1 if plan.scenario == "multi-stream" else 0
    order = qsl_order(plan)
    assert driver.crc(order + order[:padding]) == issued["loaded_qsl_crc32"]
    asked = first(plan, said["result_query_count"])
    indices = [sample for query in asked for sample in query.samples]
    assert indices[: len(issued["first_indices"])] == issued["first_indices"]
    assert driver.crc(indices) == issued["indices_crc32"]
    if plan.scenario == "server":
        due_ns = [query.due_ns for query in asked[: len(issued["first_due_ns"])]]
        assert all(abs(ours - theirs) <= 1 for ours, theirs in zip(due_ns, issued["first_due_ns"], strict=True))  # of microseconds with three places
        generated = list(server_queries(plan, case["min_duration_ms"] / 1000))
        assert len(generated) == said["generated_query_count"]
        following = first(plan, len(generated) + 1)[-1]
        assert following.due_ns == said["generated_query_duration"]


@pytest.mark.parametrize("record", RECORDED, ids=NAMES)
def test_the_same_as_loadgen_on_what_it_measured(record: dict[str, Any]) -> None:
    found = _same_verdict(record)
    _same_latencies(record, found)
    _same_rates(record, found)


@pytest.mark.parametrize("record", RECORDED, ids=NAMES)
def test_the_same_queries_as_loadgen(record: dict[str, Any]) -> None:
    _same_queries(record)


def test_the_record_is_of_this_loadgen_and_has_the_edges() -> None:
    assert len(RECORDED) >= 30 and len(set(NAMES)) == len(NAMES)
    assert {record["said"]["loadgen_version"].split()[0] for record in RECORDED} == {"6.0.17"}
    assert [case.name for case in driver.cases()] == NAMES
    verdicts = {record["case"]["name"]: record["said"]["result_validity"] for record in RECORDED}
    for percentile, needed in driver.NEEDED.items():
        for over, count in enumerate(needed):
            assert count == queries_needed(over, percentile)
            name = f"server p{percentile * 100:g} t={over} n="
            assert (verdicts[f"{name}{count - 1}"], verdicts[f"{name}{count}"]) == ("INVALID", "VALID")


@pytest.mark.parametrize(
    "change", [{"scenario": "server", "min_queries": 300, "qps": 2000.0, "late": (5, 9)}, {"scenario": "single-stream", "min_queries": 100}]
)
def test_the_same_as_loadgen_live(change: dict[str, Any]) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed (pip install 'storagebench[dev]')")
    record = driver.drive(driver.Case("live", percentile=0.9, **change))
    found = _same_verdict(record)
    _same_latencies(record, found)
    _same_queries(record)


def test_a_case_with_another_answer_is_told_apart() -> None:
    """The comparison itself sees a wrong verdict: one more query over the limit, where LoadGen had counted the least number needed."""
    record = next(record for record in RECORDED if record["case"]["name"] == "server p99 t=1 n=662")
    measured = _measured(record)
    worse = Measured(**{**vars(measured), "sample_latencies_ns": [*measured.sample_latencies_ns[1:], 10**9]})
    assert judge(_rules(_case(record)), measured).valid
    assert not judge(_rules(_case(record)), worse).valid
