"""The rules of MLPerf Storage v2.0, CLOSED division, training: what can be judged of saved runs (reference/mlperf-storage.md; R2 is the submission
guidelines of v2.0, E2 the engine of that round; the values are in reference/workloads.md section 1, source S1).

Passing these is not a submission: that needs the engine and the folder layout of the round. Rules that are not judged stand in the table by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from storagebench.checks.case import Case, Found
from storagebench.checks.setrules import SetRule, no_errors, same_conditions
from storagebench.units import format_bytes

MEMORY_FACTOR = 5
MIN_STEPS = 500
NUM_RUNS = 5
SPREAD = 0.05
_MEAN_WITHIN = 0.05
_BYTE = 1.0  # lengths are whole bytes here, and 114660.07 in the rules


@dataclass(frozen=True)
class Closed:
    """The closed values of one workload. `reader` is what stands in for the engine's data loader: a loader here, or None with the reason."""

    format: str
    samples_per_file: int
    record_length_bytes: float
    record_length_bytes_stdev: float
    batch_size: int
    compute_time_s: dict[str, float]
    au_threshold: float
    shuffle: bool
    reader: str | None
    direct: bool = False
    epochs: int = 5


_TFRECORD = "tfrecord"
CLOSED = {
    "unet3d": Closed("npz", 1, 146600628, 68341808, 7, {"a100": 0.636, "h100": 0.323}, 0.90, True, "files", direct=True),
    "resnet50": Closed(_TFRECORD, 1251, 114660.07, 0, 400, {"a100": 0.435, "h100": 0.224}, 0.90, False, None),
    "cosmoflow": Closed(_TFRECORD, 1, 2828486, 71311, 1, {"a100": 0.00551, "h100": 0.00350}, 0.70, True, None),
}


def _each(check: Callable[[Case, Closed], Iterator[Found]]) -> Callable[[Sequence[Case]], Iterator[Found]]:
    """A rule over the closed values of each run's workload. A run of another workload fails it: what is not known does not pass."""

    def over_all(cases: Sequence[Case]) -> Iterator[Found]:
        for case in cases:
            name = case.run["config"]["name"]
            if name not in CLOSED:
                yield Found(f"run {case.run['run_id']} is of workload {name}, which is not one of {', '.join(CLOSED)}", "run one of these")
                continue
            for found in check(case, CLOSED[name]):
                yield Found(f"run {case.run['run_id']}: {found.message}", found.hint)

    return over_all


def workload_values(case: Case, closed: Closed) -> Iterator[Found]:
    """Everything of the workload that a closed run may not change."""
    config, accelerator = case.run["config"], case.run["config"]["run"]["accelerator"]
    if accelerator not in closed.compute_time_s:
        yield Found(f"accelerator {accelerator!r} is not one of {', '.join(closed.compute_time_s)}", "give one of these with --accelerator")
    else:
        yield from _differs("compute time", case.run["plan"]["compute_time_s"], closed.compute_time_s[accelerator], 0.0)
    train, dataset = config["train"], config["dataset"]
    yield from _differs("train.batch_size", train["batch_size"], closed.batch_size, 0)
    yield from _differs("train.epochs", train["epochs"], closed.epochs, 0)
    yield from _differs("train.au_threshold", train["au_threshold"], closed.au_threshold, 0)
    yield from _differs("loader.shuffle", config["loader"]["shuffle"], closed.shuffle, 0)
    for name in ("record_length_bytes", "record_length_bytes_stdev"):
        yield from _differs(f"dataset.{name}", dataset[name], getattr(closed, name), _BYTE)
    for name in ("max_steps", "duration_s"):
        if config["run"][name] is not None:
            yield Found(f"run.{name} is {config['run'][name]}, and a closed run takes all steps", "leave it out")


def _differs(name: str, value: float, wanted: float, within: float) -> Iterator[Found]:
    if abs(value - wanted) > within:
        yield Found(f"{name} is {value}, and closed is {wanted}", "use the shipped workload without changes")


def dataset_made(case: Case, closed: Closed) -> Iterator[Found]:
    """The dataset that was read, not the one that was asked for."""
    dataset = case.run["dataset"]
    if dataset["format"] != closed.format:
        reason = ", which storagebench does not have yet" if closed.format == _TFRECORD else ""
        yield Found(f"format is {dataset['format']}, and closed is {closed.format}{reason}", "the run is none of the closed division")
    per_file = dataset["num_samples"] / dataset["num_shards"]
    if abs(per_file - closed.samples_per_file) > 0.5:
        yield Found(f"the dataset has {per_file:g} samples a file, and closed is {closed.samples_per_file}", "generate it with the shipped workload")
    mean = dataset["record_bytes"] / dataset["num_samples"]
    if abs(mean / closed.record_length_bytes - 1) > _MEAN_WITHIN:
        yield Found(
            f"the mean record has {format_bytes(mean)}, more than {_MEAN_WITHIN:.0%} off {format_bytes(closed.record_length_bytes)}",
            "generate it with the shipped workload",
        )
    share = (dataset["origin"] or {}).get("compressibility") or 0
    if share:
        yield Found(f"{share:.0%} of the payload is zeros", "generate with --compressibility 0")


