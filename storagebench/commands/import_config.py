"""`import-config FILE`: a workload file of DLIO or mlpstorage as one of ours, and what could not be carried over."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("import-config")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write the workload there (it must not exist yet); without it, to stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print the workload and the fate of every key as JSON.")
def command(file: Path, out: Path | None, as_json: bool) -> None:
    """Turn a workload FILE of DLIO or mlpstorage into one of storagebench, and list line by line what could not be carried over.

    What is not carried over goes to stderr where stdout has the workload, and into the workload's own comments.
    """
    from storagebench.dlio.convert import convert
    from storagebench.dlio.text import facts, report_text, yaml_text
    from storagebench.errors import UsageError
    from storagebench.records import write_whole

    if out is not None and (out.exists() or out.is_symlink()):
        raise UsageError(f"--out {str(out)!r} exists already", "choose a new name, or remove it")
    conversion = convert(file)
    if out is not None:
        write_whole(out, yaml_text(conversion).encode())
    if as_json:
        click.echo(json.dumps(facts(conversion), indent=1, default=str))
    elif out is not None:
        click.echo(report_text(conversion), nl=False)
    else:
        click.echo(yaml_text(conversion), nl=False)
        click.echo(report_text(conversion), nl=False, err=True)
