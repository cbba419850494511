"""What is taken out of the ranks' traces: one trace at a time, and the same as a plain loop over all of them says."""

from __future__ import annotations

import json
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from storagebench.checks.judge import judge, read_records
from storagebench.ranks import Ranks
from storagebench.records import step_line
from storagebench.report.load import LoadedRun
from storagebench.report.timeline import overview, timeline
from storagebench.syncwaits import LeastOfSteps
from storagebench.traces import Steps, Trace

Make = Callable[..., LoadedRun]
Write = Callable[[Path, LoadedRun], Path]


class OneAtATime(Sequence[Any]):
    """Copies of traces, made when they are asked for. Asserts that the one before is gone by then."""

    def __init__(self, loaded: LoadedRun) -> None:
        self._traces = list(loaded.ranks.traces())
        self._last: weakref.ref[Any] | None = None
        self.given = 0

    def __len__(self) -> int:
        return len(self._traces)

    def __getitem__(self, index: Any) -> Trace:
        assert self._last is None or self._last() is None
        trace = self._traces[index]
        steps = Steps.of(trace.steps)
        self._last = weakref.ref(steps.release_ns)
        self.given += 1
        return trace._replace(steps=steps)


def test_one_trace_is_held_at_a_time(report_make: Make) -> None:
    loaded = report_make(world_size=4, steps=30)
    watched = OneAtATime(loaded)
    ranks = Ranks(loaded.run, watched)
    assert watched.given == 4 and watched._last is not None and watched._last() is None
    assert list(ranks) == list(loaded.ranks)
    assert ranks.waits_ns.tolist() == loaded.ranks.waits_ns.tolist()


def test_the_timeline_reads_the_traces_of_many_ranks_again(report_make: Make, report_write: Write, tmp_path: Path) -> None:
    """From files it is what it is from memory, and shows the same eight of twelve ranks."""
    made = report_make(world_size=12, steps=60)
    run, ranks, hosts, _ = read_records(report_write(tmp_path, made))
    in_memory, from_files = timeline(made), timeline(LoadedRun(tmp_path, run, made.summary, ranks, tuple(hosts)))
    assert in_memory is not None and from_files is not None
    assert from_files.shown_rows == in_memory.shown_rows and from_files.longest_wait == in_memory.longest_wait
    assert overview(from_files).shares.tolist() == overview(in_memory).shares.tolist()
    assert [rank.rank for rank in from_files.ranks] == list(range(12))


def test_waits_and_lengths_are_those_of_all_measured_steps(report_make: Make) -> None:
    loaded = report_make(world_size=3, steps=40, host_ms=1.0)
    waits, lengths = [], []
    for trace in loaded.ranks.traces():
        starts = {record["epoch"]: record["start_ns"] for record in trace.of_kind("epoch_start")}
        before = dict(starts)
        for step in trace.steps:
            if step.kind == "step":
                waits.append(step.start_ns - before[step.epoch])
                lengths.append(step.release_ns - before[step.epoch])
            if step.kind != "null":
                before[step.epoch] = step.release_ns
    assert loaded.ranks.waits_ns.tolist() == sorted(waits)
    assert loaded.ranks.lengths_ns.tolist() == sorted(lengths)


@pytest.mark.parametrize("seed", range(20))
def test_the_least_of_each_step(seed: int) -> None:
    """Ranks that have the same steps, fewer, more, or others; in any order of epochs."""
    rng = random.Random(seed)
    least, plain = LeastOfSteps(), dict[tuple[int, int], int]()
    for _ in range(rng.randint(1, 6)):
        keys = [(epoch, step) for epoch in range(rng.randint(1, 3)) for step in range(rng.choice([3, 3, 3, 5]))]
        keys = keys if rng.random() < 0.6 else rng.sample(keys, rng.randint(0, len(keys)))
        values = [rng.randint(-(10**12), 10**12) for _ in keys]
        for key, value in zip(keys, values, strict=True):
            plain[key] = min(plain.get(key, value), value)
        columns = [np.array(column, dtype=np.int64) for column in ([key[0] for key in keys], [key[1] for key in keys], values)]
        least.take(*columns)
    assert least.total() == sum(plain.values())
    epochs, steps = (np.array([key[index] for key in plain], dtype=np.int64) for index in (0, 1))
    assert least.of(epochs, steps).tolist() == list(plain.values())


def test_a_rank_without_a_header_is_not_there(report_make: Make, report_write: Write, tmp_path: Path) -> None:
    run_dir = report_write(tmp_path, report_make(world_size=3, steps=5))
    (run_dir / "trace" / "rank-00001.jsonl").write_bytes(b'{"kind":"hea')
    _, ranks, _, _ = read_records(run_dir)
    assert [rank.name for rank in ranks] == ["rank 0", "rank 2"]
    assert [trace.header["rank"] for trace in ranks.traces()] == [0, 2]
    assert [row["rank"] for row in judge(run_dir)["per_rank"]] == [0, 2]


def test_a_run_that_goes_on_is_drawn_as_far_as_it_was_judged(report_make: Make, report_write: Write, tmp_path: Path) -> None:
    made = report_make(world_size=2, steps=20, epochs=1, complete=False)
    run_dir = report_write(tmp_path, made)
    run, ranks, hosts, _ = read_records(run_dir)
    for path in (run_dir / "trace").glob("rank-*.jsonl"):
        last = made.ranks.trace(0).steps[-1]
        with open(path, "ab") as file:
            file.write(step_line(structs.replace(last, step=last.step + 1, epoch=last.epoch + 1)))
    found = timeline(LoadedRun(run_dir, run, made.summary, ranks, tuple(hosts)))
    assert found is not None and [len(rank.steps) for rank in found.ranks] == [20, 20]


def lines_of(run_dir: Path) -> Iterator[Any]:
    for path in (run_dir / "trace").glob("rank-*.jsonl"):
        yield from map(json.loads, path.read_text().splitlines())


def test_the_summary_is_of_all_ranks(report_make: Make, report_write: Write, tmp_path: Path) -> None:
    """Totals, as a plain reading of the files says."""
    run_dir = report_write(tmp_path, report_make(world_size=5, steps=30, corrupt=2))
    columns = next(line["columns"] for line in lines_of(run_dir) if isinstance(line, dict) and line["kind"] == "columns")
    steps = [dict(zip(columns, line, strict=True)) for line in lines_of(run_dir) if isinstance(line, list)]
    work = [step for step in steps if step["kind"] in ("warmup", "step")]
    summary = judge(run_dir)
    assert summary["samples"] == sum(step["samples"] for step in work) == 5 * 60 * 16
    assert summary["verified_samples"] == len(work) and summary["checksum_errors"] == 2
    assert [row["sample"] for row in summary["bad_samples"]] == [0, 1]
    assert sum(row["spans_s"]["fetch"] for row in summary["per_rank"]) == pytest.approx(0.004 * len(work))