def data_loader(case: Case, closed: Closed) -> Iterator[Found]:
    """The engine reads with the framework of the workload: a torch DataLoader over whole files for unet3d, TensorFlow for the other two."""
    loader = case.summary["loader"]
    if closed.reader is None:
        yield Found(f"loader is {loader}, and closed reads {closed.format} with TensorFlow, which storagebench does not have", "run unet3d")
    elif loader != closed.reader:
        yield Found(f"loader is {loader}, and closed reads with a torch DataLoader over whole files", f"use --loader {closed.reader}")
    if case.summary["decode"] not in ("parse", "full"):
        yield Found(f"decode is {case.summary['decode']}, and the engine parses its files", "use --decode parse")


def parameters(case: Case, closed: Closed) -> Iterator[Found]:
    """What is open to choice in CLOSED, within its bounds (section 4): prefetch_size 0 to 2, O_DIRECT for unet3d only."""
    config = case.run["config"]
    workers, prefetch = config["loader"]["num_workers"], config["loader"]["prefetch_batches"]
    most = max(workers, 2)  # torch prefetches ceil(prefetch_size / workers) batches in each worker
    if prefetch > most:
        yield Found(f"loader.prefetch_batches is {prefetch}, and prefetch_size 2 allows {most} with {workers} workers", f"use at most {most}")
    if config["run"]["cache"] == "direct" and not closed.direct:
        yield Found("the run used O_DIRECT, which closed allows for unet3d only", "use --cache cold")
    if config["run"]["sync"] != "step" and case.summary["world_size"] > 1:
        yield Found(f"run.sync is {config['run']['sync']}, and the engine has a barrier in each step", "use --sync step")


def dataset_size(case: Case, closed: Closed) -> Iterator[Found]:
    """At least 5 x the memory of all hosts and 500 steps (section 2), rounded up: the tool's floors break the rule that they stand for."""
    hosts, memory, have = case.summary["num_hosts"], case.run["host"]["memory_bytes"], case.run["dataset"]["num_samples"]
    if hosts > 1:
        yield Found(f"the memory of {hosts - 1} of {hosts} hosts is not recorded, so the least size is not known", "check runs of one host")
        return
    sample_bytes = closed.samples_per_file * closed.record_length_bytes
    by_memory = math.ceil(MEMORY_FACTOR * memory / sample_bytes)
    by_steps = math.ceil(MIN_STEPS * case.summary["world_size"] * closed.batch_size / closed.samples_per_file)
    least = max(by_memory, by_steps) * closed.samples_per_file
    if have < least:
        why = f"{MEMORY_FACTOR} x {format_bytes(memory)} of memory" if by_memory >= by_steps else f"{MIN_STEPS} steps"
        yield Found(f"the dataset has {have} samples, under the {least} that {why} ask for", f"generate it with --num-samples {least}")


class EditionAu(NamedTuple):
    """AU in the window of the edition, mean over epochs and ranks: with the nominal compute time (R2 section 4), and as the engine prints it."""

    nominal: float
    measured: float


