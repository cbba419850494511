"""`plan WORKLOAD --capacity`: what so many accelerators of a mix of workloads need, and what a given store can feed. Touches no storage;
predictions are marked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from storagebench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from storagebench.configfile import Configured
    from storagebench.model.capacity import Checkpoints, Demand
    from storagebench.model.measured import Measured
    from storagebench.model.system import System

_Function = TypeVar("_Function", bound=Callable[..., Any])

# name -> click.option arguments: those that make sense with --capacity only.
_OPTIONS: dict[str, dict[str, Any]] = {
    "--mix": {"multiple": True, "metavar": "NAME[@ACCELERATOR]=N", "help": "N accelerators of another workload beside it; may be repeated."},
    "--au": {"type": click.FloatRange(0, 1, min_open=True), "metavar": "AU", "help": "AU asked for of all; the workloads' thresholds otherwise."},
    "--copies": {"type": click.IntRange(1), "metavar": "N", "help": "Copies of each dataset that the storage keeps; 1 otherwise."},
    "--checkpoint-bytes": {"metavar": "SIZE", "help": "Bytes of a checkpoint, of all accelerators together."},
    "--checkpoint-every": {"metavar": "TIME", "help": "Training between two checkpoints."},
    "--checkpoint-within": {"metavar": "TIME", "help": "How long writing one may take, while training stands still."},
    "--checkpoints-kept": {"type": click.IntRange(1), "metavar": "N", "help": "Checkpoints that are kept; 1 otherwise."},
    "--store-bandwidth": {"metavar": "RATE", "help": "What the store gives, such as 40GB/s: what can it feed?"},
    "--store-iops": {"metavar": "RATE", "help": "Reads per second that the store serves, such as 500k."},
    "--store-latency": {"metavar": "TIME", "help": "Latency of a read, such as 2ms."},
    "--host-link": {"metavar": "RATE", "help": "Network of a host, such as 100Gbit/s."},
    "--accelerators-per-host": {"type": click.IntRange(1), "metavar": "N", "help": "Accelerators of a host, for the options of one host."},
    "--host-cores": {"type": click.FloatRange(0, min_open=True), "metavar": "N", "help": "Cores of a host; what a byte costs comes from --from-run."},
    "--shared-cache": {"metavar": "SIZE", "help": "A cache before the store, which all hosts share."},
    "--host-cache": {"metavar": "SIZE", "help": "A cache on each host."},
    "--cache-rule": {"type": click.Choice(["no-evict", "lru"]), "help": "A full cache keeps what it has (the default), or drops what was not used for longest."},
    "--reads-in-flight": {"type": click.IntRange(1), "metavar": "N", "help": "Reads in flight of an accelerator; as its loader does otherwise."},
    "--request-size": {"metavar": "SIZE", "help": "Longest read that the store is asked for; as the loader does otherwise."},
    "--from-run": {"type": click.Path(path_type=Path), "metavar": "RUN", "help": "A saved run: its fetch times, sample sizes, reads and CPU."},
    "--what-if": {"multiple": True, "metavar": "NAME=VALUE", "help": "Predict with this changed: cache=2TB; bandwidth, iops, latency, host-cache, host-link, accelerators."},
}  # fmt: skip


def capacity_options(function: _Function) -> _Function:
    """Adds --capacity and what belongs to it; the values arrive under their own names."""
    for flag in reversed(_OPTIONS):
        function = click.option(flag, **_OPTIONS[flag])(function)
    return click.option("--capacity", is_flag=True, help="What these accelerators need of a storage, and what a given one can feed.")(function)


def taken(values: dict[str, Any]) -> dict[str, Any]:
    """The capacity options out of a command's values, by their flags; those that were not given are left out."""
    found = {flag: values.pop(flag.removeprefix("--").replace("-", "_")) for flag in _OPTIONS}
    return {flag: value for flag, value in found.items() if value not in (None, ())}


def refuse_without_capacity(asked: Mapping[str, Any]) -> None:
    if asked:
        raise UsageError(f"{', '.join(asked)} belong to --capacity, and it is not given", "add --capacity, or leave them out")


