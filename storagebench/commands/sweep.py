"""`sweep SUITE`: a matrix of runs, or several jobs at the same time, out of one YAML file; interleaved, repeated, resumable."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from storagebench.experiments.suite import LoadedSuite
    from storagebench.experiments.units_of_suite import Unit


@click.command("sweep")
@click.argument("suite", type=click.Path(path_type=Path))
@click.option(
    "--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where the sweep's folder is written."
)
@click.option("--sweep-id", metavar="NAME", help="Name of that folder; the suite's name otherwise.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write one self-contained page.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and what does not fit; measure nothing.")
@click.pass_obj
def command(
    obj: dict[str, Any], /, suite: Path, results_dir: Path, sweep_id: str | None, html_file: Path | None, as_json: bool, dry_run: bool
) -> int:
    """Run every cell of SUITE (a YAML file, see docs/suite.yaml) several times, taking turns, and compare those that may be compared. Each run is an
    ordinary run folder. Interrupted or killed, the same command goes on; runs that failed are kept and said."""
    from storagebench.experiments.suite import load_suite
    from storagebench.experiments.units_of_suite import units_of
    from storagebench.launch import handling_signals
    from storagebench.report.sweep import sweep_text
    from storagebench.report.sweepload import load_sweep
    from storagebench.sweepbench import fits

    loaded = load_suite(suite)
    _refuse_secrets(loaded)
    units = units_of(loaded, fits)
    folder = results_dir / _name(sweep_id or loaded.suite.name)
    if dry_run:
        click.echo(json.dumps(_planned(loaded, units), indent=1) if as_json else _dry_text(loaded, units, folder))
        return 0
    if html_file is not None:
        from storagebench.report.html import plotly_js

        plotly_js()  # before hours are spent
    with handling_signals():
        _sweep(loaded, units, folder, obj["debug"])
    found = load_sweep(folder)
    if html_file is not None:
        write_page(html_file, found)
    click.echo(json.dumps(found.as_dict(), indent=1) + "\n" if as_json else sweep_text(found), nl=False)
    return found.exit_code


def write_page(html_file: Path, found: Any) -> None:
    """The HTML page of a sweep."""
    from storagebench.commands.progress import say
    from storagebench.records import write_whole
    from storagebench.report.sweephtml import sweep_html

    write_whole(html_file, sweep_html(found).encode())
    say(f"wrote {html_file.absolute()}")


def _name(name: str) -> str:
    from storagebench.errors import UsageError
    from storagebench.experiments.suite import NAME

    if not NAME.fullmatch(name):
        raise UsageError(f"--sweep-id is {name[:80]!r}: letters, digits, '.', '_' and '-' make one, 64 at most", "such as disk-2")
    return name


def _refuse_secrets(loaded: LoadedSuite) -> None:
    from storagebench.commands.options import parse_storage_options

    suite = loaded.suite
    for options in [*(store.storage_options for store in suite.stores.values()), *(job.storage_options for job in suite.jobs.values())]:
        parse_storage_options(tuple(f"{name}={text}" for name, text in options.items()))


def _sweep(loaded: LoadedSuite, units: Sequence[Unit], folder: Path, debug: bool) -> None:
    """Make what is not made yet."""
    from storagebench.commands.progress import counting, say
    from storagebench.experiments.journal import Journal
    from storagebench.experiments.sweep import JOURNAL_FILE, Refused, drive, turns
    from storagebench.experiments.sweepfolder import FolderPast, begin, units_of_record
    from storagebench.experiments.sweepfolder import load as load_record
    from storagebench.sweepbench import SweepBench, make_datasets, remove_left_over

    suite = loaded.suite
    begin(folder, suite, units, ["storagebench", *sys.argv[1:]])
    journal = Journal(folder / JOURNAL_FILE)
    try:
        runnable = [unit for unit in units_of_record(load_record(folder)) if not unit.reason]
        say(f"sweep {folder.name}: {len(runnable)} units, {suite.repeats} rounds, into {folder}")
        remove_left_over(folder)
        order = turns([unit.name for unit in runnable], suite.repeats, suite.seed)
        failed: dict[str, Refused] = make_datasets(runnable, lambda place: counting(f"generate {place}")) if suite.generate else {}
        bench = SweepBench(folder, suite.ceiling, debug, _following)

        def run_unit(unit: Unit, round_: int, run_ids: Sequence[str]) -> Any:
            return failed[unit.name] if unit.name in failed else bench.run_unit(unit, round_, run_ids)

        drive({unit.name: unit for unit in runnable}, order, FolderPast(folder), run_unit, journal.write, say)
    finally:
        journal.close()


def _following(run_dir: Path) -> AbstractContextManager[None]:
    """The live line of one run."""
    from storagebench.commands.progress import following
    from storagebench.records import read_run

    plan = read_run(run_dir)["plan"]
    return following(run_dir, plan)


def _planned(loaded: LoadedSuite, units: Sequence[Unit]) -> dict[str, Any]:
    rows = [
        {"unit": unit.name, "jobs": [job.name for job in unit.jobs], "data_dirs": [job.data_dir for job in unit.jobs], "reason": unit.reason or None}
        for unit in units
    ]
    return {"suite": loaded.suite.name, "num_runs": _num_runs(loaded, units), "units": rows}


def _num_runs(loaded: LoadedSuite, units: Sequence[Unit]) -> int:
    return loaded.suite.repeats * sum(len(unit.jobs) for unit in units if not unit.reason)


def _dry_text(loaded: LoadedSuite, units: Sequence[Unit], folder: Path) -> str:
    from storagebench.jobs import copyable, run_command

    lines = [f"suite {loaded.suite.name}: {len(units)} units, {_num_runs(loaded, units)} runs in {loaded.suite.repeats} rounds, into {folder}"]
    for unit in units:
        if unit.reason:
            lines.append(f"{unit.name}: not run, since {unit.reason}")
            continue
        lines.append(f"{unit.name}:")
        lines += [f"  {copyable(run_command(job.workload, job.overrides, job.data_dir, job.storage_options))}" for job in unit.jobs]
        lines += [f"  beside {job.name}, which writes below {job.data_dir}" for job in unit.writers]
    return "\n".join(lines)
