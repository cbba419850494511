"""`report RUN...`: read saved runs again, by whoever, wherever."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the summaries as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one row a run.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write one self-contained page.")
def command(runs: tuple[Path, ...], as_json: bool, as_csv: bool, html_file: Path | None) -> None:
    """Report saved runs. RUN is a run folder, or a results folder with several. Writes each run's summary.json anew."""
    from storagebench.commands.progress import say
    from storagebench.errors import StorageError
    from storagebench.records import SUMMARY_FILE, write_json, write_whole
    from storagebench.report.html import as_html
    from storagebench.report.load import load_runs
    from storagebench.report.tabular import as_csv as csv_text
    from storagebench.report.tabular import as_json as json_text
    from storagebench.report.text import one_run, run_table

    loaded = load_runs(runs)
    summaries = [run.summary for run in loaded]
    for run in loaded:
        try:
            write_json(run.run_dir / SUMMARY_FILE, run.summary)
        except StorageError as error:  # an archive may be read-only: the figures are worked out all the same
            say(f"note: {error.message}")
    if html_file is not None:
        write_whole(html_file, as_html(loaded).encode())
        say(f"wrote {html_file.absolute()}")
    if as_json:
        click.echo(json_text(summaries), nl=False)
    elif as_csv:
        click.echo(csv_text(summaries), nl=False)
    elif len(summaries) == 1:
        click.echo(one_run(summaries[0]), nl=False)
    else:
        click.echo(run_table(summaries), nl=False)
