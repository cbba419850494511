"""`search` and `rerun` as several commands: member 0 leads, the others follow from run to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import RUN_ID, STORAGEBENCH, by_hand, ends, run_line, said, start, summary_of

pytestmark = pytest.mark.cluster


def search_line(dataset: str, results: Path) -> list[str]:
    """Where the null loader is the storage, any number is kept busy: the search ends at the most that it may try. One run of each number tells enough."""
    return [
        *STORAGEBENCH, "search", "quick", "--data-dir", dataset, "--results-dir", str(results), "--search-id", "s", "--loader", "null", "--compute-time", "40ms",
        "--epochs", "1", "--batch-size", "1", "--max-accelerators", "4", "--null-duration", "0", "--au-threshold", "0.05", "--json",
    ]  # fmt: skip


def test_search_over_hosts(make_hosts: Any, make_dataset: Any) -> None:
    """Over two members on two hosts: the runs of one accelerator let the second member sit by, larger ones are shared out."""
    dataset, _ = make_dataset()
    hosts = make_hosts(2)
    started = [start(hosts[k], search_line(dataset, hosts[k].folder / "results"), by_hand(k, 2, "node1")) for k in range(2)]
    assert ends(started, 150) == [0, 0], said(started)
    assert started[1].out == ""
    found = json.loads(started[0].out)
    assert found["answer"]["best"] == 4, found
    worlds = {}
    for path in (started[0].results / "s").glob("*/summary.json"):
        summary = json.loads(path.read_text())
        worlds[summary["world_size"]] = [row["host"] for row in summary["per_rank"]]
    assert worlds[1] == ["node1"] and worlds[4] == ["node1", "node1", "node2", "node2"]


def test_rerun_over_hosts(make_hosts: Any, make_dataset: Any) -> None:
    """The run of 2 + 1 accelerators once more, as many commands as it had; one command alone is refused."""
    dataset, _ = make_dataset()
    hosts = make_hosts(2)
    accelerators = (2, 1)
    first = [
        start(hosts[k], run_line(dataset, hosts[k].folder / "results", accelerators[k], "--remainder", "keep"), by_hand(k, 2, "node1"))
        for k in range(2)
    ]
    assert ends(first, 60) == [0, 0], said(first)
    again = [
        start(
            hosts[k],
            [*STORAGEBENCH, "rerun", str(hosts[k].folder / "results" / RUN_ID), "--results-dir", str(hosts[k].folder / "again"), "--run-id", RUN_ID],
            by_hand(k, 2, "node1"),
            name="again",
        )
        for k in range(2)
    ]
    assert ends(again, 60) == [0, 0], said(again)
    before, after = summary_of(hosts[0].folder / "results"), summary_of(hosts[0].folder / "again")
    assert [row["host"] for row in after["per_rank"]] == [row["host"] for row in before["per_rank"]] == ["node1", "node1", "node2"]
    assert (after["samples"], after["dataset_digest"]) == (before["samples"], before["dataset_digest"])
    alone = start(hosts[0], [*STORAGEBENCH, "rerun", str(hosts[0].folder / "results" / RUN_ID)], name="alone")
    assert ends([alone], 30) == [2]
    assert "is a run of 2 commands that environment started, and this is rerun by 1" in alone.err
