"""Whether two sets of runs may be compared at all, and what differs between them: pure, on `run.json` and summaries.

Three kinds of facts. Those that make numbers incomparable must be the same in all runs. The subject of a comparison (loader, format, storage ...) may
differ between the sides, but not among the runs of one side: such runs would be no repeats. The surroundings may differ anywhere, and are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from storagebench.errors import RunInvalidError, UsageError
from storagebench.members import hosts_of, members_of
from storagebench.ranks import Ranks
from storagebench.units import format_seconds


class SavedRun(Protocol):
    """A saved run and its summary, as `report.load` reads it."""

    @property
    def run(self) -> Mapping[str, Any]: ...
    @property
    def summary(self) -> Mapping[str, Any]: ...
    @property
    def ranks(self) -> Ranks: ...


class Difference(NamedTuple):
    """A fact and its values on both sides, as text; several values of one side are joined."""

    fact: str
    base: str
    new: str


Fact = Callable[[SavedRun], object]


def _summary(key: str) -> Fact:
    return lambda saved: saved.summary[key]


def _config(section: str, key: str) -> Fact:
    return lambda saved: saved.run["config"][section].get(key)


def _dataset(saved: SavedRun) -> object:
    """Formats differ in their digests, so what must be the same is how many records there are, of how many bytes and how compressible."""
    data = saved.run["dataset"]
    compressible = data["origin"].get("compressibility")
    text = f"{data['num_samples']} samples, {data['record_bytes']} record bytes, payload {data['payload']}"
    return text if compressible is None else f"{text}, compressibility {compressible:g}"


def _options(options: Mapping[str, Any]) -> str:
    """All but the shaped store's `clock_id`, a name that is drawn anew for each run."""
    return " ".join(f"{key}={value}" for key, value in sorted(options.items()) if key != "clock_id") or "none"


def _each_hosts_ranks(run: Mapping[str, Any]) -> str:
    """`2 + 1 + 1`."""
    counts: dict[str, int] = {}
    for member in members_of(run):
        counts[member["host"]] = counts.get(member["host"], 0) + member["ranks"]
    return " + ".join(map(str, counts.values()))


def _compute(saved: SavedRun) -> str:
    """The nominal compute time, or the model that is really trained, and where."""
    training = saved.summary.get("training")
    return format_seconds(saved.summary["compute_time_s"]) if training is None else f"a training of {training['model']} on {training['device']}"


_SAME: Final[Mapping[str, Fact]] = {
    "workload": _summary("workload"),
    "compute time": _compute,
    "world size": _summary("world_size"),
    "batch size": _summary("batch_size"),
    "decode level": _summary("decode"),
    "cache state": _summary("cache"),
    "sync": _config("run", "sync"),
    "remainder": _config("run", "remainder"),
    "dataset": _dataset,
}
_SUBJECT: Final[Mapping[str, Fact]] = {
    "loader": _summary("loader"),
    "format": _summary("format"),
    "storage": lambda saved: f"{saved.run['store']['kind']} {saved.run['store']['root']}",
    "storage options": lambda saved: _options(saved.run["store"]["options"]),
    "workers": _config("loader", "num_workers"),
    "prefetched batches": _config("loader", "prefetch_batches"),
    "shuffle": _config("loader", "shuffle"),
    "verification": _config("run", "verify"),
    "writers": lambda saved: saved.run["config"]["run"].get("writers", 0),
    "write rate": lambda saved: saved.run["config"]["run"].get("write_rate", 0),
    "accelerators per process": lambda saved: saved.run["config"]["run"].get("accelerators_per_process", 1),
}
_SURROUNDINGS: Final[Mapping[str, Fact]] = {
    "dataset digest": _summary("dataset_digest"),
    "measured steps": _summary("measured_steps"),
    "accelerator": _summary("accelerator"),
    "sample order seed": _config("run", "seed"),
    "host": lambda saved: ", ".join(str(row.get("host")) for row in hosts_of(saved.run)),
    "hosts": _summary("num_hosts"),
    "accelerators on each host": lambda saved: _each_hosts_ranks(saved.run),
    "launcher": lambda saved: saved.run.get("launcher") or "none",
}


# What a loader is given to work with: loaders are ranked only where all of it is the same.
_BUDGET: Final = ("workers", "prefetched batches", "accelerators per process", "writers", "write rate")


