"""Rule sets: five closed runs that break no rule, one run set for each rule that breaks just it, and the verb `check`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storagebench.checks.case import Case
from storagebench.checks.judge import attributed
from storagebench.checks.mlperf import V2_0_CLOSED, edition_au
from storagebench.checks.rulesets import DEFAULT, RULE_SETS
from storagebench.checks.setrules import SetRule, judge_rules
from storagebench.cli import run_program
from storagebench.ranks import Ranks

C_MS = 323.0
Edit = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def made(report_make: Any) -> Any:
    """A long enough run of unet3d on one h100: its records are small, and its facts are those of the closed workload."""
    return report_make(steps=500, epochs=5, world_size=1, batch_size=7, compute_ms=C_MS, stall_ms=40.0, stalled=0.2, loader="files", format="npz")


def closed_runs(made: Any, count: int = 5) -> list[dict[str, Any]]:
    """`run.json` of five closed runs, which differ in id and seed."""
    runs = []
    for number in range(count):
        run = copy.deepcopy(dict(made.run))
        config = run["config"]
        run["run_id"] = f"run-{number}"
        config["name"] = "unet3d"
        config["dataset"].update(record_length_bytes=146600628, record_length_bytes_stdev=68341808)
        config["train"].update(compute_time_s={"h100": 0.323}, au_threshold=0.9, epochs=5)
        config["run"]["seed"] = number
        config["loader"].update(num_workers=4, prefetch_batches=2)
        run["dataset"].update(num_samples=3500, num_shards=3500, record_bytes=3500 * 146_000_000, stored_bytes=3500 * 146_001_000)
        runs.append(run)
    return runs


def cases(made: Any, runs: Sequence[dict[str, Any]], slower: float = 0.0) -> list[Case]:
    """The runs judged, each on the same traces; the last one's rate is lower by `slower`."""
    summary = attributed(runs[0], made.ranks, made.hosts)
    rates = [summary["samples_per_s"] * (1 - (slower if number == len(runs) - 1 else 0.0)) for number in range(len(runs))]
    return [
        Case(run, {**attributed(run, made.ranks, made.hosts), "samples_per_s": rate}, made.ranks, made.hosts)
        for run, rate in zip(runs, rates, strict=True)
    ]


def failed(rules: Sequence[SetRule], given: Sequence[Case]) -> set[str]:
    return {verdict.rule for verdict in judge_rules(rules, given) if verdict.status == "failed"}


