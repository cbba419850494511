"""Traces of very many ranks -> one summary: seconds and resident memory at three sizes, and whether both grow linearly.

Writes the run folder of a simulated run with --sync step (8 ranks a host, waits drawn from a seed), with the lines of real traces, and judges it as
`storagebench report` does, in a process of its own whose peak memory is measured. The AU in the summary is held against the simulated schedule's.
Prints medians with least and most; exit code 1 where the largest needs over 1 GiB, where time or memory for a rank more grows by over half from one
size to the next (over what the process takes before it reads a trace), or where the AU is wrong. The 10 million steps of 10,000 ranks take 3 GB of disk, which are deleted at the end.

    python benchmarks/merge_traces.py --folder /data/bench
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from storagebench.records import RUN_FILE, SCHEMA_VERSION, STEP_COLUMNS, StepRecord, config_digest, rank_trace_path, step_line, write_json
from storagebench.workload import Workload

AT_MOST_BYTES = 2**30
GROWTH = 1.5
RANKS_OF_HOST = 8
BATCH, RECORD_BYTES = 16, 114_660
COMPUTE_NS, SYNC_NS, BEGIN_NS, WALL_NS = 10_000_000, 20_000, 10**14, 1_790_000_000 * 10**9
_JUDGE = """
import json, resource, sys, time
from pathlib import Path
from storagebench.checks.judge import write_summary
used = resource.getrusage(resource.RUSAGE_SELF)
base = {"base_cpu_s": used.ru_utime + used.ru_stime, "base_rss_bytes": used.ru_maxrss * 1024}
begin = time.monotonic()
summary = write_summary(Path(sys.argv[1]))
keys = ("status", "valid", "samples", "au_uncorrected", "measured_steps", "world_size", "findings")
used = resource.getrusage(resource.RUSAGE_SELF)
figures = {"seconds": time.monotonic() - begin, "cpu_s": used.ru_utime + used.ru_stime, "rss_bytes": used.ru_maxrss * 1024}
print(json.dumps({**base, **figures, **{key: summary[key] for key in keys}}))
"""


class Schedule(NamedTuple):
    """What all ranks share: each step's begin and release in ns, and the AU of the measured steps (all but the first)."""

    begins: Any
    releases: Any
    au: float


def waits_ns(rank: int, steps: int) -> Any:
    """Three steps of ten wait, 2 ms in the mean."""
    rng = np.random.default_rng(rank)
    return np.where(rng.random(steps) < 0.3, rng.exponential(2e6, steps), 0.0).astype(np.int64)


def schedule(ranks: int, steps: int) -> Schedule:
    longest = np.zeros(steps, dtype=np.int64)
    for rank in range(ranks):
        np.maximum(longest, waits_ns(rank, steps), out=longest)
    releases = BEGIN_NS + np.cumsum(longest + COMPUTE_NS + SYNC_NS)
    begins = np.concatenate([[BEGIN_NS], releases[:-1]])
    return Schedule(begins, releases, float((steps - 1) * COMPUTE_NS / (releases[-1] - releases[0])))


def step_lines(rank: int, steps: int, shared: Schedule) -> bytes:
    waits = waits_ns(rank, steps)
    starts = shared.begins + waits
    dues = starts + COMPUTE_NS
    columns = (shared.begins.tolist(), starts.tolist(), dues.tolist(), shared.releases.tolist(), waits.tolist())
    num_bytes = BATCH * RECORD_BYTES
    return b"".join(
        step_line(
            StepRecord(
                "step" if number else "warmup", 0, number, begin, start if wait else begin - 1_000_000, start + 5_432, start, due, due + 51_234, release,
                release, 0, 0 if wait else 2, BATCH, num_bytes, num_bytes, None, 0, 0, 1, {"fetch": 0.004312345, "parse": 0.000912345}, 0.000912345,
                0.000012345, (rank * 1_000_003 + number) % 2**32, (rank * 7_919 + number) % 2**32,
            )
        )
        for number, begin, start, due, release, wait in zip(range(steps), *columns, strict=True)
    )  # fmt: skip


