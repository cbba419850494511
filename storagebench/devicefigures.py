"""What a real device did beside the run, out of the records: information, never part of AU. Pure arithmetic; None or nothing where none was used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.hostfiles import DeviceTotals, HostRecords, samples_of
from storagebench.ranks import Ranks

_DEVICES = ("cuda", "train")


def device_figures(run: Mapping[str, Any], ranks: Ranks, hosts: Sequence[HostRecords]) -> dict[str, Any]:
    """`copy_s`: seconds in which batches of the measured steps went onto the device (of a training: became tensors there), mean of the ranks; `devices`: a row for each that NVML saw."""
    used = run["config"]["run"].get("accelerator", "").partition(":")[0] in _DEVICES
    copies_s = [rank.copy_s for rank in ranks]
    return {"copy_s": sum(copies_s) / len(copies_s) if used and copies_s else None, "devices": _rows(hosts)}


def _rows(hosts: Sequence[HostRecords]) -> list[dict[str, Any]]:
    """Mean of utilisation and throughput, largest memory, of each device over the samples of all members of its host that saw it."""
    of_host: dict[Any, dict[int, DeviceTotals]] = {}
    for file in hosts:
        mine = of_host.setdefault(file.header.get("host"), {})
        for index, totals in samples_of(file).devices.items():
            mine.setdefault(index, DeviceTotals(totals.name)).add(totals)
    return [
        {
            "host": host,
            "index": index,
            "name": totals.name,
            "utilisation": totals.mean("utilisation"),
            "memory_used_bytes": totals.memory_used_bytes,
            "pcie_rx_bytes_per_s": totals.mean("pcie_rx_bytes_per_s"),
            "pcie_tx_bytes_per_s": totals.mean("pcie_tx_bytes_per_s"),
        }
        for host, devices in of_host.items()
        for index, totals in sorted(devices.items())
    ]