def print_capacity(chosen: Configured, asked: Mapping[str, Any], as_json: bool) -> None:
    """The whole answer."""
    from storagebench.model.capacity import together
    from storagebench.report.capacity import capacity_text

    measured = _measured(chosen, asked)
    demands = _demands(chosen, asked, measured)
    checkpoints = _checkpoints(asked)
    found: dict[str, Any] = {
        "workloads": [{"name": demand.job.name, "figures": [figure.as_dict() for figure in demand.figures]} for demand in demands],
        "needs": [figure.as_dict() for figure in together(demands, checkpoints)],
        "feeds": None,
    }
    if any(flag in asked for flag in (*_STORE, "--what-if")):
        found["feeds"] = _feeds(demands, _system(demands, asked, measured), asked, measured, checkpoints)
    click.echo(json.dumps({"capacity": found}, indent=1) + "\n" if as_json else capacity_text(found), nl=False)


_STORE = ("--store-bandwidth", "--store-iops", "--store-latency", "--host-link", "--host-cores", "--shared-cache", "--host-cache", "--from-run")


def _demands(chosen: Configured, asked: Mapping[str, Any], measured: Measured | None) -> list[Demand]:
    """That of the argument first."""
    from storagebench.model.capacity import demand_of
    from storagebench.model.reading import reading_of
    from storagebench.units import parse_size

    request_bytes = parse_size(asked["--request-size"]) if "--request-size" in asked else None
    if request_bytes == 0:
        raise UsageError("--request-size is 0, and must be above it", "such as 1MiB, or leave it out")
    demands: list[Demand] = []
    for one, number in [(chosen, chosen.workload.run.num_accelerators), *(_mixed(text) for text in asked.get("--mix", ()))]:
        mine = measured if one is chosen else None
        origins = {
            **one.provenance,
            **({"run.num_accelerators": "--mix"} if one is not chosen else {}),
            **({"run.au": "--au"} if "--au" in asked else {}),
        }
        reading = reading_of(one.workload, asked.get("--reads-in-flight"), request_bytes, mine)
        demand = demand_of(one.workload, number, asked.get("--au", one.workload.train.au_threshold), reading, origins, mine, asked.get("--copies", 1))
        if any(other.job.name == demand.job.name for other in demands):
            raise UsageError(f"{demand.job.name} stands twice in the mix", "add up its accelerators")
        demands.append(demand)
    return demands


def _mixed(text: str) -> tuple[Configured, int]:
    """One --mix. Raises UsageError for what it does not name."""
    from storagebench.commands.options import configured
    from storagebench.configfile import known_workloads

    name, equals, number = text.rpartition("=")
    if not equals or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise UsageError(f"--mix {text!r} is not NAME=N or NAME@ACCELERATOR=N with N above 0", "such as --mix resnet50@h100=128")
    name, _, accelerator = name.partition("@")
    if name not in known_workloads() and "/" not in name and not name.endswith((".yaml", ".yml")):
        raise UsageError(f"--mix {text!r}: unknown workload {name!r}", did_you_mean(name, known_workloads()))
    one = configured(name, {"opt_accelerator": accelerator or None}, ())
    if not accelerator and not one.workload.run.accelerator:
        table = one.workload.train.compute_time_s
        raise UsageError(
            f"--mix {text!r} names no accelerator ({name} knows: {', '.join(sorted(table)) or 'none'})", f"write it as --mix {name}@NAME={number}"
        )
    return one, int(number)


def _checkpoints(asked: Mapping[str, Any]) -> Checkpoints | None:
    from storagebench.model.capacity import Checkpoints
    from storagebench.units import parse_duration, parse_size

    flags = ("--checkpoint-bytes", "--checkpoint-every", "--checkpoint-within")
    missing = [flag for flag in flags if flag not in asked]
    if len(missing) == len(flags) and "--checkpoints-kept" not in asked:
        return None
    if missing:
        raise UsageError(
            f"checkpoints need {' and '.join(missing)}, too", "give all of --checkpoint-bytes, --checkpoint-every and --checkpoint-within"
        )
    size, every, within = (asked[flag] for flag in flags)
    return Checkpoints(parse_size(size), parse_duration(every), parse_duration(within), asked.get("--checkpoints-kept", 1))