def edition_au(case: Case) -> EditionAu | None:
    """Per rank and epoch the window runs from the end of the first step's compute (its load and compute are taken out) to the end of the epoch's loop
    (section 1, E2 `compute_metrics_train`); the prefetched batches are not corrected for. None where an epoch has no second step."""
    compute_ns = case.run["plan"]["compute_time_s"] * 1e9
    rows = []
    for rank in case.ranks:
        ends = {record["epoch"]: record["end_ns"] for record in rank.of_kind("epoch_end")}
        for each in rank.epochs:
            length_ns = 0 if each.first_end_ns is None else ends.get(each.epoch, each.end_ns) - each.first_end_ns
            if each.work_steps < 2 or length_ns <= 0:
                return None
            rows.append(((each.work_steps - 1) * compute_ns / length_ns, each.later_compute_ns / length_ns))
    if not rows:
        return None
    return EditionAu(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def au_threshold(case: Case, closed: Closed) -> Iterator[Found]:
    au = edition_au(case)
    if au is None:
        yield Found("an epoch has no second step, so there is no AU in the window of v2.0", "use a larger dataset")
    elif au.nominal < closed.au_threshold:
        yield Found(
            f"AU is {au.nominal:.4f} in the window of v2.0 ({au.measured:.4f} with the measured compute), under {closed.au_threshold}",
            "use fewer accelerators",
        )


def equal_hosts(case: Case, closed: Closed) -> Iterator[Found]:
    counts = {row["host"]: row["ranks"] for row in case.summary["per_host"]}
    if len(set(counts.values())) > 1:
        yield Found(f"the hosts have {', '.join(str(count) for count in counts.values())} accelerators", "give each host as many")


def number_of_runs(cases: Sequence[Case]) -> Iterator[Found]:
    """The five test runs; the warm-up run before them is not given (section 3)."""
    if len(cases) != NUM_RUNS:
        yield Found(
            f"{len(cases)} run{'s' if len(cases) > 1 else ''} given, and a result is {NUM_RUNS}", f"give the {NUM_RUNS} test runs, all of them"
        )


def spread(cases: Sequence[Case]) -> Iterator[Found]:
    """Results replicate within 5 % (R2 6.7): best minus worst samples/s, over their mean."""
    rates = [case.summary["samples_per_s"] for case in cases]
    known = [rate for rate in rates if rate is not None]
    if len(known) < max(2, len(rates)):
        yield Found(f"{len(known)} of {len(rates)} runs have a rate, and a spread needs at least 2", f"give the {NUM_RUNS} test runs")
        return
    apart = (max(known) - min(known)) / (sum(known) / len(known))
    if apart > SPREAD:
        yield Found(f"the best and the worst run are {apart:.1%} apart, over {SPREAD:.0%}", "find what disturbs the runs, and make five again")


def seeds(cases: Sequence[Case]) -> Iterator[Found]:
    """The seed of the order changes with each run (R2 6.6), so that no cache can hold the last one's."""
    values: list[Any] = [case.run["config"]["run"]["seed"] for case in cases]
    if len(values) < 2:
        yield Found("1 run is given, and whether its seed is another than that of the others is not known", f"give the {NUM_RUNS} test runs")
    elif len(set(values)) < len(values):
        yield Found(f"the runs have seeds {', '.join(map(str, values))}, and each run needs another", "give each run its own --seed")


V2_0_CLOSED: tuple[SetRule, ...] = (
    SetRule("no_errors", "no finding says that a number is false", no_errors),
    SetRule("workload_values", "the closed values of the workload, all its steps and epochs (mlperf-storage.md section 4)", _each(workload_values)),
    SetRule("dataset_made", "the closed format, samples per file and record length (mlperf-storage.md section 4)", _each(dataset_made)),
    SetRule("data_loader", "the data loader of the engine (mlperf-storage.md section 4)", _each(data_loader)),
    SetRule("parameters", "prefetch, O_DIRECT and sync within the closed bounds (mlperf-storage.md section 4)", _each(parameters)),
    SetRule("dataset_size", "at least 5 x host memory and 500 steps, rounded up (mlperf-storage.md section 2)", _each(dataset_size)),
    SetRule("au_threshold", "AU in the window of v2.0 reaches the threshold (mlperf-storage.md section 1; R2 section 4)", _each(au_threshold)),
    SetRule("equal_hosts", "as many accelerators on each host (mlperf-storage.md section 3)", _each(equal_hosts)),
    SetRule("number_of_runs", "five test runs (mlperf-storage.md section 3; R2 6.7)", number_of_runs),
    SetRule("spread", "the runs replicate within 5 % (mlperf-storage.md section 3; R2 6.7)", spread),
    SetRule("seeds", "another seed of the order in each run (mlperf-storage.md section 3; R2 6.6)", seeds),
    SetRule("same_conditions", "nothing but the seed differs between the runs", same_conditions),
    SetRule("warm_up_run", "one run before the five, not counted (mlperf-storage.md section 3): a run does not say what ran before it", None),
    SetRule("engine", "the engine of the round, unchanged (mlperf-storage.md section 4): storagebench is not that engine", None),
    SetRule("data_seed", "data are generated with the seed of the round (R2 6.3)", None),
    SetRule("stable_storage", "data are on stable storage before the first run (mlperf-storage.md section 3)", None),
    SetRule("all_data_everywhere", "all data are visible to every host (mlperf-storage.md section 3)", None),
    SetRule("most_accelerators", "a result of one host shows the largest number of accelerators that passes (mlperf-storage.md section 3)", None),
    SetRule("no_hints_to_storage", "the storage does not know the seed of a run (mlperf-storage.md section 3)", None),
    SetRule("checkpoint", "unet3d writes a checkpoint after its last epoch (workloads.md section 1): not written by a run", None),
    SetRule("submission_layout", "folders, system description and logs as R2 wants them (mlperf-storage.md section 6)", None),
)
