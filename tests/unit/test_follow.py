"""Following traces while they grow: however the files come in, the state is that of reading them at once, and agrees with the summary."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from storagebench.checks.judge import judge
from storagebench.follow import FETCH_BUCKETS_S, Follower, RankState
from storagebench.records import STEP_COLUMNS, StepRecord, step_line
from storagebench.report.load import LoadedRun
from storagebench.traces import Trace

Make = Callable[..., LoadedRun]
MS = 1_000_000


def lines_in_order(trace: Trace) -> list[bytes]:
    """A trace's lines as a rank writes them: the other records between the steps of their epochs."""
    rows = [trace.header, *trace.of_kind("opened"), {"kind": "columns", "columns": STEP_COLUMNS}]
    lines = [(json.dumps(row) + "\n").encode() for row in rows]
    for start in trace.of_kind("epoch_start"):
        lines.append((json.dumps(start) + "\n").encode())
        lines += [step_line(step) for step in trace.steps if step.epoch == start["epoch"] and step.kind != "null"]
        lines += [(json.dumps(end) + "\n").encode() for end in trace.of_kind("epoch_end") if end["epoch"] == start["epoch"]]
    lines += [step_line(step) for step in trace.steps if step.kind == "null"]
    return lines + [(json.dumps(row) + "\n").encode() for row in trace.of_kind("footer")]


def idle_at_the_end(trace: Trace) -> Trace:
    """The same with the last step of each epoch idle, as --remainder keep leaves it on some ranks."""
    last = {step.epoch: step.step for step in trace.steps if step.kind == "step"}
    nothing = {"kind": "idle", "samples": 0, "record_bytes": 0, "handover_bytes": 0}
    changed = [structs.replace(step, **nothing) if step.kind == "step" and step.step == last[step.epoch] else step for step in trace.steps]
    return trace._replace(steps=type(trace.steps).of(changed))


