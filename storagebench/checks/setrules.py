"""What a rule of a rule set is: named, over one or several runs, judged to a verdict; and the rules that several sets share.

A rule without a function cannot be judged of a saved run: it says why, and a set that has one never passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from storagebench.checks.case import ERROR, Case, Found
from storagebench.checks.findings import find
from storagebench.members import hosts_of

Status = Literal["passed", "failed", "not_judged"]
SetCheck = Callable[[Sequence[Case]], Iterator[Found]]


@dataclass(frozen=True)
class SetRule:
    """One rule: `about` says what it asks for, with its source; `check` yields each violation, and None means that it is not judged, for the reason
    that `why` gives."""

    name: str
    about: str
    check: SetCheck | None
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """What one rule says of these runs."""

    rule: str
    status: Status
    about: str
    failures: tuple[Found, ...] = field(default=())
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """`why` is there where the rule is not judged."""
        head = {"rule": self.rule, "status": self.status, "about": self.about, "failures": [failure._asdict() for failure in self.failures]}
        return {**head, "why": self.why} if self.status == "not_judged" else head


def judge_rules(rules: Sequence[SetRule], cases: Sequence[Case]) -> list[Verdict]:
    """The verdict of each rule, in the order of the table."""
    verdicts = []
    for rule in rules:
        if rule.check is None:
            verdicts.append(Verdict(rule.name, "not_judged", rule.about, why=rule.why))
        else:
            failures = tuple(rule.check(cases))
            verdicts.append(Verdict(rule.name, "failed" if failures else "passed", rule.about, failures))
    return verdicts


def no_errors(cases: Sequence[Case]) -> Iterator[Found]:
    yield from of_severity(cases, ERROR)


def of_severity(cases: Sequence[Case], severity: str) -> Iterator[Found]:
    for case in cases:
        for finding in find(case):
            if finding.severity == severity:
                yield Found(f"run {case.run['run_id']} has {finding.code}: {finding.message}", finding.hint)


def same_conditions(cases: Sequence[Case]) -> Iterator[Found]:
    """Several runs are repeats of one another only where the request (but for the seed of the order), the dataset, the store, the hosts and the
    versions are the same."""
    for case in cases[1:]:
        first, this = _conditions(cases[0]), _conditions(case)
        differ = sorted(name for name in first if first[name] != this[name])
        if differ:
            yield Found(f"run {case.run['run_id']} differs from run {cases[0].run['run_id']} in {', '.join(differ)}", "check them on their own")


def _conditions(case: Case) -> dict[str, Any]:
    run, config = case.run, case.run["config"]
    request = {f"{section}.{name}": value for section in ("dataset", "loader", "train", "run") for name, value in config[section].items()}
    return {
        **{name: value for name, value in request.items() if name != "run.seed"},
        "workload": config["name"],
        "dataset digest": run["dataset"]["digest"],
        "store": run["store"],
        "host": [row.get("host") for row in hosts_of(run)],
        "memory": [row["memory_bytes"] for row in hosts_of(run)],
        "versions": [row.get("versions") for row in hosts_of(run)],
    }
