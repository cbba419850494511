"""`diagnose WORKLOAD`: where the time goes, and the next knob to turn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import RUN_OPTIONS, configured, data_dir_option, parse_storage_options, storage_options, workload_options
from storagebench.errors import EXIT_INVALID, EXIT_OK

if TYPE_CHECKING:
    from storagebench.diagnosis.ladder import Diagnosis
    from storagebench.request import Request

MAX_TRIALS = 3


@click.command("diagnose")
@click.argument("workload")
@data_dir_option
@workload_options(RUN_OPTIONS)
@storage_options
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where the folder is written.")
@click.option("--run-id", metavar="NAME", help="Name of the folder; made of workload, loader and time otherwise.")
@click.option("--repeats", type=click.IntRange(1, 100), default=3, show_default=True, metavar="N", help="How often the ladder is climbed.")
@click.option("--rung-duration", default="2s", show_default=True, metavar="TIME", help="How long each rung is measured.")
@click.option("--what-if", "what_if", multiple=True, metavar="NAME=VALUE", help="Predict AU for accelerators=N, workers=N or storage=2x.")
@click.option("--trial/--no-trial", default=True, show_default=True, help="Turn the knob that the verdict names, and measure what it did.")
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@click.pass_obj
def command(
    obj: dict[str, Any],
    /,
    workload: str,
    data_dir: str,
    settings: tuple[str, ...],
    storage_option: tuple[str, ...],
    results_dir: Path,
    run_id: str | None,
    repeats: int,
    rung_duration: str,
    what_if: tuple[str, ...],
    trial: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Climb a ladder of runs, each with one thing changed, and say what stands in the way: storage, decode, loader, host or nothing but the
    accelerator. Takes a minute or two. The runs of the job itself are ordinary runs, kept in the folder with `diagnosis.json`."""
    from storagebench.clock import SystemClock
    from storagebench.diagnosis.whatif import parse_change
    from storagebench.launch import handling_signals
    from storagebench.report.diagnosis import diagnosis_text
    from storagebench.request import Request, default_run_id
    from storagebench.units import parse_duration

    chosen = configured(workload, values, settings)
    for text in what_if:  # a bad question is refused before anything is measured
        parse_change(text, {})
    name = run_id or "diagnose-" + default_run_id(chosen.workload, SystemClock())
    request = Request(
        configured=chosen,
        data_dir=data_dir,
        storage_options=parse_storage_options(storage_option),
        results_dir=results_dir / name,
        run_id=name,
        command=["storagebench", *sys.argv[1:]],
        command_start_ns=obj["start_ns"],
        debug=obj["debug"],
    )
    with handling_signals():
        found = _diagnose(request, parse_duration(rung_duration), repeats, what_if, trial)
    click.echo(json.dumps(found.as_dict(), indent=1) + "\n" if as_json else diagnosis_text(found), nl=False)
    if found.invalid is not None:
        click.echo(
            f"error: the job's own runs are invalid, and with them the diagnosis: {found.invalid}\nhint: see `storagebench check {request.results_dir}`",
            err=True,
        )
        return EXIT_INVALID
    return EXIT_OK


def _diagnose(request: Request, seconds: float, repeats: int, what_if: tuple[str, ...], trial: bool) -> Diagnosis:
    """Climb, judge, turn the knob; what was measured is saved after each of both."""
    from storagebench.bench import host_bench
    from storagebench.commands.progress import say
    from storagebench.diagnosis.saved import judged, measured, save
    from storagebench.errors import UsageError
    from storagebench.experiments.ladder import climb, turn

    folder = request.results_dir
    if folder.exists():
        raise UsageError(f"{folder.name!r} exists in {folder.parent}", "choose another --run-id; nothing is ever overwritten")
    with host_bench(request, seconds, repeats) as (bench, asked):
        say(f"diagnose {request.run_id}: {repeats} repeats of the ladder into {folder}")
        climbed = climb(bench, asked, say)
        record = measured(request.run_id, request.command, climbed.rungs, climbed.absent, climbed.cold, climbed.pinned, climbed.invalid)
        record["what_if"] = list(what_if)
        save(folder, record)
        found = judged(record)
        turned = turn(bench, asked, found.verdict, min(repeats, MAX_TRIALS)) if trial else None
    if turned is not None:
        record["trial"] = {"settings": dict(turned.settings), "before": list(turned.before), "after": list(turned.after)}
        save(folder, record)
    return judged(record)
