"""Rules of MLPerf Storage over each run of a result: its workload, dataset, loader, parameters, size, cache and AU (mlperf-storage.md sections 1 to 4).

A rule is a function of a run, the closed values of its workload, and the ground it stands on: the edition and the division. CLOSED fixes all of the
workload but a few parameters of the reader; OPEN frees the framework, the format, the samples in a file and the data loader, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storagebench.adapters import LoaderInfo
from storagebench.checks.case import Case, Found
from storagebench.checks.mlperf_au import edition_figures
from storagebench.checks.mlperf_size import least_size
from storagebench.checks.mlperf_tables import ClosedValues, Division, Edition, Framework
from storagebench.errors import UsageError
from storagebench.members import hosts_of, members_of
from storagebench.registry import loader_info, loaders
from storagebench.units import format_bytes

_MEAN_WITHIN = 0.05
_BYTE = 1.0  # lengths are whole bytes here, and 114660.07 in the rules
_PREFETCH_SIZE = 2  # the most of reader.prefetch_size (mlperf-storage.md section 4)
_MODULES: Mapping[Framework, str] = {"pytorch": "torch", "tensorflow": "tensorflow"}
_READERS: Mapping[Framework, str] = {"pytorch": "a torch DataLoader", "tensorflow": "TensorFlow"}


@dataclass(frozen=True)
class Ground:
    """What a rule is judged by."""

    edition: Edition
    division: Division


RunCheck = Callable[[Case, ClosedValues, Ground], Iterator[Found]]
Check = Callable[[Sequence[Case]], Iterator[Found]]


def each(check: RunCheck, ground: Ground, counted: Callable[[Sequence[Case]], Sequence[Case]] = lambda cases: cases) -> Check:
    """A rule over all runs, or over those that `counted` leaves. A run of a workload that the edition does not have fails it: what is not known does
    not pass."""

    def over_all(cases: Sequence[Case]) -> Iterator[Found]:
        known = ground.edition.workloads
        for case in counted(cases):
            name = case.run["config"]["name"]
            if name not in known:
                yield Found(f"run {case.run['run_id']} is of workload {name}, which is not one of {', '.join(known)}", "run one of these")
                continue
            for found in check(case, known[name], ground):
                yield Found(f"run {case.run['run_id']}: {found.message}", found.hint)

    return over_all


def workload_values(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    """Everything of the workload that no division may change."""
    yield from config_values(case.run["config"], case.run["plan"]["compute_time_s"], closed)
    if case.run["config"]["run"].get("writers"):
        yield Found(f"run.writers is {case.run['config']['run']['writers']}, and the rules know no writers beside the readers", "leave --writers out")
    for name in ("max_steps", "duration_s"):
        if case.run["config"]["run"][name] is not None:
            yield Found(f"run.{name} is {case.run['config']['run'][name]}, and the rules want all steps", "leave it out")


def config_values(config: Mapping[str, Any], compute_time_s: float | None, closed: ClosedValues) -> Iterator[Found]:
    """The same of a configuration that may not have run yet: without an accelerator (`compute_time_s` None) batch and compute time are not looked at."""
    accelerator, train, dataset = config["run"]["accelerator"], config["train"], config["dataset"]
    values = closed.accelerators.get(accelerator)
    if values is None and (accelerator or compute_time_s is not None):
        yield Found(f"accelerator {accelerator!r} is not one of {', '.join(closed.accelerators)}", "give one of these with --accelerator")
    if values is not None and compute_time_s is not None:
        yield from _differs("compute time", compute_time_s, values.compute_time_s, 0.0)
    batches = {each.batch_size for each in closed.accelerators.values()} if values is None else {values.batch_size}
    if train["batch_size"] not in batches:
        yield from _differs("train.batch_size", train["batch_size"], min(batches), 0)
    yield from _differs("train.epochs", train["epochs"], closed.epochs, 0)
    yield from _differs("train.au_threshold", train["au_threshold"], closed.au_threshold, 0)
    yield from _differs("loader.shuffle", config["loader"]["shuffle"], closed.shuffle, 0)
    for name in ("record_length_bytes", "record_length_bytes_stdev"):
        yield from _differs(f"dataset.{name}", dataset[name], getattr(closed, name), _BYTE)


def _differs(name: str, value: float, wanted: float, within: float) -> Iterator[Found]:
    if abs(value - wanted) > within:
        yield Found(f"{name} is {value}, and the rules say {wanted}", "use the shipped workload, with this value")


def dataset_made(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    """The dataset that was read, not the one that was asked for. OPEN may store the same records otherwise."""
    dataset = case.run["dataset"]
    if ground.division == "closed":
        if dataset["format"] != closed.format:
            yield Found(
                f"format is {dataset['format']}, and closed is {closed.format}", f"generate it with --format {closed.format}, or judge it as open"
            )
        per_file = dataset["num_samples"] / dataset["num_shards"]
        if abs(per_file - closed.samples_per_file) > 0.5:
            yield Found(
                f"the dataset has {per_file:g} samples a file, and closed is {closed.samples_per_file}",
                f"generate it with --samples-per-shard {closed.samples_per_file}",
            )
    mean = dataset["record_bytes"] / dataset["num_samples"]
    if abs(mean / closed.record_length_bytes - 1) > _MEAN_WITHIN:
        yield Found(
            f"the mean record has {format_bytes(mean)}, more than {_MEAN_WITHIN:.0%} off {format_bytes(closed.record_length_bytes)}",
            "generate it with the shipped workload",
        )
    share = (dataset["origin"] or {}).get("compressibility") or 0
    if share:
        yield Found(f"{share:.0%} of the payload is zeros", "generate with --compressibility 0")


def data_loader(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    """CLOSED reads with the framework of the workload and nothing beside it; OPEN with any loader that reads. Both engines parse their files."""
    name = case.summary["loader"]
    if name == "null":
        yield Found("loader is null, which reads nothing", "use another --loader")
    elif ground.division == "closed" and not _is_plain(_row(name), closed.framework, closed.format):
        able = [other for other, row in loaders().items() if _is_plain(row, closed.framework, closed.format)]
        instead = f"use --loader {' or '.join(able)}" if able else f"no loader here reads {closed.format} with it: judge the run as open"
        yield Found(f"loader is {name}, and closed reads {closed.format} with {_READERS[closed.framework]}", instead)
    if case.summary["decode"] not in ("parse", "full"):
        yield Found(f"decode is {case.summary['decode']}, and the engine parses its files", "use --decode parse")


def _row(name: str) -> LoaderInfo | None:
    """The registry's row; None of a loader that this installation does not have (a saved run may be of another)."""
    try:
        return loader_info(name)
    except UsageError:
        return None


