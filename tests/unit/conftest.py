"""Saved runs without a bench: synthetic records, put through the real judge (fixtures named report_*). Crews over sockets (`three`)."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from storagebench.checks.judge import judge_records
from storagebench.members import alone
from storagebench.ranks import Ranks
from storagebench.records import STEP_COLUMNS, StepRecord, step_line
from storagebench.report.load import LoadedRun
from storagebench.traces import Steps, Trace
from storagebench.workload import Workload

sys.path.insert(0, str(Path(__file__).parent))

from crews import crew_of

MS = 1_000_000
START_NS = 10**12
WALL_NS = 1_790_000_000 * 10**9
RECORD_BYTES = 65_536


@dataclass(frozen=True)
class Scenario:
    """A run to make up. `stall_ms` is the mean wait of the share `stalled` of the steps; `missing` samples never came."""

    run_id: str = "run-a"
    loader: str = "direct"
    format: str = "npz"
    storage: str = "posix"
    root: str = "/data/quick"
    decode: str = "parse"
    decode_asked: str = "parse"
    cache: str = "cold"
    world_size: int = 2
    steps: int = 200
    epochs: int = 2
    batch_size: int = 16
    compute_ms: float = 20.0
    stall_ms: float = 2.0
    stalled: float = 0.3
    host_ms: float = 0.0
    missing: int = 0
    corrupt: int = 0
    served: float = 0.0
    complete: bool = True
    host: str = "node-1"
    hosts: tuple[str, ...] = ()  # of each rank, where there are several; neighbours on one host are a member
    slow_rank: int | None = None  # waits `slow_ms` more in every step
    slow_ms: float = 0.0
    notes: tuple[str, ...] = ()


def make_run(s: Scenario) -> LoadedRun:
    """The run of a scenario, judged."""
    run = _run_dict(s)
    rng = random.Random(s.run_id)
    waits = [
        [_wait_ns(s, rng) + (round(s.slow_ms * MS) if rank == s.slow_rank else 0) for rank in range(s.world_size)] for _ in range(s.steps * s.epochs)
    ]
    ranks = Ranks(run, [_rank_trace(s, rank, waits) for rank in range(s.world_size)])
    hosts = [_host_trace(s, member) for member in run["members"]]
    return LoadedRun(Path("/results") / s.run_id, run, judge_records(run, ranks, hosts), ranks, tuple(hosts))


def _wait_ns(s: Scenario, rng: random.Random) -> int:
    return round(rng.expovariate(1 / s.stall_ms) * MS) if rng.random() < s.stalled else 0


def _run_dict(s: Scenario) -> dict[str, Any]:
    num_samples = max(1, s.steps * s.batch_size * s.world_size)
    sections = {
        "dataset": {"format": s.format, "num_samples": num_samples, "record_length_bytes": RECORD_BYTES},
        "loader": {"name": s.loader},
        "train": {"batch_size": s.batch_size, "epochs": s.epochs, "compute_time_s": {"h100": s.compute_ms / 1e3}},
        "run": {"accelerator": "h100", "num_accelerators": s.world_size, "decode": s.decode_asked, "cache": s.cache},
    }
    record_bytes = num_samples * RECORD_BYTES
    return {
        "schema_version": 3,
        "run_id": s.run_id,
        "command": ["storagebench", "run", "quick", "--data-dir", s.root],
        "command_start_ns": START_NS - 2500 * MS,
        "created": {"monotonic_ns": START_NS - 2400 * MS, "wall_ns": WALL_NS},
        "accelerator": "h100",
        "config": Workload(name="quick", **sections).model_dump(),  # type: ignore[arg-type]
        "provenance": {"train.batch_size": "quick.yaml:18", "train.compute_time_s.h100": "quick.yaml:20", "run.cache": "--cache"},
        "store": {"kind": s.storage, "root": s.root, "options": {}},
        "ranges": "native" if s.storage == "s3" else None,
        "dataset": {
            "digest": "sha256:0123456789abcdef",
            "format": s.format,
            "payload": "bytes",
            "num_samples": num_samples,
            "num_shards": 64,
            "record_bytes": record_bytes,
            "stored_bytes": record_bytes + 64_000,
            "options": {},
            "origin": {"made_by": "storagebench generate", "seed": 42, "compressibility": 0.0},
        },
        "listing": {"listed": 64, "listing_s": 0.0123, "opened": 64, "open_s": 0.045},
        "plan": {"world_size": s.world_size, "compute_time_s": s.compute_ms / 1e3, "prefetch_batches": 2, "planned_steps": s.steps * s.epochs},
        "launcher": "",
        "members": _members(s),
        "hosts": [
            {
                "host": host,
                "memory_bytes": 64 * 2**30,
                "cores": 2,
                "usable_cores": 2,
                "data_filesystem": {"mount": "/data", "type": "ext4", "device": "/dev/vdb"},
                "versions": {"python": "3.11.9", "storagebench": "0.1.0"},
            }
            for host in dict.fromkeys(s.hosts or (s.host,))
        ],
    }


def _members(s: Scenario) -> list[dict[str, Any]]:
    if not s.hosts:
        return alone(s.host, 4000, s.world_size, s.world_size)
    rows: list[dict[str, Any]] = []
    for rank, host in enumerate(s.hosts):
        if rows and rows[-1]["host"] == host:
            rows[-1].update(ranks=rows[-1]["ranks"] + 1, processes=rows[-1]["ranks"] + 1)
        else:
            rows.append({"member": len(rows), "host": host, "pid": 4000 + rank, "first_rank": rank, "ranks": 1, "processes": 1})
    return rows


def _rank_trace(s: Scenario, rank: int, waits: list[list[int]]) -> Trace:
    header = {
        "kind": "header",
        "rank": rank,
        "host": s.hosts[rank] if s.hosts else s.host,
        "boot_id": "b",
        "monotonic_ns": START_NS,
        "wall_ns": WALL_NS,
    }
    effective = {"decode": s.decode, "workers": 4, "notes": list(s.notes)}
    others: list[dict[str, Any]] = [
        {"kind": "opened", "open_begin_ns": START_NS - 300 * MS, "open_end_ns": START_NS - 290 * MS, "effective": effective}
    ]
    steps = [_null_step(s, index) for index in range(20 if s.compute_ms else 0)]
    now_ns = START_NS
    for epoch in range(s.epochs):
        others.append({"kind": "cache", "epoch": epoch, "cached_fraction_before": 0.0, "method": "cachestat", "metadata_cache": "warm"})
        others.append({"kind": "epoch_start", "epoch": epoch, "start_ns": now_ns, "steps": s.steps, "samples": s.steps * s.batch_size})
        begin_ns = now_ns
        for index in range(s.steps):
            step = _step(s, epoch, epoch * s.steps + index, now_ns, waits[epoch * s.steps + index], rank)
            steps.append(step)
            now_ns = step.sync_end_ns
        others.append(_epoch_end(s, epoch, begin_ns, now_ns))
        now_ns += 150 * MS
    if s.corrupt:
        bad = tuple((index, f"shards/{index:05d}.npz") for index in range(s.corrupt))
        steps[-1] = structs.replace(steps[-1], errors=s.corrupt if rank == 0 else 0, bad_samples=bad if rank == 0 else ())
    if s.complete:
        others.append({"kind": "footer", "steps": len(steps), "samples": 0})
    return Trace(header, Steps.of(steps), tuple(others), not s.complete)


def _step(s: Scenario, epoch: int, number: int, asked_ns: int, waits: list[int], rank: int) -> StepRecord:
    compute_ns = round(s.compute_ms * MS)
    start_ns = asked_ns + waits[rank]
    due_ns = start_ns + compute_ns
    host_ns = round(s.host_ms * MS)
    release_ns = asked_ns + max(waits) + compute_ns + 20_000 + host_ns
    num_bytes = s.batch_size * RECORD_BYTES
    return StepRecord(
        kind="warmup" if number == 0 else "step",
        epoch=epoch,
        step=number,
        asked_ns=asked_ns,
        ready_ns=start_ns if waits[rank] else asked_ns - MS,
        got_ns=start_ns,
        start_ns=start_ns,
        due_ns=due_ns,
        compute_end_ns=due_ns,
        release_ns=release_ns,
        sync_end_ns=release_ns,
        host_delay_ns=host_ns,
        queue_level=1,
        samples=s.batch_size,
        record_bytes=num_bytes,
        handover_bytes=num_bytes,
        verified=1,
        spans_s={"fetch": 0.004, "parse": 0.001},
    )


def _null_step(s: Scenario, index: int) -> StepRecord:
    compute_ns = round(s.compute_ms * MS)
    begin_ns = START_NS - 2 * 10**9 + index * (compute_ns + 50_000)
    end_ns = begin_ns + compute_ns + 50_000
    stamps = (begin_ns, 0, begin_ns, begin_ns, begin_ns + compute_ns, begin_ns + compute_ns, end_ns, end_ns, 0)
    return StepRecord("null", 0, index, *stamps, None, s.batch_size, 0, 0)


def _epoch_end(s: Scenario, epoch: int, begin_ns: int, end_ns: int) -> dict[str, Any]:
    storage = s.steps * s.batch_size * RECORD_BYTES + 40_000
    return {
        "kind": "epoch_end",
        "epoch": epoch,
        "start_ns": begin_ns,
        "end_ns": end_ns,
        "samples": s.steps * s.batch_size,
        "dropped_samples_of_all": 3,
        "missing_samples_of_all": s.missing,
        "duplicate_samples_of_all": 0,
        "storage_bytes": storage,
        "storage_method": "counted",
        "device_read_bytes": round(storage * (1 - s.served)),
        "server_device_bytes": None,
        "requests": s.steps * 4,
        "retries": 0,
        "errors": 0,
        "rank_cpu_s": 0.4,
        "rank_run_delay_s": 0.001,
        "host_span_s": 16.0,
        "host_busy_s": 1.9,
        "host_command_s": 1.6,
        "worker_cpu_s": 1.1,
    }


def _host_trace(s: Scenario, member: dict[str, Any]) -> Trace:
    base = {"device_read_bytes": 0, "cpu_user_s": 0.0, "cpu_system_s": 0.0, "cpu_steal_s": 0.0, "rss_bytes": 700 * 10**6}
    samples = [{"kind": "host", "monotonic_ns": START_NS + index * 10**9, **base} for index in range(3)]
    end = [{"kind": "end", "exit_code": 0, "failed_rank": None, "failure": None}] if s.complete else []
    return Trace({"kind": "header", "host": member["host"], "member": member["member"]}, Steps.of(()), (*samples, *end), False)


def write_run(results: Path, loaded: LoadedRun) -> Path:
    """The run as a folder on disk."""
    run_dir = results / str(loaded.run["run_id"])
    (run_dir / "trace").mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps(loaded.run))
    for name, traces in (("rank", loaded.ranks.traces()), ("host", loaded.hosts)):
        for index, trace in enumerate(traces):
            rows = [trace.header, *trace.others, {"kind": "columns", "columns": STEP_COLUMNS}]
            lines = [*((json.dumps(row) + "\n").encode() for row in rows), *map(step_line, trace.steps)]
            (run_dir / "trace" / f"{name}-{index:05d}.jsonl").write_bytes(b"".join(lines))
    return run_dir


@pytest.fixture(scope="session")
def report_make() -> Callable[..., LoadedRun]:
    """Make a run of a scenario, given by its fields."""
    return lambda **fields: make_run(Scenario(**fields))


@pytest.fixture(scope="session")
def report_write() -> Callable[[Path, LoadedRun], Path]:
    """Write a made-up run as a folder."""
    return write_run


@pytest.fixture(scope="session")
def report_gallery() -> list[LoadedRun]:
    """One run of each kind: kept busy, starved, invalid, incomplete, at another decode level, without compute time."""
    steady = {"steps": 1600, "compute_ms": 20.0}
    return [
        make_run(Scenario("quick-direct", stall_ms=1.5, **steady)),
        make_run(Scenario("quick-files", loader="files", stall_ms=22.0, stalled=0.8, notes=("4 of 8 workers are used",))),
        make_run(Scenario("quick-parquet", loader="parquet", format="parquet", stall_ms=9.0, stalled=0.5, missing=7, steps=400)),
        make_run(Scenario("quick-s3-interrupted", loader="s3", storage="s3", root="s3://bucket/quick", steps=57, epochs=1, complete=False)),
        make_run(Scenario("quick-webdataset", loader="webdataset", format="webdataset", decode="full", stall_ms=5.0, stalled=0.2, host_ms=0.6)),
        make_run(Scenario("quick-raw-speed", loader="direct", compute_ms=0.0, stall_ms=6.0, stalled=1.0, decode="full", decode_asked="full")),
    ]


@pytest.fixture
def three() -> Iterator[list[Any]]:
    """Members 0 (the hub) and 1 on host a, 2 on host b."""
    with crew_of(("a", "a", "b")) as members:
        yield members
