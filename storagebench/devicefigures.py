"""What a real device did beside the run, out of the records: information, never part of AU. Pure arithmetic; None or nothing where none was used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.ranks import Ranks
from storagebench.traces import Trace

_DEVICE = "cuda"


def device_figures(run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[Trace]) -> dict[str, Any]:
    """`copy_s`: seconds in which batches of the measured steps went onto the device, mean of the ranks; `devices`: a row for each that NVML saw."""
    used = run["config"]["run"].get("accelerator", "").partition(":")[0] == _DEVICE
    copies_s = [rank.copy_s for rank in ranks]
    return {"copy_s": sum(copies_s) / len(copies_s) if used and copies_s else None, "devices": _rows(hosts)}


def _rows(hosts: Sequence[Trace]) -> list[dict[str, Any]]:
    """Mean of utilisation and throughput, largest memory, of each device over the samples of all members that saw it."""
    order = {host: position for position, host in enumerate(dict.fromkeys(trace.header.get("host") for trace in hosts))}
    samples: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for trace in hosts:
        for record in trace.of_kind("host"):
            for device in record.get("devices", []):
                samples[order[trace.header.get("host")], device["index"]].append(device)
    names = list(order)
    return [
        {
            "host": names[host],
            "index": index,
            "name": rows[0]["name"],
            "utilisation": _mean(rows, "utilisation"),
            "memory_used_bytes": max((row["memory_used_bytes"] for row in rows if row["memory_used_bytes"] is not None), default=None),
            "pcie_rx_bytes_per_s": _mean(rows, "pcie_rx_bytes_per_s"),
            "pcie_tx_bytes_per_s": _mean(rows, "pcie_tx_bytes_per_s"),
        }
        for (host, index), rows in sorted(samples.items())
    ]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) / len(known) if known else None
