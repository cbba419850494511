"""`tune WORKLOAD`: the settings of a loader that give the best AU within a time, ending in a command line to copy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from storagebench.commands.options import RUN_OPTIONS, configured, parse_storage_options, storage_options, workload_options

if TYPE_CHECKING:
    from storagebench.experiments.space import Dimension
    from storagebench.experiments.tune import Trial, Tuned
    from storagebench.tunebench import Objective, TuneBench, TuneRequest

TUNE_FILE, JOURNAL_FILE, SCHEMA_VERSION = "tune.json", "tune.jsonl", 1
_WORKERS_PER_CORE = 4
_SEVERAL = "Of the dataset; given several times (shards of other sizes, say), which one is best is searched too, and the first is the default."


@click.command("tune")
@click.argument("workload")
@click.option("--data-dir", "data_dirs", required=True, multiple=True, metavar="URL", help=_SEVERAL)
@workload_options(RUN_OPTIONS)
@storage_options
@click.option("--time", "time_", required=True, metavar="TIME", help="How long it may take in all, such as 10min.")
@click.option("--trial-duration", default="5s", show_default=True, metavar="TIME", help="How long each trial is measured (25 steps at least).")
@click.option(
    "--max-workers",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Budget: workers of all accelerators of this host together; 4 for each usable core otherwise.",
)
@click.option("--try", "tries", multiple=True, metavar="KEY=V1,V2", help="Turn this too: a field of the workload, or storage.OPTION.")
@click.option("--results-dir", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where the folder is written.")
@click.option("--tune-id", metavar="NAME", help="Name of that folder; tune-WORKLOAD-LOADER otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_obj
def command(
    obj: dict[str, Any],
    /,
    workload: str,
    data_dirs: tuple[str, ...],
    settings: tuple[str, ...],
    storage_option: tuple[str, ...],
    time_: str,
    trial_duration: str,
    max_workers: int | None,
    tries: tuple[str, ...],
    results_dir: Path,
    tune_id: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Search workers, prefetch, reads in flight and what else this loader has for the best AU (samples/s where AU is 1 or there is no compute time), for a
    given time. The best is held against the defaults in fresh runs. Memory is bounded by --memory-limit, as for a run. Interrupted, the same command goes on."""
    from storagebench.launch import handling_signals
    from storagebench.registry import refuse_missing
    from storagebench.tunebench import TuneRequest, make_space
    from storagebench.units import parse_duration

    refuse_missing("tune", ("optuna",), "tune")
    chosen = configured(workload, values, settings)
    dumped = chosen.workload.model_dump()
    said = tuple((key, _at(dumped, key), origin) for key, origin in chosen.provenance.items() if origin.startswith("--"))
    cores = len(os.sched_getaffinity(0))
    asked = TuneRequest(
        workload, said, data_dirs, parse_storage_options(storage_option), parse_duration(trial_duration), max_workers or _WORKERS_PER_CORE * cores
    )
    space = make_space(asked, tries)
    seconds = parse_duration(time_)
    _refuse_too_short(seconds, asked)
    folder = results_dir / (tune_id or f"tune-{chosen.workload.name}-{chosen.workload.loader.name}")
    with handling_signals():
        found, objective = _tune(asked, space, seconds, chosen.workload.run.seed, folder, obj["debug"])
    click.echo(_said(found, objective, asked, space, as_json), nl=False)
    return 0


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _refuse_too_short(seconds: float, asked: TuneRequest) -> None:
    """Raises UsageError where not even the fewest trials fit into the time, their starts left out."""
    from storagebench.errors import UsageError
    from storagebench.experiments.tune import least_trials

    if asked.trial_s <= 0:
        raise UsageError(f"--trial-duration is {asked.trial_s:g} s, and must be above 0", "such as 5s")
    least_s = (least_trials() + 1) * asked.trial_s
    if seconds < least_s:
        raise UsageError(
            f"--time is {seconds:g} s, and {least_trials() + 1} trials of {asked.trial_s:g} s take {least_s:g} s at least",
            "give more --time, or a shorter --trial-duration",
        )


