"""Several hosts that probe at the same time: the same cells everywhere, rates that add up, one error for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crews import everywhere

from storagebench.build import generate_together
from storagebench.commands import probe_text
from storagebench.errors import UsageError
from storagebench.probe.cells import Measured
from storagebench.probe.plan import Cell, Group
from storagebench.probe.probe import Asked
from storagebench.probecrew import ProbedTogether, added_up, probe_together
from storagebench.protocols import StoreSpec
from storagebench.storage.posix import PosixStore
from storagebench.workload import Workload

FAST = Asked(size_bytes=2**20, request_bytes=(131_072,), seconds=0.01, buffered=True)


def probed(members: list[Any], folders: list[Path], asked: Asked = FAST) -> list[Any]:
    def work(member: Any) -> Any:
        store = StoreSpec("posix", str(folders[member.member]))
        return probe_together(member, lambda: PosixStore(store), asked, lambda place: place.source)

    return everywhere(members, work)


def test_hosts_probe_the_same_cells_and_their_rates_add_up(three: list[Any], tmp_path: Path) -> None:
    folders = [tmp_path / host for host in ("a", "a", "b")]
    for folder in set(folders):
        folder.mkdir()
    found = probed(three, folders)
    assert isinstance(found[0], ProbedTogether), found
    assert found[0] == found[1] == found[2]  # whoever reads, all know and go the same way
    assert set(found[0].by_host) == {"a", "b"} and found[0].places == {"a": (4, 2**20), "b": (4, 2**20)}
    for total, a, b in zip(found[0].probed.measured, found[0].by_host["a"], found[0].by_host["b"], strict=True):
        assert total.cell == a.cell == b.cell
        assert total.bytes_per_s == pytest.approx(a.bytes_per_s + b.bytes_per_s) and total.num_bytes == a.num_bytes + b.num_bytes
    assert list((tmp_path / "a").iterdir()) == list((tmp_path / "b").iterdir()) == []  # scratch is gone
    text = probe_text.hosts_as_text("/data", found[0])
    assert "by 2 hosts at the same time" in text
    table = json.loads(probe_text.hosts_as_json("/data", found[0]))
    for ceiling, a, b in zip(table["ceilings"], table["hosts"]["a"]["ceilings"], table["hosts"]["b"]["ceilings"], strict=True):
        runs = [row["bytes_per_s"] for row in table["hosts"]["a"]["cells"] if {**row, **a} == row | a and row["threads"] == ceiling["threads"]]
        assert a["request_bytes"] == b["request_bytes"] == ceiling["request_bytes"] and runs
    assert len(table["hosts"]["a"]["cells"]) == len(table["cells"])


def test_each_host_probes_its_part_of_a_partitioned_dataset(three: list[Any], tmp_path: Path) -> None:
    folders = [tmp_path / host for host in ("a", "a", "b")]
    data = {"num_samples": 64, "record_length_bytes": 20_000, "format": "webdataset"}
    workload = Workload.model_validate({"name": "t", "dataset": data, "run": {"placement": "partitioned"}})
    everywhere(three, lambda member: generate_together(workload, PosixStore(StoreSpec("posix", str(folders[member.member]))), member))
    found = probed(three, folders, Asked(request_bytes=(4096,), seconds=0.01, direct=True))
    assert isinstance(found[0], ProbedTogether), found
    assert found[0].source == "dataset" and {host: count for host, (count, _) in found[0].places.items()} == {"a": 43, "b": 21}


def test_what_one_host_cannot_do_ends_all(three: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for error in probed(three, [tmp_path / "a", tmp_path / "a", tmp_path / "b"]):
        assert isinstance(error, UsageError) and error.message == f"host b: {tmp_path / 'b'} is not a folder"
    assert list((tmp_path / "a").iterdir()) == []


def test_sums_of_hosts() -> None:
    cell = Cell(Group("read", "random", 4096, "direct"), 4, 1)
    rows = [Measured(cell, 100.0, 10.0, 0.1, 0.3, 2.0, 1.0, 300, 1), Measured(cell, 50.0, 5.0, 0.2, 0.25, 5.0, 1.1, 100, 2)]
    assert added_up(rows) == Measured(cell, 150.0, 15.0, 0.2, 0.3, (2.0 * 300 + 5.0 * 100) / 400, 1.1, 400, 2)
