"""The rule set `default`, and the verb `check` with it and with those of MLPerf Storage (whose rules: test_mlperf_rules.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from storagebench.checks.case import Case
from storagebench.checks.rulesets import DEFAULT, RULE_SETS
from storagebench.checks.setrules import SetRule, judge_rules
from storagebench.cli import run_program


def failed(rules: Sequence[SetRule], given: Sequence[Case]) -> set[str]:
    return {verdict.rule for verdict in judge_rules(rules, given) if verdict.status == "failed"}


def as_case(loaded: Any) -> Case:
    return Case(loaded.run, loaded.summary, loaded.ranks, loaded.hosts)


def test_default_turns_warnings_and_a_missed_au_into_failures(report_make: Any) -> None:
    good = as_case(report_make(steps=1600))
    assert [verdict.status for verdict in judge_rules(DEFAULT, [good])] == ["passed"] * 4
    assert failed(DEFAULT, [as_case(report_make(steps=100))]) == {"no_warnings"}
    assert failed(DEFAULT, [as_case(report_make(steps=1600, stall_ms=9.0, stalled=0.9))]) == {"au_reached"}
    assert failed(DEFAULT, [as_case(report_make(steps=1600, missing=1))]) == {"no_errors"}
    assert failed(DEFAULT, [as_case(report_make(steps=5000, compute_ms=0.0, stall_ms=20.0, stalled=1.0, epochs=1))]) == {"au_reached"}
    assert failed(DEFAULT, [good, as_case(report_make(steps=1601, run_id="b"))]) == {"same_conditions"}


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run_program(["check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_check_prints_findings_and_says_what_is_not_checked(
    report_make: Any, report_write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(report_write(tmp_path, report_make(run_id="good", steps=1600)))
    code, out, err = check(capsys, good)
    assert (code, err) == (0, "")
    assert out.startswith("good: valid, no findings\n\nnot checked, since no rule is written:\n  CODE_MODIFIED: ")
    weak = str(report_write(tmp_path, report_make(run_id="weak", steps=100)))
    code, out, _ = check(capsys, weak)
    assert code == 0
    assert "weak: valid, 1 warning\n  warning TOO_SHORT: " in out and "\n    hint: use more --epochs" in out
    bad = str(report_write(tmp_path, report_make(run_id="bad", steps=100, missing=2)))
    code, out, _ = check(capsys, good, bad)
    assert code == 6
    assert "good: valid, no findings\n" in out and "bad: INVALID, 1 error, 1 warning\n  error SAMPLE_COVERAGE: 4 planned samples" in out
    assert sorted(path.name for path in (tmp_path / "bad").iterdir()) == ["run.json", "trace"]


def test_check_with_rules(report_make: Any, report_write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(report_write(tmp_path, report_make(run_id="good", steps=1600)))
    code, out, _ = check(capsys, good, "--rules", "default")
    assert (code, "samples/s" in out) == (0, False)
    assert "\nrules default: 4 passed\n  passed      no_errors: " in out
    code, out, _ = check(capsys, good, "--rules", "mlperf-storage-v2.0-closed", "--json")
    data = json.loads(out)
    assert (code, data["passed"], data["rules"]["name"]) == (6, False, "mlperf-storage-v2.0-closed")
    assert [run["run_id"] for run in data["runs"]] == ["good"]
    assert {verdict["status"] for verdict in data["rules"]["verdicts"]} == {"passed", "failed", "not_judged"}
    assert all(failure["message"] and failure["hint"] for verdict in data["rules"]["verdicts"] for failure in verdict["failures"])
    assert all(verdict.get("why") for verdict in data["rules"]["verdicts"] if verdict["status"] == "not_judged")
    assert set(data["not_written"]) == {"CODE_MODIFIED"}
    code, out, _ = check(capsys, good, "--rules", "mlperf-storage-v2.0")
    assert code == 6
    assert "\nrules mlperf-storage-v2.0-closed (closed, since mlperf-storage-v2.0 names no division): " in out
    assert "\n  not judged  kv_cache" not in out and "\n  not judged  vector_database: 5 runs" in out
    figures = data["rules"]["figures"]["good"]
    line = f"    good: AU {figures['nominal']:.4f} ({figures['measured']:.4f} with the measured compute), {figures['samples_per_s']:.2f} samples/s\n"
    assert f"\n  AU and rate in the window of these rules:\n{line}" in out and 0.9 < figures["nominal"] <= 1.0
    assert out.rstrip().split("\n\n")[1].endswith("it was not made by the engine of the round.")


def test_a_rule_that_is_not_judged_never_passes(report_make: Any, report_write: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    good = str(report_write(tmp_path, report_make(run_id="good", steps=1600)))
    only = (*DEFAULT, SetRule("later", "what the rule wants", None, "nobody can see it"))
    monkeypatch.setattr("storagebench.checks.rulesets.RULE_SETS", {**RULE_SETS, "only": only})
    code, out, _ = check(capsys, good, "--rules", "only")
    assert code == 6
    assert "rules only: 4 passed, 1 not judged\n  not judged  later: what the rule wants\n    why: nobody can see it\n" in out


def test_check_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check(capsys, str(tmp_path), "--rules", "mlperf-storage-v2.0-close")
    assert (code, out) == (2, "")
    assert err == "error: unknown rule set 'mlperf-storage-v2.0-close'\nhint: did you mean 'mlperf-storage-v2.0-closed'?\n"
    code, out, err = check(capsys, str(tmp_path / "none"))
    assert (code, out) == (2, "") and "does not exist" in err
