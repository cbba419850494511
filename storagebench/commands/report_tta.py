"""`report --tta`: time to accuracy, and what it costs, out of saved runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from storagebench.report.load import LoadedRun
    from storagebench.report.ttabasis import Asked

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FLAGS = ("prices", "edition", "accelerator_price", "epochs_to_target", "training_samples", "dawnbench", "mllog")


def tta_options(function: _Function) -> _Function:
    """--tta and what belongs to it; the values arrive under these names, and go to `report_tta`."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--mllog", type=path, metavar="FILE", help="With --tta: write the one real training as log lines of MLPerf Training."),
        click.option(
            "--dawnbench", type=path, metavar="FILE", help="With --tta: write the one real training as an entry of DAWNBench, FILE.tsv with its JSON."
        ),
        click.option("--training-samples", type=click.IntRange(min=1), metavar="N", help="With --tta: samples of an epoch of the whole training."),
        click.option("--epochs-to-target", metavar="N[,N...]", help="With --tta: epochs of trainings that you saw, instead of the published ones."),
        click.option("--accelerator-price", metavar="NAME", help="With --tta: whose price counts, where it is not that of the run's accelerator."),
        click.option(
            "--edition", metavar="NAME", help="With --tta: of which edition the target is, such as v0.7.  [default: the run's, else the last]"
        ),
        click.option("--prices", type=path, metavar="FILE", help="With --tta: prices, for the cost (docs/prices.yaml is an example)."),
        click.option("--tta", is_flag=True, help="Time to accuracy, its spread, the share of stalls and the cost, instead of the runs themselves."),
    ):
        function = option(function)
    return function


def take_tta(values: dict[str, Any]) -> dict[str, Any]:
    """These options out of the command's values. Raises UsageError for one of them without --tta."""
    from storagebench.errors import UsageError

    taken = {name: values.pop(name) for name in ("tta", *_FLAGS)}
    given = [f"--{name.replace('_', '-')}" for name in _FLAGS if taken[name] is not None]
    if given and not taken["tta"]:
        raise UsageError(f"{given[0]} belongs to --tta", "give --tta, or leave it out")
    return taken


def report_tta(runs: Sequence[LoadedRun], files: Sequence[Path], values: Mapping[str, Any], as_json: bool, as_csv: bool) -> None:
    """Print the entries of these runs and of published files, and write the files that were asked for. Raises UsageError."""
    import json

    from storagebench.errors import UsageError
    from storagebench.report.tta import entry_of
    from storagebench.report.ttagroups import groups_of
    from storagebench.report.ttapublished import published_text, read_published, submissions_of
    from storagebench.report.ttatext import tta_csv, tta_text

    if not runs and not files:
        raise UsageError("there are no runs to report the time to accuracy of", "give folders of `storagebench run`")
    if files and as_csv:
        raise UsageError(f"{files[0]} is no run, and has no CSV row", "report it as text or with --json, or give runs only")
    asked = _asked(values)
    entries = [entry_of(loaded, asked) for loaded in runs]
    groups = groups_of(runs, entries)
    published = [read_published(path) for path in files]
    submissions = submissions_of(published)
    _write_files(runs, values, asked)
    if as_json:
        click.echo(json.dumps({"runs": entries, "groups": groups, "published": published, "submissions": submissions}, indent=1, allow_nan=False))
    elif as_csv:
        click.echo(tta_csv(entries), nl=False)
    else:
        blocks = [tta_text(entries, groups)] if runs else []
        click.echo("\n".join([*blocks, *([published_text(published, submissions)] if files else [])]), nl=False)


def _asked(values: Mapping[str, Any]) -> Asked:
    from storagebench.model.prices import read_prices
    from storagebench.report.ttabasis import Asked

    return Asked(
        prices=None if values["prices"] is None else read_prices(values["prices"]),
        edition=values["edition"] or "",
        price_name=values["accelerator_price"] or "",
        epochs=_counts(values["epochs_to_target"]),
        training_samples=values["training_samples"],
    )


def _counts(text: str | None) -> tuple[int, ...]:
    from storagebench.errors import UsageError

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--epochs-to-target {text[:80]!r} is no list of counts from 1", "write it like 35, or 3,3,3,4 for four trainings")
    return tuple(map(int, parts))


def _write_files(runs: Sequence[LoadedRun], values: Mapping[str, Any], asked: Asked) -> None:
    from storagebench.commands.progress import say
    from storagebench.errors import UsageError
    from storagebench.records import write_whole
    from storagebench.report.ttafiles import dawnbench_files, mllog_text

    if values["dawnbench"] is None and values["mllog"] is None:
        return
    if len(runs) != 1:
        raise UsageError(f"--dawnbench and --mllog write one training, and these are {len(runs)} runs", "give one run folder")
    if values["dawnbench"] is not None:
        table, entry = dawnbench_files(runs[0], _machine_price(runs[0], asked))
        given: Path = values["dawnbench"]
        name = given.stem if given.suffix in (".tsv", ".json") else given.name
        for path, text in ((given.with_name(f"{name}.tsv"), table), (given.with_name(f"{name}.json"), entry)):
            write_whole(path, text.encode())
            say(f"wrote {path.absolute()}")
        say("note: no submission as it is: fill in author, authorEmail and codeURL; costPerHour counts for a public cloud only")
    if values["mllog"] is not None:
        write_whole(values["mllog"], mllog_text(runs[0]).encode())
        say(f"wrote {values['mllog'].absolute()}")


def _machine_price(loaded: LoadedRun, asked: Asked) -> float | None:
    """An hour of all accelerators of the run; None without prices."""
    if asked.prices is None:
        return None
    from storagebench.report.ttabasis import device_price

    training = loaded.summary.get("training")
    name = asked.price_name or (device_price(training) if training else "")
    return int(loaded.summary["world_size"]) * asked.prices.accelerator(name).value
