"""`report RUN...`: read saved runs again, by whoever, wherever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.report_tta import report_tta, take_tta, tta_options
from storagebench.commands.watching import check_mlflow, log_to_mlflow, mlflow_options

if TYPE_CHECKING:
    from storagebench.experiments.searchresult import Found
    from storagebench.report.load import LoadedDiagnosis, LoadedRun


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the summaries as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one row a run.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write one self-contained page.")
@click.option(
    "--submission",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Lay the runs out as a submission to MLPerf Storage wants them, as far as they go, with MISSING.txt of what it lacks; needs --rules.",
)
@click.option("--rules", "rules_name", metavar="NAME", help="With --submission: of which rules, such as mlperf-storage-v3.0-closed.")
@click.option("--org", metavar="NAME", help="With --submission: who submits.")
@click.option("--system", metavar="NAME", help="With --submission: the name of the system under test; without it, that of the host.")
@tta_options
@mlflow_options
def command(
    runs: tuple[Path, ...],
    as_json: bool,
    as_csv: bool,
    html_file: Path | None,
    submission: Path | None,
    rules_name: str | None,
    org: str | None,
    system: str | None,
    **tracking: Any,
) -> None:
    """Report saved runs, query runs, diagnoses and searches. RUN is a run folder, a folder of `storagebench diagnose` or `search`, or a results folder with
    several of them; the folder of a sweep, given alone, is its comparing page. With --tta also a table of DAWNBench (.tsv) or a log of
    MLPerf Training. Writes each run's summary.json anew."""
    from storagebench.commands.progress import say
    from storagebench.errors import StorageError, UsageError
    from storagebench.records import SUMMARY_FILE, write_json, write_whole
    from storagebench.report.html import as_html
    from storagebench.report.load import load_all, load_searches
    from storagebench.report.tabular import as_csv as csv_text
    from storagebench.report.tabular import as_json as json_text

    tta = take_tta(tracking)
    _refuse_half_a_submission(submission, rules_name, org, system)
    check_mlflow(tracking)
    if len(runs) == 1 and not as_csv and submission is None and not tta["tta"] and _is_sweep(runs[0]):
        return _report_sweep(runs[0], as_json, html_file)
    files = tuple(path for path in runs if tta["tta"] and path.is_file())
    runs = tuple(path for path in runs if path not in files)
    loaded, diagnoses, queries = load_all(runs)
    searches = load_searches(runs)
    if queries and ((as_csv and not tta["tta"]) or html_file is not None):
        raise UsageError(
            f"{queries[0].run_dir} is a query run, which has no {'CSV row' if as_csv else 'HTML page'} yet",
            "report it as text or with --json, or give runs of `storagebench run` only",
        )
    summaries = [run.summary for run in loaded]
    asked = [run.summary for run in queries]
    folders = [*(run.run_dir for run in loaded), *(run.run_dir for run in queries)]
    for run_dir, summary in zip(folders, (*summaries, *asked), strict=True):
        try:
            write_json(run_dir / SUMMARY_FILE, summary)
        except StorageError as error:  # an archive may be read-only: the figures are worked out all the same
            say(f"note: {error.message}")
    if html_file is not None:
        write_whole(html_file, as_html(loaded, diagnoses, searches).encode())
        say(f"wrote {html_file.absolute()}")
    if submission is not None:
        _write_submission(submission, str(rules_name), org, system, loaded)
        say(f"wrote {submission.absolute()}: no submission as it is, MISSING.txt says what it lacks")
    if tracking["mlflow"] is not None and not loaded:
        raise UsageError("there are no runs to log to MLflow", "give folders of `storagebench run`; query runs and diagnoses are not logged")
    for run in loaded:
        log_to_mlflow(tracking, run.run_dir)
    if tta["tta"]:
        report_tta(loaded, files, tta, as_json, as_csv)
    elif as_json:
        click.echo(json_text([*(found.as_dict() for found in searches), *summaries, *asked]), nl=False)
    elif as_csv:
        click.echo(csv_text(summaries), nl=False)
    else:
        click.echo(_text(summaries, diagnoses, asked, searches), nl=False)


def _is_sweep(folder: Path) -> bool:
    from storagebench.experiments.sweepfolder import is_sweep

    return is_sweep(folder)


def _report_sweep(folder: Path, as_json: bool, html_file: Path | None) -> None:
    import json

    from storagebench.commands.sweep import write_page
    from storagebench.report.sweep import sweep_text
    from storagebench.report.sweepload import load_sweep

    found = load_sweep(folder)
    if html_file is not None:
        write_page(html_file, found)
    click.echo(json.dumps(found.as_dict(), indent=1) + "\n" if as_json else sweep_text(found), nl=False)


def _refuse_half_a_submission(submission: Path | None, rules_name: str | None, org: str | None, system: str | None) -> None:
    """Before anything is read. Raises UsageError."""
    from storagebench.checks.mlperf import find_ground
    from storagebench.errors import UsageError
    from storagebench.report.folder import refuse_if_taken

    if submission is None:
        if rules_name or org or system:
            raise UsageError("--rules, --org and --system belong to --submission", "give --submission DIR, or leave them out")
        return
    if rules_name is None:
        raise UsageError("--submission needs --rules: each edition has its own layout", "give --rules mlperf-storage-v3.0-closed, for instance")
    find_ground(rules_name)
    refuse_if_taken(submission)


def _write_submission(folder: Path, rules_name: str, org: str | None, system: str | None, loaded: Sequence[LoadedRun]) -> None:
    from storagebench.checks.mlperf import find_ground
    from storagebench.errors import UsageError
    from storagebench.members import first_host
    from storagebench.report.folder import write_folder
    from storagebench.report.submission import Submission, file_name, lay_out

    if not loaded:
        raise UsageError("there are no runs to lay out", "give run folders")
    name = file_name(org or "ORG", "--org")
    of_system = file_name(system or str(first_host(loaded[0].run).get("host", "system")), "--system")
    write_folder(folder, lay_out(Submission(find_ground(rules_name), name, org is not None, of_system), loaded))


def _text(
    summaries: Sequence[Mapping[str, Any]], diagnoses: Sequence[LoadedDiagnosis], queries: Sequence[Mapping[str, Any]], searches: Sequence[Found]
) -> str:
    """The searches and the diagnoses, several of them under their names, then the page of the one run or the table of several, then the pages of query runs."""
    from storagebench.report.diagnosis import diagnosis_text
    from storagebench.report.queries import query_text
    from storagebench.report.search import search_text
    from storagebench.report.text import one_run, run_table
    from storagebench.report.wording import printable

    blocks = [(f"search {printable(found.name)}\n\n" if len(searches) > 1 else "") + search_text(found) for found in searches]
    blocks += [(f"diagnosis {printable(one.name)}\n\n" if len(diagnoses) > 1 else "") + diagnosis_text(one.found) for one in diagnoses]
    if summaries:
        blocks.append(one_run(summaries[0]) if len(summaries) == 1 else run_table(summaries))
    if queries:
        blocks.append(query_text(queries))
    return "\n".join(blocks)