def _measured(chosen: Configured, asked: Mapping[str, Any]) -> Measured | None:
    if "--from-run" not in asked:
        return None
    from storagebench.model.measured import measured_of
    from storagebench.report.load import load_runs

    runs = load_runs([asked["--from-run"]])
    if len(runs) > 1:
        raise UsageError(f"{asked['--from-run']} holds {len(runs)} runs", "give the folder of one")
    found = measured_of(runs[0].summary, runs[0].run, runs[0].ranks.traces())
    workload = chosen.workload
    for what, ran, planned in (("workload", found.workload, workload.name), ("batch size", found.batch_size, workload.train.batch_size)):
        if ran != planned:
            raise UsageError(f"run {found.run_id} has {what} {ran}, and the plan {planned}", "give a run of the same, or plan for that of the run")
    return found


def _system(demands: list[Demand], asked: Mapping[str, Any], measured: Measured | None) -> System:
    from storagebench.model.system import Hosts, Latency, Store, System
    from storagebench.units import parse_duration, parse_per_second, parse_rate, parse_size

    def read(flag: str, parse: Callable[[str], float], default: float) -> float:
        return parse(asked[flag]) if flag in asked else default

    bandwidth = read("--store-bandwidth", parse_rate, math.inf)
    latency = Latency(read("--store-latency", parse_duration, 0.0))
    if "--store-latency" not in asked and measured is not None and measured.latency_of_reads:
        latency = Latency(sample_s=measured.latency_s(bandwidth), of_read=True)
    hosts = Hosts(
        accelerators=asked.get("--accelerators-per-host", 0),
        link_bytes_per_s=read("--host-link", parse_rate, math.inf),
        cores=asked.get("--host-cores", math.inf),
        cache_bytes=read("--host-cache", parse_size, 0.0),
    )
    if "--accelerators-per-host" not in asked and any(flag in asked for flag in ("--host-link", "--host-cores", "--host-cache")):
        raise UsageError(
            "--host-link, --host-cores and --host-cache are of one host, and how many accelerators it has is not said", "give --accelerators-per-host"
        )
    unknown = [demand.job.name for demand in demands if not demand.job.cpu_s_per_batch]
    if "--host-cores" in asked and unknown:
        raise UsageError(
            f"--host-cores is given, and what a byte costs of them is not known of {', '.join(unknown)}", "give --from-run, or leave it out"
        )
    return System(
        jobs=tuple(demand.job for demand in demands),
        store=Store(bandwidth, read("--store-iops", parse_per_second, math.inf), latency),
        hosts=hosts,
        shared_cache_bytes=read("--shared-cache", parse_size, 0.0),
        cache_rule=asked.get("--cache-rule", "no-evict"),
    )


def _feeds(
    demands: list[Demand], system: System, asked: Mapping[str, Any], measured: Measured | None, checkpoints: Checkpoints | None
) -> dict[str, Any]:
    """What was said of the store, and what it can feed."""
    from storagebench.model.feeding import feeds, parse_change

    changes = [parse_change(text) for text in asked.get("--what-if", ())]  # a bad question is refused before anything is worked out
    times = None
    if system.store.latency.of_read and measured is not None:
        times = {"run": measured.run_id, "reads": len(measured.fetch_s), "accelerators": measured.accelerators}
    return {
        "said": {flag: str(value) for flag, value in asked.items() if flag in (*_STORE, "--accelerators-per-host", "--cache-rule")},
        "fetch_times": times,
        "au_asked": {demand.job.name: demand.au for demand in demands},
        **feeds(system, [demand.au for demand in demands], changes).as_dict(),
        "share_without_checkpoints": None if checkpoints is None else checkpoints.share,
    }
