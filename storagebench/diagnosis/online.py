"""The verdict of an ordinary run, out of its summary: its limits, stage spans and what the host counted meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storagebench.diagnosis.verdict import Evidence, Verdict, needs_storage_rate, verdict_of
from storagebench.members import hosts_of

# A dataset that takes more of a host's memory does not stay in its page cache for certain.
CACHEABLE_SHARE = 0.5


def attribute(run: Mapping[str, Any], summary: Mapping[str, Any]) -> Verdict | None:
    """What stood in this run's way; None where nothing was measured or nothing was read."""
    evidence = evidence_of(run, summary)
    return None if evidence is None else verdict_of(evidence)


def wants_headroom(run: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether the storage has to be asked for more, to tell a slow storage from a loader that asks for too little."""
    evidence = evidence_of(run, summary)
    return evidence is not None and needs_storage_rate(evidence)


def evidence_of(run: Mapping[str, Any], summary: Mapping[str, Any]) -> Evidence | None:
    """The evidence in a summary (without its findings) and its `run.json`."""
    achieved, window_s, known = summary["samples_per_s"], summary["window_s"], summary["limits"]
    if not achieved or not window_s or summary["loader"] == "null":
        return None
    trains = summary["training"] is not None
    return Evidence(
        achieved=achieved,
        accelerator=known["accelerator_samples_per_s"],
        cpu=known["cpu_samples_per_s"],
        storage=None if run["config"]["run"].get("writers") else known["storage_samples_per_s"],
        workers=known["workers_samples_per_s"],
        au=summary["au_measured"] if trains else summary["au_nominal"],
        au_null=summary["au_null"],
        host_delay_share=(summary["host_delay_s"] or 0.0) / window_s,
        worker_delay_share=known["worker_delay_share"] or 0.0,
        prep_cpu_share=known["prep_cpu_share"] or 0.0,
        fetch_share=known["fetch_share"] or 0.0,
        epoch_start_share=known["epoch_start_share"] or 0.0,
        slowest_steps_share=known["slowest_steps_share"] or 0.0,
        cores=known["cores"] or 1.0,
        cores_of_others=known["cores_of_others"] or 0.0,
        trains=trains,
        setting=settings_of(run, summary),
    )


def settings_of(run: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a knob may be turned from."""
    loader = run["config"]["loader"]
    return {
        "num_workers": loader["num_workers"],
        "prefetch_batches": loader["prefetch_batches"],
        "world_size": summary["world_size"],
        "cache": summary["cache"],
        "writers": run["config"]["run"].get("writers", 0),
        "cacheable": summary["storage"] == "posix"
        and run["dataset"]["stored_bytes"] < CACHEABLE_SHARE * min(host["memory_bytes"] for host in hosts_of(run)),
    }
