"""`selfcheck`: does this machine measure known answers right."""

from __future__ import annotations

import json
from typing import Any

import click

from storagebench.errors import EXIT_INVALID, EXIT_OK

_HINT = "run it again with nothing else on the machine; if it fails again, do not trust AU measured here"


@click.command("selfcheck")
@click.option("--full", is_flag=True, help="All cells: 1, 2 and 4 accelerators, with and without prefetch (some ten minutes).")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.pass_obj
def command(obj: dict[str, Any], /, full: bool, as_json: bool) -> int:
    """Measure cases whose answer is known, on storage of known speed, and compare. Takes a minute or two.

    Exit code 0 when all pass, 6 when one does not.
    """
    from storagebench.commands.progress import say
    from storagebench.experiments.selfcheck import selfcheck
    from storagebench.launch import handling_signals

    with handling_signals():
        rows = selfcheck(full, debug=obj["debug"], say=say)
    failed = [row for row in rows if not row.passed]
    if as_json:
        click.echo(json.dumps({"passed": not failed, "cells": [row.as_dict() for row in rows]}, indent=1))
    else:
        click.echo(_table(rows), nl=False)
    if failed:
        click.echo(f"error: {len(failed)} of {len(rows)} cells are off: {', '.join(row.name for row in failed)}\nhint: {_HINT}", err=True)
    return EXIT_INVALID if failed else EXIT_OK


def _table(rows: list[Any]) -> str:
    lines = [("cell", "case", "expected", "measured", "difference", "", "")]
    for row in rows:
        verdict = "pass" if row.passed else "FAIL"
        lines.append((row.name, row.about, f"{row.expected:.4f}", f"{row.measured:.4f}", f"{row.difference:+.4f}", verdict, row.note))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)