@pytest.fixture(scope="module")
def run_of_three(report_make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of three ranks and two epochs, with warm-up, idle and null steps, waits of many lengths, late wake-ups, errors and retries."""
    loaded = report_make(world_size=3, steps=40, stall_ms=30.0, stalled=0.6, host_ms=0.5, corrupt=2)
    run_dir = tmp_path_factory.mktemp("runs") / "run-a"
    (run_dir / "trace").mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps(loaded.run))
    for rank, trace in enumerate(loaded.ranks.traces()):
        for end in trace.of_kind("epoch_end"):
            end["retries"], end["errors"] = 3 + rank, rank  # type: ignore[index]
        lines = lines_in_order(idle_at_the_end(trace) if rank == 2 else trace)
        (run_dir / "trace" / f"rank-{rank:05d}.jsonl").write_bytes(b"".join(lines))
    host = loaded.hosts[0]
    (run_dir / "trace" / "host-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (host.header, *host.others)))
    return run_dir


def state_of(state: RankState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in RankState.__slots__}


def follow(run_dir: Path, **options: Any) -> list[RankState]:
    follower = Follower(run_dir, pause=lambda: None, **options)
    follower.poll()
    return follower.ranks()


def test_the_last_state_agrees_with_the_summary(run_of_three: Path) -> None:
    summary, states = judge(run_of_three), follow(run_of_three)
    assert [state.rank for state in states] == [0, 1, 2]
    for state, row in zip(states, summary["per_rank"], strict=True):
        assert (state.host, state.steps, state.samples, state.finished) == (row["host"], row["steps"], row["samples"], row["finished"])
        seconds = {"window_s": state.window_ns, "fetch_s": state.fetch_ns, "compute_s": state.compute_ns}
        seconds |= {"sync_s": state.sync_ns, "host_delay_s": state.host_delay_ns}
        assert {name: value / 1e9 for name, value in seconds.items()} == {name: row[name] for name in seconds}
        assert state.au_uncorrected == row["au_uncorrected"]
    assert sum(state.delivered_bytes for state in states) == summary["delivered_bytes"]
    for mine, theirs in (("retries", "retries"), ("io_errors", "io_errors"), ("checksum_errors", "checksum_errors"), ("idle_steps", "idle_steps")):
        assert sum(getattr(state, mine) for state in states) == summary[theirs] > 0
    assert states[0].warmup_steps == summary["warmup_steps"] == 1


def test_the_histogram_has_every_measured_step(run_of_three: Path, report_make: Make) -> None:
    loaded = report_make(world_size=1, steps=300, stall_ms=30.0, stalled=0.6)
    state = RankState()
    for line in lines_in_order(next(loaded.ranks.traces())):
        state.take(line)
    waits = [int(wait) for wait in loaded.ranks.waits_ns]
    cumulated = [sum(state.fetch_buckets[: index + 1]) for index in range(len(state.fetch_buckets))]
    assert cumulated == [*(sum(wait <= round(bound * 1e9) for wait in waits) for bound in FETCH_BUCKETS_S), len(waits)]
    assert state.waits_ns == sum(waits) and 0 < state.fetch_buckets[0] < len(waits)
    assert max(waits) > 100 * MS and list(FETCH_BUCKETS_S) == sorted(FETCH_BUCKETS_S)
    assert sum(map(sum, (each.fetch_buckets for each in follow(run_of_three)))) == 3 * 79 - 2  # but for the first, a warm-up, and two idle ones


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 60_000), max_size=12), chunk_bytes=st.integers(1, 3000))
def test_any_pieces_give_the_same_state(run_of_three: Path, tmp_path: Path, cuts: list[int], chunk_bytes: int) -> None:
    """The file grows to each cut, in the middle of a line or not, and is polled there; a chunk may be shorter than a line."""
    whole = (run_of_three / "trace" / "rank-00002.jsonl").read_bytes()
    path = tmp_path / "trace" / "rank-00002.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    follower = Follower(tmp_path, chunk_bytes=chunk_bytes, pause=lambda: None)
    follower.poll()  # there is no file yet
    for cut in [*sorted(min(cut, len(whole)) for cut in cuts), len(whole)]:
        path.write_bytes(whole[:cut])
        follower.poll()
    [state] = follower.ranks()
    assert state_of(state) == state_of(follow(run_of_three)[2])


def test_a_cut_last_line_waits_and_a_broken_one_ends_it(run_of_three: Path, tmp_path: Path) -> None:
    lines = (run_of_three / "trace" / "rank-00000.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "trace" / "rank-00000.jsonl"
    path.parent.mkdir()
    follower = Follower(tmp_path, pause=lambda: None)
    path.write_bytes(b"".join(lines[:20]) + lines[20][:-1])
    follower.poll()
    [state] = follower.ranks()
    steps = state.steps
    assert steps > 5 and not state.damaged
    for broken in (b'["step",1]\n', b"[1\n", b"17\n", b'{"kind":"epoch_end"}\n', b'{"kind":"columns","columns":["kind"]}\n'):
        path.write_bytes(b"".join(lines[:20]) + broken + b"".join(lines[20:]))
        [state] = follow(tmp_path)
        assert (state.damaged, state.steps) == (True, steps), broken


def test_one_rank_alone_can_be_followed_and_pauses_are_made(run_of_three: Path) -> None:
    pauses: list[None] = []
    follower = Follower(run_of_three, only_rank=1, pause=lambda: pauses.append(None))
    follower.poll()
    follower.poll()
    assert [state.rank for state in follower.ranks()] == [1]
    assert len(pauses) == 1  # some 105 lines, a pause after a hundred, and nothing is read twice
    assert follow(run_of_three.parent / "no run") == []


def test_a_thousand_ranks_take_little_memory(tmp_path: Path, report_make: Make) -> None:
    trace = next(report_make(world_size=1, steps=30, epochs=1).ranks.traces())
    body = b"".join(lines_in_order(trace)[1:])
    (tmp_path / "trace").mkdir()
    for rank in range(1000):
        header = json.dumps({**trace.header, "rank": rank}).encode()
        (tmp_path / "trace" / f"rank-{rank:05d}.jsonl").write_bytes(header + b"\n" + body)
    follower = Follower(tmp_path, pause=lambda: None)
    tracemalloc.start()
    try:
        follower.poll()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(follower.ranks()) == 1000 and all(state.steps == 29 for state in follower.ranks())
    assert held < 3_000_000 and peak < held + 1_000_000


def test_an_epoch_whose_start_is_not_there_is_outside_of_the_window() -> None:
    state = RankState()
    stamps = (5 * MS, None, 6 * MS, 6 * MS, 8 * MS, 8 * MS, 8 * MS, 8 * MS, 0)
    state.take(bytes(step_line(StepRecord("step", 0, 0, *stamps, None, 4, 400, 400))))
    assert (state.steps, state.window_ns, state.samples, state.waits_ns, state.au_uncorrected) == (0, 0, 4, MS, None)


def test_a_rank_that_lost_its_peer_has_not_failed_itself() -> None:
    state = RankState()
    state.take(b'{"kind":"error","lost_peer":true}')
    assert not state.failed
    state.take(b'{"kind":"error","lost_peer":false}')
    assert state.failed
