"""The samples of a host: what stays of very many is exact where it counts, and bounded."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from storagebench.devicefigures import device_figures
from storagebench.hostfiles import MOST_KEPT, HostFile, Samples, read_host_files, samples_of
from storagebench.traces import Steps, Trace

S = 10**9


def sample(index: int, rng: random.Random) -> dict[str, Any]:
    rate = rng.choice([None, rng.random()])
    device = {"index": index % 2, "name": "x", "utilisation": rate, "memory_used_bytes": rng.randint(1, 10**9), "pcie_rx_bytes_per_s": rng.random(), "pcie_tx_bytes_per_s": None}  # fmt: skip
    stamp = {"monotonic_ns": index * S, "wall_ns": index * S + rng.randint(-5, 5)}
    return {"kind": "host", **stamp, "rss_bytes": rng.randint(1, 10**9), "cpu_user_s": float(index), "device_read_bytes": None, "devices": [device]}


@pytest.mark.parametrize("count", [0, 1, 2, MOST_KEPT, MOST_KEPT + 1, 5000])
def test_sums_and_extremes_are_exact_and_few_are_kept(count: int) -> None:
    rng = random.Random(count)
    records = [sample(index, rng) for index in range(count)]
    found = Samples.of(records)
    assert found.count == count and len(found.kept) <= MOST_KEPT + 1
    assert found.peak_rss_bytes == max((record["rss_bytes"] for record in records), default=None)
    assert found.growth("cpu_user_s") == (count - 1.0 if count > 1 else None) and found.growth("device_read_bytes") is None
    offsets = [record["wall_ns"] - record["monotonic_ns"] for record in records]
    assert found.offsets_ns == ((min(offsets), max(offsets)) if count else None)
    for index, totals in found.devices.items():
        mine = [device for record in records for device in record["devices"] if device["index"] == index]
        known = [device["utilisation"] for device in mine if device["utilisation"] is not None]
        assert totals.mean("utilisation") == (pytest.approx(sum(known) / len(known)) if known else None)
        assert totals.memory_used_bytes == max(device["memory_used_bytes"] for device in mine) and totals.mean("pcie_tx_bytes_per_s") is None
    if count:
        assert (found.kept[0], found.kept[-1]) == (records[0], records[-1])
        gaps = [after["monotonic_ns"] - before["monotonic_ns"] for before, after in zip(found.kept, found.kept[1:], strict=False)]
        assert all(gap == gaps[0] for gap in gaps[:-1]) and (count > MOST_KEPT or found.kept == records)


def test_a_file_holds_no_records_of_samples(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [{"kind": "header", "host": "a", "member": 0}, *(sample(index, rng) for index in range(2000)), {"kind": "end", "exit_code": 0}]
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "host-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (file,) = read_host_files(tmp_path)
    assert isinstance(file, HostFile) and [record["kind"] for record in file.others] == ["end"] and file.header["member"] == 0
    assert file.of_kind("host") == [] and samples_of(file).count == 2000


def test_members_of_a_host_see_the_same_devices() -> None:
    def file(host: str, member: int, *rates: float) -> Trace:
        device = {"index": 0, "name": "x", "memory_used_bytes": 10 * member, "pcie_rx_bytes_per_s": 1.0, "pcie_tx_bytes_per_s": 2.0}
        records = tuple({"kind": "host", "devices": [{**device, "utilisation": rate}]} for rate in rates)
        return Trace({"kind": "header", "host": host, "member": member}, Steps.of(()), records, False)

    files = [file("a", 0, 0.2, 0.4), file("b", 1, 1.0), file("a", 2, 0.9)]
    rows = device_figures({"config": {"run": {}}}, [], files)["devices"]  # type: ignore[arg-type]
    assert [(row["host"], row["utilisation"], row["memory_used_bytes"]) for row in rows] == [("a", pytest.approx(0.5), 20), ("b", 1.0, 10)]
