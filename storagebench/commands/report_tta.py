"""`report --tta`: time to accuracy, and what it costs, out of saved runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from storagebench.report.load import LoadedRun
    from storagebench.report.ttabasis import Asked

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PRICES = ("prices", "accelerator_price")
_FLAGS = (*_PRICES, "edition", "epochs_to_target", "reference_epochs", "training_samples", "dawnbench", "mllog")


def tta_options(function: _Function) -> _Function:
    """--tta and what belongs to it; the values arrive under these names, and go to `report_tta`."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--mllog", type=path, metavar="FILE", help="With --tta: write the one real training as log lines of MLPerf Training."),
        click.option(
            "--dawnbench", type=path, metavar="FILE", help="With --tta: write the one real training as an entry of DAWNBench, FILE.tsv with its JSON."
        ),
        click.option("--training-samples", type=click.IntRange(min=1), metavar="N", help="With --tta: samples of an epoch of the whole training."),
        click.option(
            "--reference-epochs",
            metavar="N,N,N[,N...]",
            help="With --tta: epochs of reference trainings at the same global batch; runs of several seeds are judged by MLPerf's test against them.",
        ),
        click.option("--epochs-to-target", metavar="N[,N...]", help="With --tta: epochs of trainings that you saw, instead of the published ones."),
        click.option("--accelerator-price", metavar="NAME", help="With --prices: whose price counts, where it is not that of the run's accelerator."),
        click.option(
            "--edition", metavar="NAME", help="With --tta: of which edition the target is, such as v0.7.  [default: the run's, else the last]"
        ),
        click.option(
            "--prices", type=path, metavar="FILE", help="With --tta, or of a search: prices, for the cost (docs/prices.yaml is an example)."
        ),
        click.option("--tta", is_flag=True, help="Time to accuracy, its spread, the share of stalls and the cost, instead of the runs themselves."),
    ):
        function = option(function)
    return function


def take_tta(values: dict[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """These options out of the command's values. Raises UsageError for one of them without --tta, for prices with neither --tta nor a search."""
    from storagebench.errors import UsageError
    from storagebench.report.load import holds_search

    taken = {name: values.pop(name) for name in ("tta", *_FLAGS)}
    given = [name for name in _FLAGS if taken[name] is not None]
    if given and not taken["tta"] and not (set(given) <= set(_PRICES) and holds_search(paths)):
        of_search = " or to a search, and there is none at these paths" if given[0] in _PRICES else ""
        raise UsageError(f"--{given[0].replace('_', '-')} belongs to --tta{of_search}", "give --tta, or leave it out")
    if taken["accelerator_price"] is not None and taken["prices"] is None:
        raise UsageError("--accelerator-price belongs to --prices", "give --prices FILE, or leave it out")
    return taken


def asked_of(values: Mapping[str, Any]) -> Asked:
    """What the options say, with the table of prices read. Raises UsageError."""
    from storagebench.model.prices import read_prices
    from storagebench.report.ttabasis import Asked

    return Asked(
        prices=None if values["prices"] is None else read_prices(values["prices"]),
        edition=values["edition"] or "",
        price_name=values["accelerator_price"] or "",
        epochs=_counts("--epochs-to-target", values["epochs_to_target"]),
        training_samples=values["training_samples"],
        reference=_counts("--reference-epochs", values["reference_epochs"]),
    )


class Tta(NamedTuple):
    """What `report --tta` says: an entry for each run, their groups, published trainings and their submissions."""

    entries: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    published: list[dict[str, Any]]
    submissions: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {"runs": self.entries, "groups": self.groups, "published": self.published, "submissions": self.submissions}

    def text(self) -> list[str]:
        """A block for the runs and one for the published trainings, as far as there are any."""
        from storagebench.report.ttapublished import published_text
        from storagebench.report.ttatext import tta_text

        blocks = [tta_text(self.entries, self.groups)] if self.entries else []
        return [*blocks, *([published_text(self.published, self.submissions)] if self.published else [])]


def tta_of(runs: Sequence[LoadedRun], files: Sequence[Path], asked: Asked) -> Tta:
    """Of these runs and published files. Raises UsageError, also for what is asked of runs where there are none."""
    from storagebench.report.tta import entry_of
    from storagebench.report.ttagroups import groups_of
    from storagebench.report.ttapublished import read_published, submissions_of

    entries = [entry_of(loaded, asked) for loaded in runs]
    published = [read_published(path) for path in files]
    return Tta(entries, groups_of(runs, entries, asked.reference), published, submissions_of(published))


def _counts(option: str, text: str | None) -> tuple[int, ...]:
    from storagebench.errors import UsageError

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text[:80]!r} is no list of counts from 1", "write it like 35, or 3,3,3,4 for four trainings")
    return tuple(map(int, parts))


def write_files(runs: Sequence[LoadedRun], values: Mapping[str, Any], asked: Asked) -> None:
    """Those that --dawnbench and --mllog ask for. Raises UsageError."""
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