def rank_trace(rank: int, steps: int, shared: Schedule, run: dict[str, Any]) -> Iterator[bytes]:
    """The records in the order of a real trace."""
    host, begin, end = f"node-{rank // RANKS_OF_HOST:05d}", BEGIN_NS, int(shared.releases[-1])
    clock = {"monotonic_ns": begin - 10**9, "wall_ns": WALL_NS}
    header = {"schema_version": SCHEMA_VERSION, "run_id": run["run_id"], "rank": rank, "host": host, "pid": 1000 + rank, "boot_id": f"boot-of-{host}"}
    digests = {"config_digest": config_digest(run["config"]), "dataset_digest": run["dataset"]["digest"]}
    yield _line({"kind": "header", **header, "version": run["hosts"][0]["versions"]["storagebench"], **digests, **clock})
    yield _line({"kind": "dataset", "digest": run["dataset"]["digest"]})
    effective = {"decode": "parse", "workers": 4, "threads": 4, "prefetch_batches": 2, "io": "direct", "notes": []}
    yield _line({"kind": "opened", "open_begin_ns": begin - 9 * 10**8, "open_end_ns": begin - 8 * 10**8, "effective": effective})
    if rank % RANKS_OF_HOST == 0:
        yield _line({"kind": "cache", "epoch": 0, "cached_fraction_before": 0.0, "method": "cachestat", "metadata_cache": "warm", "seconds": 0.1})
    yield _line({"kind": "epoch_start", "epoch": 0, "start_ns": begin, "steps": steps, "samples": steps * BATCH})
    yield _line({"kind": "columns", "columns": STEP_COLUMNS})
    yield step_lines(rank, steps, shared)
    yield _line(_epoch_end(rank, steps, begin, end))
    yield _line({"kind": "footer", "steps": steps, "samples": steps * BATCH})


def _epoch_end(rank: int, steps: int, begin: int, end: int) -> dict[str, Any]:
    num_bytes = steps * BATCH * RECORD_BYTES
    seconds = (end - begin) / 1e9
    used = {"host_span_s": seconds, "host_busy_s": seconds / 2, "host_command_s": seconds / 2.1} if rank % RANKS_OF_HOST == 0 else {}
    return {
        "kind": "epoch_end", "epoch": 0, "start_ns": begin, "end_ns": end, "samples": steps * BATCH, "planned_samples": steps * BATCH,
        "dropped_samples_of_all": 0, "missing_samples_of_all": 0, "duplicate_samples_of_all": 0, "storage_bytes": num_bytes + 4096,
        "storage_method": "counted", "device_read_bytes": num_bytes + 4096, "server_device_bytes": None, "rchar_bytes": num_bytes + 9999,
        "requests": steps * BATCH, "retries": 0, "errors": 0, "rank_cpu_s": 0.123456, "rank_run_delay_s": 0.000123, **used, "worker_cpu_s": 0.654321,
    }  # fmt: skip


def host_trace(number: int, shared: Schedule) -> Iterator[bytes]:
    host = f"node-{number:05d}"
    yield _line(
        {
            "kind": "header",
            "schema_version": SCHEMA_VERSION,
            "host": host,
            "member": number,
            "boot_id": f"boot-of-{host}",
            "monotonic_ns": BEGIN_NS,
            "wall_ns": WALL_NS,
        }
    )
    for index, now in enumerate(np.linspace(BEGIN_NS, shared.releases[-1], 5).astype(np.int64).tolist()):
        counters = {"cpu_user_s": index * 0.8, "cpu_system_s": index * 0.2, "cpu_idle_s": index * 1.0, "cpu_iowait_s": 0.0, "cpu_steal_s": 0.0}
        clock = {"monotonic_ns": now, "wall_ns": WALL_NS + now - BEGIN_NS}
        yield _line({"kind": "host", **clock, "device_read_bytes": index, "rss_bytes": 10**9, **counters})
    yield _line({"kind": "end", "exit_code": 0, "failed_rank": None, "failure": None})


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _host(number: int) -> dict[str, Any]:
    facts = {"memory_bytes": 2**40, "cores": 64, "usable_cores": 64, "data_filesystem": {"type": "ext4"}}
    return {"host": f"node-{number:05d}", **facts, "versions": {"storagebench": "simulated"}}


def _members(ranks: int) -> list[dict[str, Any]]:
    counts = [min(RANKS_OF_HOST, ranks - first) for first in range(0, ranks, RANKS_OF_HOST)]
    return [
        {"member": number, "host": f"node-{number:05d}", "pid": 1000, "first_rank": number * RANKS_OF_HOST, "ranks": count, "processes": count}
        for number, count in enumerate(counts)
    ]


