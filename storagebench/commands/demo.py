"""`demo`: the main job at a small size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("demo")
@click.option("--work-dir", type=click.Path(path_type=Path), default=Path("storagebench-demo"), show_default=True, help="Where datasets and runs go.")
@click.option("--num-samples", type=click.IntRange(64), default=1024, show_default=True, help="Samples of the synthetic dataset.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Passes over each dataset.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="The page; WORK_DIR/report.html otherwise.")
@click.pass_obj
def command(obj: dict[str, Any], /, work_dir: Path, num_samples: int, epochs: int, html_file: Path | None) -> int:
    """Two small datasets, one synthetic and one of photographs, through five loaders; ends in a table and an HTML page."""
    from storagebench.commands.progress import say
    from storagebench.demo import Sizes, run_demo
    from storagebench.launch import handling_signals
    from storagebench.records import write_whole
    from storagebench.report.html import as_html
    from storagebench.report.load import load_runs
    from storagebench.report.text import run_table

    with handling_signals():
        results = run_demo(work_dir, Sizes(num_samples=num_samples, epochs=epochs), say, obj["debug"])
    page = (html_file or work_dir / "report.html").absolute()
    write_whole(page, as_html(load_runs([run_dir for run_dir, _ in results])).encode())
    click.echo(run_table([summary for _, summary in results]), nl=False)
    click.echo(f"HTML page: {page}")
    return max(int(summary["exit_code"]) for _, summary in results)
