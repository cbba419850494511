"""What the rules of MLPerf Storage ask of a workload on so many accelerators and so much memory: `plan --rules`, as plain data. Touches no storage."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from storagebench.checks.mlperf import set_name
from storagebench.checks.mlperf_rules import Ground, config_values
from storagebench.checks.mlperf_size import LeastSize, least_size
from storagebench.checks.mlperf_tables import HOST_BYTES_PER_ACCELERATOR, MEMORY_FACTOR, MIN_STEPS, AcceleratorValues, ClosedValues
from storagebench.errors import UsageError


@dataclass(frozen=True)
class Hosts:
    """What runs it: accelerators over all hosts, memory of each host, and where that number is from."""

    num_accelerators: int
    num_hosts: int
    memory_bytes: int
    memory_from: str

    def __post_init__(self) -> None:
        if self.memory_bytes < 1:
            raise UsageError(f"--host-memory is {self.memory_bytes} bytes, and must be at least 1", "say what each host has, such as 512GiB")
        if self.num_accelerators % self.num_hosts:
            raise UsageError(
                f"{self.num_accelerators} accelerator{'s' if self.num_accelerators > 1 else ''} cannot be shared evenly by {self.num_hosts} hosts, and the rules want as many on each",
                "choose a --num-accelerators (of all hosts together) that is a multiple of --num-hosts",
            )


def rules_plan(word: str, config: Mapping[str, Any], ground: Ground, hosts: Hosts) -> dict[str, Any]:
    """`word` is how the user called the workload. Raises UsageError where the edition does not have it, or not on this accelerator, or where the
    accelerator must be named because batches differ."""
    edition, name = ground.edition, config["name"]
    if name not in edition.workloads:
        raise UsageError(f"workload {name} is not one of {edition.name}, which has {', '.join(edition.workloads)}", "choose one of these")
    closed = edition.workloads[name]
    accelerators = _accelerators(closed, config["run"]["accelerator"], f"{name} of {edition.name}")
    batch_size = next(iter(accelerators.values())).batch_size
    per_file = config["dataset"]["samples_per_shard"] if ground.division == "open" else closed.samples_per_file
    least = least_size(closed, batch_size, hosts.num_accelerators, hosts.num_hosts * hosts.memory_bytes, per_file)
    return {
        "rules": set_name(edition, ground.division),
        "workload": name,
        "num_accelerators": hosts.num_accelerators,
        "num_hosts": hosts.num_hosts,
        "host_memory_bytes": hosts.memory_bytes,
        "host_memory_from": hosts.memory_from,
        "memory_factor": MEMORY_FACTOR,
        "least_steps": MIN_STEPS,
        "dataset": {**asdict(least), "exact": edition.exact_size},
        "batch_size": batch_size,
        "epochs": closed.epochs,
        "au_threshold": closed.au_threshold,
        "accelerators": {key: _of_accelerator(values, closed, least, hosts.num_accelerators) for key, values in accelerators.items()},
        "format": closed.format,
        "framework": closed.framework,
        "read_threads": closed.read_threads,
        "source": closed.source,
        "memory_for_accelerators_bytes": hosts.num_accelerators // hosts.num_hosts * HOST_BYTES_PER_ACCELERATOR,
        "num_runs": edition.num_runs,
        "first_is_warm_up": edition.with_warm_up,
        "spread": edition.spread,
        "parameters": [parameter._asdict() for parameter in edition.parameters(ground.division)],
        "differs": list(_differences(config, closed, ground)),
        "generate": _generate(word, config, closed, ground, least),
    }


def _accelerators(closed: ClosedValues, asked: str, of_what: str) -> dict[str, AcceleratorValues]:
    """The one that was asked for, or all, where their batches are the same."""
    if asked:
        if asked not in closed.accelerators:
            raise UsageError(f"accelerator {asked!r} is not one of {of_what}, which has {', '.join(closed.accelerators)}", "give one of these")
        return {asked: closed.accelerators[asked]}
    if len({values.batch_size for values in closed.accelerators.values()}) > 1:
        batches = ", ".join(f"{key} {values.batch_size}" for key, values in closed.accelerators.items())
        raise UsageError(f"the batch of {of_what} depends on the accelerator ({batches}), and the size of the dataset with it", "give --accelerator")
    return dict(closed.accelerators)


def _of_accelerator(values: AcceleratorValues, closed: ClosedValues, least: LeastSize, num_accelerators: int) -> dict[str, Any]:
    samples_per_s = num_accelerators * values.batch_size / values.compute_time_s
    return {
        "compute_time_s": values.compute_time_s,
        "source": values.source,
        "demand_samples_per_s": samples_per_s,
        "demand_bytes_per_s": samples_per_s * closed.record_length_bytes,
        "shortest_run_s": least.steps_per_epoch * closed.epochs * values.compute_time_s,
    }


def _differences(config: Mapping[str, Any], closed: ClosedValues, ground: Ground) -> Iterator[str]:
    """What of the workload, as it is configured, a run of this division would fail by."""
    asked = config["run"]["accelerator"]
    compute_time_s = config["run"]["compute_time_s"]
    if compute_time_s is None and asked:
        compute_time_s = config["train"]["compute_time_s"].get(asked)
    yield from (found.message for found in config_values(config, compute_time_s if asked else None, closed))
    if ground.division == "closed":
        for name, wanted in (("format", closed.format), ("samples_per_shard", closed.samples_per_file)):
            if config["dataset"][name] != wanted:
                yield f"dataset.{name} is {config['dataset'][name]}, and closed is {wanted}"


def _generate(word: str, config: Mapping[str, Any], closed: ClosedValues, ground: Ground, least: LeastSize) -> str:
    """The command that makes the least dataset."""
    words = ["storagebench", "generate", word, "--num-samples", str(least.samples)]
    if ground.division == "closed":
        for flag, name, wanted in (("--format", "format", closed.format), ("--samples-per-shard", "samples_per_shard", closed.samples_per_file)):
            words += [flag, str(wanted)] if config["dataset"][name] != wanted else []
    return shlex.join(words) + " --data-dir URL"