def each(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    def apply(runs: list[dict[str, Any]]) -> None:
        for run in runs:
            edit(run)

    return apply


def config(section: str, **fields: Any) -> Edit:
    return each(lambda run: run["config"][section].update(fields))


def dataset(**fields: Any) -> Edit:
    return each(lambda run: run["dataset"].update(fields))


BROKEN: tuple[tuple[str, str, Edit], ...] = (
    ("no_errors", "on tmpfs", each(lambda run: run["host"]["data_filesystem"].update(type="tmpfs"))),
    ("workload_values", "an accelerator of the next edition", config("run", accelerator="b200")),
    ("workload_values", "another compute time", each(lambda run: run["plan"].update(compute_time_s=0.3229))),
    ("workload_values", "another batch size", config("train", batch_size=8)),
    ("workload_values", "fewer epochs", config("train", epochs=4)),
    ("workload_values", "another threshold", config("train", au_threshold=0.89)),
    ("workload_values", "no shuffle", config("loader", shuffle=False)),
    ("workload_values", "shorter records", config("dataset", record_length_bytes=146_600_000)),
    ("workload_values", "equal records", config("dataset", record_length_bytes_stdev=0)),
    ("workload_values", "a bounded run", config("run", max_steps=2500)),
    ("dataset_made", "another format", dataset(format="npy")),
    ("dataset_made", "two samples a file", dataset(num_shards=1750)),
    ("dataset_made", "shorter records than asked for", dataset(record_bytes=3500 * 139_000_000)),
    ("dataset_made", "zeros", dataset(origin={"compressibility": 0.5})),
    ("data_loader", "another loader", config("loader", name="direct")),
    ("parameters", "a deep queue", config("loader", prefetch_batches=5)),
    ("parameters", "a deep queue of two workers", config("loader", num_workers=1, prefetch_batches=3)),
    ("dataset_size", "under 500 steps", dataset(num_samples=3499, num_shards=3499)),
    ("dataset_size", "under 5 x memory", each(lambda run: run["host"].update(memory_bytes=3500 * 146600628 // 5 + 30_000_000))),
    ("number_of_runs", "a run is left out", lambda runs: runs.pop()),
    ("seeds", "the same seed twice", lambda runs: runs[4]["config"]["run"].update(seed=1)),
    ("same_conditions", "another dataset", lambda runs: runs[2]["dataset"].update(digest="sha256:other")),
    ("same_conditions", "other workers", lambda runs: runs[2]["config"]["loader"].update(num_workers=5)),
)


def test_five_closed_runs_break_no_rule_and_do_not_pass(made: Any) -> None:
    verdicts = judge_rules(V2_0_CLOSED, cases(made, closed_runs(made)))
    assert [(verdict.rule, verdict.failures) for verdict in verdicts if verdict.status == "failed"] == []
    unwritten = {rule.name for rule in V2_0_CLOSED if rule.check is None}
    assert {verdict.rule for verdict in verdicts if verdict.status == "not_written"} == unwritten >= {"warm_up_run", "engine", "checkpoint"}


@pytest.mark.parametrize(("rule", "about", "edit"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_fails_alone(rule: str, about: str, edit: Edit, made: Any) -> None:
    runs = closed_runs(made)
    edit(runs)
    given = cases(made, runs)
    assert failed(V2_0_CLOSED, given) == {rule}, about
    mutated = [replace(row, check=always_passes) if row.name == rule else row for row in V2_0_CLOSED]
    assert failed(mutated, given) == set(), about


def always_passes(given: Sequence[Case]) -> Iterator[Any]:
    return iter(())


def test_the_other_rules(made: Any) -> None:
    runs = closed_runs(made)
    assert failed(V2_0_CLOSED, cases(made, runs, slower=0.06)) == {"spread"}
    assert failed(V2_0_CLOSED, cases(made, runs, slower=0.04)) == set()
    uneven = [
        replace(case, summary={**case.summary, "per_host": [{"host": "a", "ranks": 1}, {"host": "b", "ranks": 2}]}) for case in cases(made, runs)
    ]
    assert failed(V2_0_CLOSED, uneven) == {"equal_hosts"}
    hosts = [replace(case, summary={**case.summary, "num_hosts": 2}) for case in cases(made, runs)]
    assert failed(V2_0_CLOSED, hosts) == {"dataset_size"}
    level = [replace(case, summary={**case.summary, "decode": "touch", "decode_asked": "touch"}) for case in cases(made, runs)]
    assert failed(V2_0_CLOSED, level) == {"data_loader"}
    written = {rule.name for rule in V2_0_CLOSED if rule.check is not None}
    assert written == {name for name, _, _ in BROKEN} | {"spread", "equal_hosts", "au_threshold"}


@pytest.mark.parametrize("name", ["resnet50", "cosmoflow"])
def test_the_tfrecord_workloads_cannot_be_closed(name: str, made: Any) -> None:
    runs = closed_runs(made)
    each(lambda run: run["config"].update(name=name))(runs)
    assert {"dataset_made", "data_loader"} <= failed(V2_0_CLOSED, cases(made, runs))


def test_another_workload_passes_nothing_about_the_workload(made: Any) -> None:
    runs = closed_runs(made)
    each(lambda run: run["config"].update(name="quick"))(runs)
    of_workload = {"workload_values", "dataset_made", "data_loader", "parameters", "dataset_size", "au_threshold", "equal_hosts"}
    assert failed(V2_0_CLOSED, cases(made, runs)) == of_workload


def test_one_run_is_no_result(made: Any) -> None:
    assert failed(V2_0_CLOSED, cases(made, closed_runs(made, 1))) == {"number_of_runs", "spread", "seeds"}


def test_au_in_the_window_of_the_edition(report_make: Any) -> None:
    """10 steps of 100 ms an epoch, each 25 ms late and 0.02 ms of sync; the first step's wait and compute are left out, its sync is not."""
    loaded = report_make(steps=10, epochs=2, world_size=1, compute_ms=100.0, stall_ms=0.0, stalled=0.0, host_ms=25.0)
    given = Case(loaded.run, loaded.summary, loaded.ranks, loaded.hosts)
    au = edition_au(given)
    assert au is not None
    trace = loaded.ranks.trace(0)
    assert au.nominal == au.measured == pytest.approx(9 * 100 / (9 * 125.02 + 25.02), rel=1e-12)
    assert edition_au(replace(given, ranks=Ranks(loaded.run, [trace._replace(steps=trace.steps[:1])]))) is None


def test_an_au_below_the_threshold_fails(report_make: Any) -> None:
    slow = report_make(steps=500, epochs=5, world_size=1, batch_size=7, compute_ms=C_MS, stall_ms=60.0, stalled=1.0, loader="files", format="npz")
    given = cases(slow, closed_runs(slow))
    assert failed(V2_0_CLOSED, given) == {"au_threshold"}


# -- the set `default`, and the verb ---------------------------------------------------------------------------------------------------------------


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
    assert code == 0
    assert "\nrules default: 4 passed\n  passed       no_errors: " in out
    code, out, _ = check(capsys, good, "--rules", "mlperf-storage-v2.0-closed", "--json")
    data = json.loads(out)
    assert (code, data["passed"], data["rules"]["name"]) == (6, False, "mlperf-storage-v2.0-closed")
    assert [run["run_id"] for run in data["runs"]] == ["good"]
    assert {verdict["status"] for verdict in data["rules"]["verdicts"]} == {"passed", "failed", "not_written"}
    assert all(failure["message"] and failure["hint"] for verdict in data["rules"]["verdicts"] for failure in verdict["failures"])
    assert set(data["not_written"]) == {"CODE_MODIFIED"}


def test_a_rule_that_is_not_written_never_passes(report_make: Any, report_write: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    good = str(report_write(tmp_path, report_make(run_id="good", steps=1600)))
    only = (*DEFAULT, SetRule("later", "nobody wrote it", None))
    monkeypatch.setattr("storagebench.checks.rulesets.RULE_SETS", {**RULE_SETS, "only": only})
    code, out, _ = check(capsys, good, "--rules", "only")
    assert code == 6
    assert "rules only: 4 passed, 1 not written\n  not written  later: nobody wrote it\n" in out


def test_check_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check(capsys, str(tmp_path), "--rules", "mlperf-storage-v2.0-close")
    assert (code, out) == (2, "")
    assert err == "error: unknown rule set 'mlperf-storage-v2.0-close'\nhint: did you mean 'mlperf-storage-v2.0-closed'?\n"
    code, out, err = check(capsys, str(tmp_path / "none"))
    assert (code, out) == (2, "") and "does not exist" in err