def ranking_facts(saved: SavedRun) -> dict[str, str]:
    """All that must be the same for two runs to stand in one ranking: what makes numbers comparable, and an equal budget."""
    facts = {**_SAME, **{name: _SUBJECT[name] for name in _BUDGET}}
    return {name: _values([saved], get)[0] for name, get in facts.items()}


def mixed_facts(runs: Sequence[SavedRun]) -> list[tuple[str, str]]:
    """(fact, its values) of what differs among runs that should be repeats of one request."""
    return _mixed(runs)


def refuse_unusable(saved: Sequence[SavedRun], metric: str) -> None:
    """Raises RunInvalidError (exit 6) naming every run that is incomplete or invalid, UsageError (exit 2) for one that has no such figure above 0."""
    bad = [f"{one.summary['run_id']} ({_why(one.summary)})" for one in saved if one.summary["status"] != "complete" or not one.summary["valid"]]
    if bad:
        raise RunInvalidError(
            f"{len(bad)} of {len(saved)} runs cannot be compared: {'; '.join(bad)}",
            "measure these again; runs of a set are never left out",
        )
    for one in saved:
        value = one.summary[metric]
        if value is None or not value > 0:
            what = "has no" if value is None else f"has {value:g} as"
            raise UsageError(f"run {one.summary['run_id']} {what} {metric}, and a ratio needs a value above 0", "compare another --metric")


def _why(summary: Mapping[str, Any]) -> str:
    if summary["status"] != "complete":
        return f"{summary['status']}: {summary['failure'] or 'it never ended'}"
    return next(f"invalid: {finding['message']}" for finding in summary["findings"] if finding["severity"] == "error")


def refuse_incomparable(base: Sequence[SavedRun], new: Sequence[SavedRun]) -> None:
    """Raises UsageError (exit 2) listing all that differs and must not, or that makes the runs of one side no repeats of one another."""
    mixed = [(side, fact, values) for side, runs in (("BASE", base), ("NEW", new)) for fact, values in _mixed(runs)]
    if mixed:
        text = "; ".join(f"{side} has {fact} {values}" for side, fact, values in mixed)
        raise UsageError(f"the runs of one side are not repeats of one request: {text}", "give runs of one request on each side")
    clashes = _differences(base, new, _SAME)
    if clashes:
        text = "; ".join(f"{clash.fact} {clash.base} against {clash.new}" for clash in clashes)
        raise UsageError(f"these runs cannot be compared: {text}", "measure NEW again with BASE's settings")


def _mixed(runs: Sequence[SavedRun]) -> list[tuple[str, str]]:
    values = {fact: _values(runs, get) for fact, get in {**_SAME, **_SUBJECT}.items()}
    return [(fact, " and ".join(found)) for fact, found in values.items() if len(found) > 1]


def shown_differences(base: Sequence[SavedRun], new: Sequence[SavedRun]) -> list[Difference]:
    """What differs and may: the subject first, then the surroundings, then versions; also where only the runs of one side differ."""
    names = dict.fromkeys(name for saved in (*base, *new) for row in hosts_of(saved.run) for name in row["versions"])
    versions = {f"version of {name}": _version(name) for name in names}
    return _differences(base, new, {**_SUBJECT, **_SURROUNDINGS, **versions})


def _version(name: str) -> Fact:
    """Of all hosts: what differs among them stands beside one another."""

    def versions(saved: SavedRun) -> object:
        found = list(dict.fromkeys(row["versions"].get(name) for row in hosts_of(saved.run)))
        return found[0] if len(found) == 1 else ", ".join("none" if version is None else version for version in found)

    return versions


def _differences(base: Sequence[SavedRun], new: Sequence[SavedRun], facts: Mapping[str, Fact]) -> list[Difference]:
    found = []
    for fact, get in facts.items():
        if len(_values((*base, *new), get)) > 1:
            found.append(Difference(fact, " and ".join(_values(base, get)), " and ".join(_values(new, get))))
    return found


def _values(runs: Sequence[SavedRun], get: Fact) -> list[str]:
    """The values that occur, each once, in the order of the runs."""
    return list(dict.fromkeys("unknown" if (value := get(saved)) is None else str(value) for saved in runs))
