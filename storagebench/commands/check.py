"""`check RUN...`: is the number true, and does it meet a rule set. Reads run folders and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from storagebench.checks.mlperf_au import EditionFigures
    from storagebench.checks.setrules import Verdict


@click.command("check")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--rules",
    "rules_name",
    metavar="NAME",
    help="Judge by a rule set too: default, or mlperf-storage-EDITION-DIVISION (v1.0, v2.0, v3.0; closed, open).",
)
@click.option("--json", "as_json", is_flag=True, help="Print findings and verdicts as JSON.")
def command(runs: tuple[Path, ...], rules_name: str | None, as_json: bool) -> int:
    """Are saved runs valid, and do they meet a rule set. RUN is a run folder, or a results folder with several.

    Exit code 6 where a run has an error finding or, with --rules, where a rule failed or could not be judged; of a query run also where LoadGen's verdict is
    INVALID. A set of MLPerf Storage without its division means closed.
    """
    import json

    from storagebench.checks.case import Case
    from storagebench.checks.findings import NOT_WRITTEN
    from storagebench.checks.rulesets import figures_of_rules, find_rule_set, full_name
    from storagebench.checks.setrules import judge_rules
    from storagebench.errors import EXIT_INVALID, EXIT_OK, UsageError
    from storagebench.report.load import load_runs_and_queries

    rules = None if rules_name is None else find_rule_set(rules_name)
    asked, rules_name = rules_name, None if rules_name is None else full_name(rules_name)
    loaded, queries = load_runs_and_queries(runs)
    if queries and rules_name is not None:
        raise UsageError(
            f"{queries[0].run_dir} is a query run, and --rules {rules_name} judges runs with accelerators",
            "check it without --rules: LoadGen's own rules are its verdict",
        )
    cases = [Case(run.run, run.summary, run.ranks, run.hosts) for run in loaded]
    verdicts = None if rules is None else judge_rules(rules, cases)
    figures = None if rules_name is None else figures_of_rules(rules_name, cases)
    summaries = [*(run.summary for run in loaded), *(run.summary for run in queries)]
    valid = all(summary["valid"] for summary in summaries) and all(query.summary["verdict"] == "VALID" for query in queries)
    passed = valid and all(verdict.status == "passed" for verdict in verdicts or [])
    if as_json:
        click.echo(json.dumps(_as_data(summaries, rules_name, verdicts, figures, NOT_WRITTEN, passed), indent=1))
    else:
        blocks = [*map(_run_text, summaries), *([] if verdicts is None else [_rules_text(str(rules_name), str(asked), verdicts, figures)])]
        unwritten = "".join(f"\n  {code}: {why}" for code, why in NOT_WRITTEN.items())
        click.echo("\n\n".join([*blocks, f"not checked, since no rule is written:{unwritten}"]))
    return EXIT_OK if passed else EXIT_INVALID


def _as_data(
    summaries: Sequence[Mapping[str, Any]],
    rules_name: str | None,
    verdicts: Sequence[Verdict] | None,
    figures: Mapping[str, EditionFigures | None] | None,
    not_written: Mapping[str, str],
    passed: bool,
) -> dict[str, Any]:
    """`figures` of the rules: AU and rate of each run in their own window, where they have one."""
    rules: dict[str, Any] | None = None if verdicts is None else {"name": rules_name, "verdicts": [verdict.as_dict() for verdict in verdicts]}
    if rules is not None and figures is not None:
        rules["figures"] = {run_id: None if each is None else each._asdict() for run_id, each in figures.items()}
    return {"passed": passed, "runs": [_shown(summary) for summary in summaries], "rules": rules, "not_written": dict(not_written)}


def _shown(summary: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("run_id", "status", "valid", "findings", *(("verdict", "reasons") if "reasons" in summary else ()))
    return {key: summary[key] for key in keys}


def _run_text(summary: Mapping[str, Any]) -> str:
    from storagebench.report.wording import printable

    findings = summary["findings"]
    counts = {severity: sum(finding["severity"] == severity for finding in findings) for severity in ("error", "warning")}
    found = ", ".join(f"{count} {severity}{'s' if count > 1 else ''}" for severity, count in counts.items() if count) or "no findings"
    lines = [f"{printable(summary['run_id'])}: {'valid' if summary['valid'] else 'INVALID'}, {found}"]
    if "reasons" in summary:
        why = "; ".join(map(printable, summary["reasons"]))
        lines.append(f"  LoadGen's verdict: {summary['verdict'] or 'none'}{f': {why}' if why else ''}")
    for finding in findings:
        lines.append(f"  {finding['severity']} {finding['code']}: {printable(finding['message'])}")
        lines.append(f"    hint: {printable(finding['hint'])}")
    return "\n".join(lines)


def _rules_text(name: str, asked: str, verdicts: Sequence[Verdict], figures: Mapping[str, EditionFigures | None] | None) -> str:
    from storagebench.report.wording import printable

    counts = {status: sum(verdict.status == status for verdict in verdicts) for status in ("passed", "failed", "not_judged")}
    meant = "" if name == asked else f" (closed, since {asked} names no division)"
    lines = [f"rules {name}{meant}: " + ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)]
    for verdict in sorted(verdicts, key=lambda verdict: ("failed", "not_judged", "passed").index(verdict.status)):
        lines.append(f"  {verdict.status.replace('_', ' '):<10}  {verdict.rule}: {verdict.about}")
        if verdict.why:
            lines.append(f"    why: {verdict.why}")
        for failure in verdict.failures:
            lines.append(f"    {printable(failure.message)}")
            lines.append(f"    hint: {printable(failure.hint)}")
    if figures is not None:
        lines.append("  AU and rate in the window of these rules:")
        for run_id, each in figures.items():
            text = (
                "none, since an epoch has no second step"
                if each is None
                else f"AU {each.nominal:.4f} ({each.measured:.4f} with the measured compute)"
            )
            lines.append(f"    {printable(run_id)}: {text}" + ("" if each is None else f", {each.samples_per_s:.2f} samples/s"))
        lines.append("  A run of storagebench is no submission to MLPerf Storage, whatever these say: it was not made by the engine of the round.")
    return "\n".join(lines)
