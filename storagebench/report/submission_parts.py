"""The single files of a submission that saved runs can fill: figures under the engine's names, the least dataset, the dataset's making, the system."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

import yaml

from storagebench.checks.case import Case
from storagebench.checks.mlperf import set_name
from storagebench.checks.mlperf_au import edition_figures, epoch_figures
from storagebench.checks.mlperf_rules import Ground
from storagebench.checks.mlperf_runs import span_of
from storagebench.checks.mlperf_size import least_size
from storagebench.members import hosts_of
from storagebench.ranks import Rank

NOT_THE_ENGINE = "made by storagebench out of its own trace; not a file of the engine of the round"
TODO = "TODO"
_ROUND = 2  # R2 6.4: two decimal places, of what is shown as the result


def _wall(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="milliseconds")


def summary_json(case: Case, ground: Ground) -> dict[str, Any]:
    """A run's figures under the keys of the engine's `summary.json`, in the window of the edition. AU in percent, with measured compute as it prints."""
    epochs = epoch_figures(case, ground.edition.engine)
    whole = edition_figures(case, ground.edition.engine)
    memories = [host["memory_bytes"] for host in hosts_of(case.run)]
    span, closed = span_of(case), ground.edition.workloads[case.run["config"]["name"]]
    metric: dict[str, Any] = {}
    if whole is not None:
        metric = {
            "train_au_percentage": [100 * row.measured for row in epochs],
            "train_au_mean_percentage": 100 * whole.measured,
            "train_au_nominal_mean_percentage": 100 * whole.nominal,
            "train_au_meet_expectation": "success" if whole.nominal >= closed.au_threshold else "fail",
            "train_throughput_samples_per_second": [row.samples_per_s for row in epochs],
            "train_throughput_mean_samples_per_second": whole.samples_per_s,
            "train_io_mean_MB_per_second": whole.samples_per_s * closed.record_length_bytes / 2**20,
        }
    return {
        "made_by": NOT_THE_ENGINE,
        "rules": set_name(ground.edition, ground.division),
        "window": ground.edition.engine,
        "run_id": case.run["run_id"],
        "start": _wall(span.begin_ns),
        "end": _wall(span.end_ns),
        "num_accelerators": case.summary["world_size"],
        "num_hosts": case.summary["num_hosts"],
        "host_memory_bytes": memories[0] if len(memories) == 1 else memories,
        "epochs": len(epochs),
        "metric": metric,
        "valid": case.summary.get("valid"),
    }


def per_epoch_stats(case: Case, rank: Rank, engine: Literal["E2", "E3"]) -> dict[str, Any]:
    """A rank's epochs, from 1 as the engine counts them: start, end and duration of the loop, which is one block."""
    to_wall_ns = rank.header["wall_ns"] - rank.header["monotonic_ns"]  # of its own host, whose clock its stamps are of
    ends = {record["epoch"]: record["end_ns"] for record in rank.of_kind("epoch_end")}
    rows = {}
    for each in rank.epochs:
        end_ns = ends.get(each.epoch, each.end_ns)
        block = {"start": _wall(each.begin_ns + to_wall_ns), "end": _wall(end_ns + to_wall_ns), "duration": f"{(end_ns - each.begin_ns) / 1e9:.2f}"}
        rows[str(each.epoch + 1)] = {**block, "block1": block, "steps": each.work_steps, "window": engine}
    return {"made_by": NOT_THE_ENGINE, **rows}


def results_json(ground: Ground, cases: Sequence[Case], counted: Sequence[Case]) -> dict[str, Any]:
    """The result of several runs: the mean of those that count (mlperf-storage.md section 3)."""
    ids = {case.run["run_id"] for case in counted}
    rows = []
    for case in cases:
        figures = edition_figures(case, ground.edition.engine)
        rows.append({"run_id": case.run["run_id"], "counts": case.run["run_id"] in ids, **({} if figures is None else figures._asdict())})
    known = [row for row in rows if row["counts"] and "nominal" in row]
    return {
        "made_by": NOT_THE_ENGINE,
        "rules": set_name(ground.edition, ground.division),
        "runs": rows,
        "mean_samples_per_s": round(sum(row["samples_per_s"] for row in known) / len(known), _ROUND) if known else None,
        "mean_au_percentage": round(100 * sum(row["nominal"] for row in known) / len(known), _ROUND) if known else None,
    }


def datasize_json(case: Case, ground: Ground) -> dict[str, Any]:
    """The least dataset for the accelerators and the memory of a run, with what it was worked out from; what was read stands beside it."""
    config, dataset = case.run["config"], case.run["dataset"]
    closed = ground.edition.workloads[config["name"]]
    values = closed.accelerators[config["run"]["accelerator"]]
    per_file = None if ground.division == "closed" else max(1, round(dataset["num_samples"] / dataset["num_shards"]))
    memory_bytes = sum(host["memory_bytes"] for host in hosts_of(case.run))
    return {
        "made_by": NOT_THE_ENGINE,
        "model": config["name"],
        "accelerator_type": config["run"]["accelerator"],
        "num_accelerators": case.summary["world_size"],
        "memory_of_all_hosts_bytes": memory_bytes,
        "least": asdict(least_size(closed, values.batch_size, case.summary["world_size"], memory_bytes, per_file)),
        "exact": ground.edition.exact_size,
        "read": {"num_files": dataset["num_shards"], "num_samples": dataset["num_samples"], "record_bytes": dataset["record_bytes"]},
    }


def dataset_json(case: Case) -> dict[str, Any]:
    """What is known of how the dataset was made: its manifest's origin."""
    return {"made_by": NOT_THE_ENGINE, "dataset": dict(case.run["dataset"]), "asked": dict(case.run["config"]["dataset"])}


def system_text(system: str, org: str, ground: Ground, cases: Sequence[Case], suffix: Literal["yaml", "json"] | str) -> str:
    """The system's description as a skeleton: the hosts as the runs saw them, `TODO` where only its owner knows (R2 11.4.1)."""
    description = {
        "System": {
            "name": system,
            "submitter": org,
            "benchmark": set_name(ground.edition, ground.division),
            "type": f"{TODO}: local-storage, hyper-converged, shared-file, shared-block, shared-object or cloud-deployment",
            "required_rack_units": TODO,
        },
        "Nodes": {
            "clients": [_client(host, case.run["store"]) for host, case in _each_host(cases)],
            "storage": [{"model": TODO, "count": TODO, "media": TODO, "network": TODO, "software": TODO}],
        },
        "Networks": [{"type": TODO, "speed": TODO, "protocol": TODO}],
        "Power": [{"component": TODO, "power_supply": TODO, "nameplate_rated_watts": TODO, "design_watts": TODO}],
    }
    if suffix == "json":
        return json.dumps(description, indent=1) + "\n"
    return f"# {NOT_THE_ENGINE}\n" + yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=120)


def _each_host(cases: Sequence[Case]) -> list[tuple[Mapping[str, Any], Case]]:
    """Every host that took part in one of the runs, as the last of them found it."""
    return list({host.get("host"): (host, case) for case in cases for host in hosts_of(case.run)}.values())


def _client(host: Mapping[str, Any], store: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hostname": host.get("host"),
        "cpu": host.get("cpu", TODO),
        "cores": host.get("cores"),
        "memory_bytes": host["memory_bytes"],
        "kernel": host["versions"].get("kernel", TODO),
        "operating_system": TODO,
        "network": TODO,
        "storage_kind": store["kind"],
        "data_filesystem": dict(host.get("data_filesystem") or {}) or TODO,
        "software": {name: version for name, version in host["versions"].items() if name != "kernel"},
    }