def _is_plain(row: LoaderInfo | None, framework: Framework, format_name: str) -> bool:
    """Whether a loader is the framework's own, with no library beside it, and reads the format."""
    return row is not None and row.needs == (_MODULES[framework],) and format_name in row.formats


def parameters(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    """What both divisions leave to choice, within its bounds: prefetch_size 0 to 2, O_DIRECT for unet3d only; and the engine's barrier in each step."""
    config = case.run["config"]
    workers, prefetch = config["loader"]["num_workers"], config["loader"]["prefetch_batches"]
    row = _row(case.summary["loader"])
    in_tensorflow = row is not None and _MODULES["tensorflow"] in row.needs
    # torch prefetches ceil(prefetch_size / workers) batches in each worker; tf.data prefetches prefetch_size.
    most = _PREFETCH_SIZE if in_tensorflow else max(workers, _PREFETCH_SIZE)
    if prefetch > most:
        yield Found(f"loader.prefetch_batches is {prefetch}, and prefetch_size 2 allows {most} with {workers} workers", f"use at most {most}")
    if config["run"]["cache"] == "direct" and not closed.odirect:
        yield Found("the run used O_DIRECT, which the rules allow for unet3d only", "use --cache cold")
    if config["run"]["sync"] != "step" and case.summary["world_size"] > 1:
        yield Found(f"run.sync is {config['run']['sync']}, and the engine has a barrier in each step", "use --sync step")


def dataset_size(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    """At least 5 x the memory of all hosts and 500 steps; in v3.0 exactly the files that this makes."""
    memory, have = sum(host["memory_bytes"] for host in hosts_of(case.run)), case.run["dataset"]["num_samples"]
    values = closed.accelerators.get(case.run["config"]["run"]["accelerator"])
    batch_size = case.run["config"]["train"]["batch_size"] if values is None else values.batch_size  # an unknown accelerator fails workload_values
    per_file = None if ground.division == "closed" else max(1, round(have / case.run["dataset"]["num_shards"]))
    least = least_size(closed, batch_size, case.summary["world_size"], memory, per_file)
    why = f"5 x {format_bytes(memory)} of memory" if least.decided_by == "memory" else "500 steps"
    if have < least.samples:
        yield Found(
            f"the dataset has {have} samples, under the {least.samples} that {why} ask for", f"generate it with --num-samples {least.samples}"
        )
    elif ground.edition.exact_size and have > least.samples:
        yield Found(
            f"the run read {have} samples, and {ground.edition.name} wants exactly the {least.samples} that {why} ask for",
            f"generate it with --num-samples {least.samples}",
        )


def cache_state(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    """No cache is filled on purpose (R2 6.6); in v3.0 each epoch begins with an empty one (E3 drops it)."""
    cache = case.run["config"]["run"]["cache"]
    if cache == "warm":
        yield Found("the page cache was filled before each epoch (--cache warm)", "use --cache cold")
    elif ground.edition.flushes and cache not in ("cold", "direct"):
        yield Found(f"run.cache is {cache}, and the engine of {ground.edition.name} drops the page cache before each epoch", "use --cache cold")


def au_threshold(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    figures = edition_figures(case, ground.edition.engine)
    window = f"in the window of {ground.edition.name}"
    if figures is None:
        yield Found(f"an epoch has no second step, so there is no AU {window}", "use a larger dataset")
    elif figures.nominal < closed.au_threshold:
        yield Found(
            f"AU is {figures.nominal:.4f} {window} ({figures.measured:.4f} with the measured compute), under {closed.au_threshold}",
            "use fewer accelerators",
        )


def equal_hosts(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    counts: dict[str, int] = {}
    for member in members_of(case.run):
        counts[member["host"]] = counts.get(member["host"], 0) + member["ranks"]
    if len(set(counts.values())) > 1:
        yield Found(f"the hosts have {', '.join(str(count) for count in counts.values())} accelerators", "give each host as many")


def results_apart(case: Case, closed: ClosedValues, ground: Ground) -> Iterator[Found]:
    """Results and data lie on different file systems (R3 3.4.2), so that logs are not written to the storage under test. Objects are on none."""
    if case.run["store"]["kind"] != "posix":
        return
    for host in hosts_of(case.run):
        yield from _results_apart(host)


def _results_apart(host: Mapping[str, Any]) -> Iterator[Found]:
    data, results = host.get("data_filesystem"), host.get("results_filesystem")
    if data is None or results is None:
        yield Found(f"the file system of the {'data' if data is None else 'results'} is not recorded", "run it again with this version")
    elif data["mount"] == results["mount"] or (_is_one_place(data["device"]) and data["device"] == results["device"]):
        yield Found(f"data and results lie on one file system ({data['device']} at {data['mount']})", "give a --results-dir on another")


def _is_one_place(device: str) -> bool:
    """Whether a device's name stands for one file system: a block device or an export does, `tmpfs` or `overlay` does not."""
    return device.startswith("/") or ":" in device