def run_json(ranks: int, steps: int) -> dict[str, Any]:
    samples = ranks * steps * BATCH
    sections: dict[str, Any] = {
        "dataset": {"format": "npz", "num_samples": samples, "record_length_bytes": RECORD_BYTES},
        "loader": {"name": "direct"},
        "train": {"batch_size": BATCH, "epochs": 1, "compute_time_s": {"h100": COMPUTE_NS / 1e9}},
        "run": {"accelerator": "h100", "num_accelerators": ranks, "cache": "cold", "sync": "step"},
    }
    return {
        "schema_version": SCHEMA_VERSION, "run_id": f"simulated-{ranks}", "command": ["simulated"], "command_start_ns": BEGIN_NS - 10**9,
        "created": {"monotonic_ns": BEGIN_NS - 10**9, "wall_ns": WALL_NS}, "accelerator": "h100", "config": Workload(name="simulated", **sections).model_dump(),
        "provenance": {}, "store": {"kind": "posix", "root": "/data", "options": {}}, "ranges": None, "listing": None,
        "dataset": {"digest": "sha256:0", "format": "npz", "payload": "bytes", "num_samples": samples, "num_shards": samples,
                    "record_bytes": samples * RECORD_BYTES, "stored_bytes": samples * (RECORD_BYTES + 300), "options": {}, "origin": None},
        "plan": {"world_size": ranks, "compute_time_s": COMPUTE_NS / 1e9, "prefetch_batches": 2, "planned_steps": steps, "workers_per_rank": 4},
        "launcher": "torchrun", "hosts": [_host(number) for number in range(-(-ranks // RANKS_OF_HOST))], "members": _members(ranks),
    }  # fmt: skip


def write_run(run_dir: Path, ranks: int, steps: int) -> Schedule:
    shared, run = schedule(ranks, steps), run_json(ranks, steps)
    (run_dir / "trace").mkdir(parents=True)
    write_json(run_dir / RUN_FILE, run)
    for rank in range(ranks):
        with open(rank_trace_path(run_dir, rank), "wb") as file:
            file.writelines(rank_trace(rank, steps, shared, run))
    for number in range(-(-ranks // RANKS_OF_HOST)):
        with open(run_dir / "trace" / f"host-{number:05d}.jsonl", "wb") as file:
            file.writelines(host_trace(number, shared))
    return shared


def judged(run_dir: Path, shared: Schedule, ranks: int, steps: int) -> dict[str, Any]:
    """The figures of one judging, in a process of its own. Raises AssertionError where the summary is not that of the schedule."""
    result = subprocess.run([sys.executable, "-P", "-c", _JUDGE, str(run_dir)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    errors = [finding for finding in found["findings"] if finding["severity"] == "error"]
    assert found["status"] == "complete" and not errors, (found["status"], errors)
    assert (found["world_size"], found["measured_steps"], found["samples"]) == (ranks, steps - 1, ranks * steps * BATCH), found
    assert abs(found["au_uncorrected"] / shared.au - 1) < 1e-9, (found["au_uncorrected"], shared.au)
    return found


def measure(folder: Path, ranks: int, steps: int, times: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run_dir = Path(place) / "run"
        begin = time.monotonic()
        shared = write_run(run_dir, ranks, steps)
        made_s = time.monotonic() - begin
        num_bytes = sum(path.stat().st_size for path in (run_dir / "trace").iterdir())
        rows = [judged(run_dir, shared, ranks, steps) for _ in range(times)]
    figures = {name: [row[name] for row in rows] for name in ("seconds", "cpu_s", "rss_bytes", "base_cpu_s", "base_rss_bytes")}
    seconds = figures["seconds"]
    print(
        f"{ranks:>7} {ranks * steps:>10} {num_bytes / 1e6:>9.1f} {median(seconds):>9.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        f" {median(figures['cpu_s']):>9.2f} {median(seconds) / (ranks * steps) * 1e6:>9.2f} {max(figures['rss_bytes']) / 2**20:>9.0f}"
        f"   (made in {made_s:.0f} s)",
        flush=True,
    )
    return figures


def grows_faster(sizes: Sequence[int], found: Sequence[dict[str, list[float]]], name: str) -> bool:
    """Whether a rank costs over GROWTH times as much at one size as at the size before, without what the process takes before it reads a trace."""
    of_rank = [(median(each[name]) - median(each[f"base_{name}"])) / size for size, each in zip(sizes, found, strict=True)]
    return any(later > GROWTH * earlier for earlier, later in pairwise(of_rank))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the run folders are written; an existing folder")
    parser.add_argument("--ranks", type=int, nargs=3, default=[1000, 3000, 10_000], metavar="N", help="three sizes, ascending")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each rank")
    parser.add_argument("--times", type=int, default=3, help="judge each so many times")
    parser.add_argument("--smoke", action="store_true", help="seconds: 8, 16 and 32 ranks of 50 steps, once, and no bound on time or memory")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.ranks, arguments.steps, arguments.times = [8, 16, 32], 50, 1
    print(f"{'ranks':>7} {'steps':>10} {'MB':>9} {'seconds':>9} (least to most)  {'CPU s':>9} {'us/step':>9} {'peak MiB':>9}")
    found = [measure(arguments.folder, ranks, arguments.steps, arguments.times) for ranks in arguments.ranks]
    if arguments.smoke:
        return 0
    peak = max(found[-1]["rss_bytes"])
    wrong = [f"{peak / 2**20:.0f} MiB are over {AT_MOST_BYTES / 2**20:.0f}"] if peak > AT_MOST_BYTES else []
    for name, what in (("cpu_s", "CPU time"), ("rss_bytes", "memory")):
        if grows_faster(arguments.ranks, found, name):
            wrong.append(f"{what} grows faster than the ranks")
    print("; ".join(wrong) or f"the largest took at most {peak / 2**20:.0f} MiB; time and memory grow linearly")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
