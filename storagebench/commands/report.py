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
    from storagebench.checks.judge import is_run_dir, write_summary
    from storagebench.commands.progress import say
    from storagebench.errors import UsageError
    from storagebench.records import write_whole
    from storagebench.report.html import as_html
    from storagebench.report.load import load_runs
    from storagebench.report.tabular import as_csv as csv_text
    from storagebench.report.tabular import as_json as json_text
    from storagebench.report.text import one_run, run_table

    folders: list[Path] = []
    for path in runs:
        inside = [path] if is_run_dir(path) else sorted(child for child in path.glob("*") if is_run_dir(child))
        if not inside:
            raise UsageError(f"{path} is no run folder and has none in it", "give the folder that `storagebench run` printed")
        folders += inside
    summaries = [write_summary(folder) for folder in folders]
    if html_file is not None:
        write_whole(html_file, as_html(load_runs(folders)).encode())
        say(f"wrote {html_file.absolute()}")
    if as_json:
        click.echo(json_text(summaries), nl=False)
    elif as_csv:
        click.echo(csv_text(summaries), nl=False)
    elif len(summaries) == 1:
        click.echo(one_run(summaries[0]), nl=False)
    else:
        click.echo(run_table(summaries), nl=False)
