"""`report RUN...`: read saved runs again, by whoever, wherever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from storagebench.commands.report_tta import Tta, asked_of, take_tta, tta_of, tta_options, write_files
from storagebench.commands.watching import check_mlflow, log_to_mlflow, mlflow_options

if TYPE_CHECKING:
    from storagebench.experiments.searchresult import Found
    from storagebench.report.load import LoadedDiagnosis, LoadedQueries, LoadedRun
    from storagebench.report.scaling import Prices


class Everything(NamedTuple):
    """What lies at the paths of the command."""

    runs: Sequence[LoadedRun]
    diagnoses: Sequence[LoadedDiagnosis]
    queries: Sequence[LoadedQueries]
    searches: Sequence[Found]


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
    from storagebench.errors import UsageError
    from storagebench.records import write_whole
    from storagebench.report.html import as_html
    from storagebench.report.load import load_all, load_searches
    from storagebench.report.scaling import hour_prices

    tta = take_tta(tracking, runs)
    _refuse_half_a_submission(submission, rules_name, org, system)
    check_mlflow(tracking)
    if len(runs) == 1 and not as_csv and submission is None and not tta["tta"] and _is_sweep(runs[0]):
        return _report_sweep(runs[0], as_json, html_file)
    files = tuple(path for path in runs if tta["tta"] and path.is_file())
    runs = tuple(path for path in runs if path not in files)
    found = Everything(*load_all(runs), load_searches(runs))
    if tracking["mlflow"] is not None and not found.runs:
        raise UsageError("there are no runs to log to MLflow", "give folders of `storagebench run`; query runs and diagnoses are not logged")
    _refuse_pages_and_rows(found, files, tta, as_csv, html_file)
    asked = asked_of(tta)
    prices = hour_prices(found.searches, asked.prices, asked.price_name)
    trained = tta_of(found.runs, files, asked) if tta["tta"] else None
    _write_summaries(found)
    if html_file is not None:
        page = as_html(found.runs, found.diagnoses, found.searches, prices, trained.entries if trained is not None else ())
        write_whole(html_file, page.encode())
        say(f"wrote {html_file.absolute()}")
    if submission is not None:
        _write_submission(submission, str(rules_name), org, system, found.runs)
        say(f"wrote {submission.absolute()}: no submission as it is, MISSING.txt says what it lacks")
    for run in found.runs:
        log_to_mlflow(tracking, run.run_dir)
    write_files(found.runs, tta, asked)
    _print(found, prices, trained, as_json, as_csv)


def _refuse_pages_and_rows(found: Everything, files: Sequence[Path], tta: Mapping[str, Any], as_csv: bool, html_file: Path | None) -> None:
    """What has no CSV row, no page, no time to accuracy. Raises UsageError."""
    from storagebench.errors import UsageError

    if found.queries and ((as_csv and not tta["tta"]) or html_file is not None):
        raise UsageError(
            f"{found.queries[0].run_dir} is a query run, which has no {'CSV row' if as_csv else 'HTML page'} yet",
            "report it as text or with --json, or give runs of `storagebench run` only",
        )
    if files and (as_csv or html_file is not None):
        what = "has no CSV row" if as_csv else "has no part in an HTML page"
        raise UsageError(f"{files[0]} is no run, and {what}", "report it as text or with --json, or give runs only")
    if found.searches and as_csv and tta["prices"] is not None and not found.runs:
        raise UsageError(f"search {found.searches[0].name} has no CSV row", "report it as text, or with --json or --html")
    if tta["tta"] and not found.runs and not files and not found.searches:
        raise UsageError("there are no runs to report the time to accuracy of", "give folders of `storagebench run`")


def _write_summaries(found: Everything) -> None:
    """Each run's summary anew. An archive may be read-only: that is said, and the figures are worked out all the same."""
    from storagebench.commands.progress import say
    from storagebench.errors import StorageError
    from storagebench.records import SUMMARY_FILE, write_json

    for run_dir, summary in [*((run.run_dir, run.summary) for run in found.runs), *((run.run_dir, run.summary) for run in found.queries)]:
        try:
            write_json(run_dir / SUMMARY_FILE, summary)
        except StorageError as error:
            say(f"note: {error.message}")


def _print(found: Everything, prices: Prices, trained: Tta | None, as_json: bool, as_csv: bool) -> None:
    """With --tta searches stand before the trainings; their cost is in both."""
    import json

    from storagebench.report.scaling import as_dict
    from storagebench.report.tabular import as_csv as csv_text
    from storagebench.report.tabular import as_json as json_text
    from storagebench.report.ttatext import tta_csv

    summaries = [run.summary for run in found.runs]
    asked = [run.summary for run in found.queries]
    if as_csv:
        click.echo(csv_text(summaries) if trained is None else tta_csv(trained.entries), nl=False)
    elif as_json:
        searches = [{**one.as_dict(), "costs": as_dict(one, prices.get(one.work.accelerator))} for one in found.searches]
        if trained is None:
            click.echo(json_text([*searches, *summaries, *asked]), nl=False)
        else:
            click.echo(json.dumps({**trained.as_dict(), **({"searches": searches} if searches else {})}, indent=1, allow_nan=False))
    elif trained is not None:
        click.echo("\n".join([*_search_blocks(found.searches, prices), *trained.text()]), nl=False)
    else:
        click.echo(_text(summaries, found.diagnoses, asked, found.searches, prices), nl=False)


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
    summaries: Sequence[Mapping[str, Any]],
    diagnoses: Sequence[LoadedDiagnosis],
    queries: Sequence[Mapping[str, Any]],
    searches: Sequence[Found],
    prices: Prices,
) -> str:
    """The searches and the diagnoses, several of them under their names, then the page of the one run or the table of several, then the pages of query runs."""
    from storagebench.report.diagnosis import diagnosis_text
    from storagebench.report.queries import query_text
    from storagebench.report.text import one_run, run_table
    from storagebench.report.wording import printable

    blocks = _search_blocks(searches, prices)
    blocks += [(f"diagnosis {printable(one.name)}\n\n" if len(diagnoses) > 1 else "") + diagnosis_text(one.found) for one in diagnoses]
    if summaries:
        blocks.append(one_run(summaries[0]) if len(summaries) == 1 else run_table(summaries))
    if queries:
        blocks.append(query_text(queries))
    return "\n".join(blocks)


def _search_blocks(searches: Sequence[Found], prices: Prices) -> list[str]:
    """The searches, several of them under their names."""
    from storagebench.report.search import search_text
    from storagebench.report.wording import printable

    heads = [f"search {printable(found.name)}\n\n" if len(searches) > 1 else "" for found in searches]
    return [head + search_text(found, prices.get(found.work.accelerator)) for head, found in zip(heads, searches, strict=True)]