def _tune(asked: TuneRequest, space: Sequence[Dimension], seconds: float, seed: int, folder: Path, debug: bool) -> tuple[Tuned, Objective]:
    """Make the trials that are not made yet; what they say."""
    from storagebench.clock import SystemClock
    from storagebench.commands.progress import say
    from storagebench.experiments.journal import Journal, read_rows
    from storagebench.experiments.proposer import OptunaProposer
    from storagebench.experiments.space import default_point
    from storagebench.experiments.tune import Asked, Tuning, trial_of
    from storagebench.tunebench import Objective, TuneBench

    bench = TuneBench(asked, default_point(space), folder, SystemClock(), debug, _following)
    bench.check()
    _begin(folder, {"asked": _plain(asked), "seconds": seconds, "seed": seed, "space": [one.__dict__ for one in space]})
    journal = Journal(folder / JOURNAL_FILE)
    try:
        rows = read_rows(folder / JOURNAL_FILE)
        known = [row for row in rows if row["kind"] == "objective"]
        if known:
            bench.objective, look_s = Objective(known[-1]["metric"], known[-1]["unpaced"], known[-1]["why"]), known[-1]["seconds"]
        else:
            bench.objective, look_s = bench.choose_objective()
            journal.write({"kind": "objective", **bench.objective._asdict(), "seconds": look_s})
        past = [trial_of(row) for row in rows if row["kind"] == "trial"]
        say(f"tune: {bench.objective.metric}, since {bench.objective.why}" + (f"; {len(past)} trials are there already" if past else ""))

        def note(trial: Trial) -> None:
            journal.write({"kind": "trial", **trial._asdict(), "point": dict(trial.point)})
            say(_line(trial))

        request = Asked(space, max(seconds - look_s, 0.0), seed)
        return Tuning(request, OptunaProposer(space, seed), _insisting(bench), bench.refuses, past, note).run(), bench.objective
    finally:
        journal.close()


def _insisting(bench: TuneBench) -> Any:
    """Measures; the defaults must give a figure, or there is nothing to tune."""
    from storagebench.errors import RunInvalidError

    def measure(number: int, phase: str, point: Any) -> Any:
        found = bench.measure(number, phase, point)
        if number == 0 and found.value is None:
            raise RunInvalidError(
                f"the defaults give no figure to tune: {found.why}",
                "use a longer --trial-duration, or make `storagebench run` work with the same options first",
            )
        return found

    return measure


def _line(trial: Trial) -> str:
    from storagebench.report.tune import settings

    got = f"failed: {trial.why}" if trial.value is None else f"{trial.value:.4g}"
    return f"  {trial.phase} {trial.number}: {settings(trial.point)} -> {got}"


def _plain(asked: TuneRequest) -> dict[str, Any]:
    return {**asked.__dict__, "storage_options": dict(asked.storage_options)}


def _begin(folder: Path, request: dict[str, Any]) -> None:
    """Make the folder, or go on in it. Raises UsageError where it holds another request."""
    from storagebench.errors import UsageError
    from storagebench.experiments.sweep import differences
    from storagebench.records import write_json

    plain = json.loads(json.dumps(request))
    path = folder / TUNE_FILE
    if not path.is_file():
        if folder.exists():
            raise UsageError(f"{folder} exists and holds no tuning", "choose another --tune-id")
        folder.mkdir(parents=True)
        write_json(path, {"schema_version": SCHEMA_VERSION, "command": ["storagebench", *sys.argv[1:]], **plain})
        return
    before = json.loads(path.read_bytes())
    if before["schema_version"] != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema {before['schema_version']}, and this storagebench reads {SCHEMA_VERSION}", "use the version that wrote it"
        )
    changed = list(differences({key: before[key] for key in plain}, plain))
    if changed:
        raise UsageError(
            f"{folder} was begun with another request: {'; '.join(changed[:8])}", "repeat that one to go on, or choose another --tune-id"
        )


def _following(run_dir: Path) -> AbstractContextManager[None]:
    from storagebench.commands.progress import following
    from storagebench.records import read_run

    plan = read_run(run_dir)["plan"]
    return following(run_dir, plan)


def _said(found: Tuned, objective: Objective, asked: TuneRequest, space: Sequence[Dimension], as_json: bool) -> str:
    from storagebench.jobs import copyable
    from storagebench.report.tune import tune_text

    default = asked.command(found.default, found.default)
    best = asked.command(found.best, found.default) if found.best is not None else default
    if not as_json:
        return tune_text(found, objective.metric, objective.why, space, best, default)
    chosen = copyable(best if found.better else default)
    return json.dumps({"objective": objective._asdict(), "better": found.better, "command": chosen, **found.as_dict()}, indent=1) + "\n"
