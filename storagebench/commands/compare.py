"""`compare BASE NEW`: better, worse, or not distinguishable; the exit code is for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from storagebench.report.load import LoadedRun

METRIC_NAMES = ("samples_per_s", "delivered_bytes_per_s", "au_nominal", "time_to_first_batch_s", "cpu_s_per_gb")


@click.command("compare")
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--margin", default="5%", show_default=True, metavar="SHARE", help="The largest regression that is accepted: 5% or 0.05.")
@click.option("--metric", type=click.Choice(METRIC_NAMES), default="samples_per_s", show_default=True, help="Which figure is compared.")
@click.option("--allow-single", is_flag=True, help="Let a single run on a side decide, by its steps alone (many false alarms on a shared host).")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def command(base: Path, new: Path, margin: str, metric: str, allow_single: bool, as_json: bool) -> int:
    """Compare NEW with BASE. Each is a run folder, a folder of repeats, or the name that was given to `run --repeat N --run-id NAME` (results/NAME
    stands for results/NAME-1, NAME-2 ...). Exit code 0: a regression beyond the margin is excluded; 6: it is shown, or a run is invalid; 7: neither,
    as always with a single run on a side."""
    import json

    from storagebench.checks.comparison import compare
    from storagebench.report.comparison import comparison_text

    limit = parse_margin(margin)
    sides = load_side(base), load_side(new)
    _refuse_shared(*sides)
    comparison = compare(*sides, metric, limit, allow_single)
    click.echo(json.dumps(comparison.as_dict(), indent=1) + "\n" if as_json else comparison_text(comparison), nl=False)
    return comparison.exit_code


def parse_margin(text: str) -> float:
    """A share from 0 to below 1, written 5% or 0.05. Raises UsageError for anything else."""
    from storagebench.errors import UsageError

    number = text.strip()
    factor = 0.01 if number.endswith("%") else 1.0
    try:
        value = float(number.removesuffix("%")) * factor
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"--margin is {text!r}, and must be from 0 to below 100%", "write it like 5% or 0.05")
    return value


def load_side(path: Path) -> list[LoadedRun]:
    """The run or runs at a path; the runs NAME-1, NAME-2 ... where there is no such folder. Raises as `report.load.load_runs` does."""
    from storagebench.report.load import load_runs

    if path.exists():
        return load_runs([path])
    found = [child for child in path.parent.glob("*") if child.name.startswith(f"{path.name}-") and child.name[len(path.name) + 1 :].isdigit()]
    found.sort(key=lambda child: int(child.name.rpartition("-")[2]))
    return load_runs(found or [path])


def _refuse_shared(base: list[LoadedRun], new: list[LoadedRun]) -> None:
    from storagebench.errors import UsageError

    both = {run.run_dir.resolve() for run in base} & {run.run_dir.resolve() for run in new}
    if both:
        names = ", ".join(sorted(run_dir.name for run_dir in both))
        raise UsageError(
            f"{names} stands on both sides of the comparison", "give BASE and NEW runs of their own; two sets of one request make an A/A test"
        )
