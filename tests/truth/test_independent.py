"""`summary.json` against a second implementation that shares no code: real runs through the command line, and random traces through the judge."""

from __future__ import annotations

import ast
import json
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from storagebench.checks.judge import write_summary
from storagebench.records import rank_trace_path
from storagebench.traces import read_trace

INDEPENDENT = Path(__file__).parents[1] / "independent"
STEPS = ("null", "warmup", "step", "idle")
COLUMNS = (
    "kind", "epoch", "step", "asked_ns", "ready_ns", "got_ns", "start_ns", "due_ns", "compute_end_ns", "release_ns", "sync_end_ns", "host_delay_ns",
    "queue_level", "samples", "record_bytes", "handover_bytes", "storage_bytes", "retries", "errors", "verified", "spans_s", "prep_cpu_s",
    "run_delay_s", "ids_hash", "checksum", "bad_samples", "copy_s",
)  # fmt: skip
MS = 1_000_000
DAY_NS = 86_400 * 10**9


def recompute(*run_dirs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-E", "-s", str(INDEPENDENT / "recompute.py"), *map(str, run_dirs)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_agrees(*run_dirs: Path) -> None:
    result = recompute(*run_dirs)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout[-4000:] + result.stderr[-2000:]
    assert result.stdout == f"{len(run_dirs)} runs: every figure agrees\n"


def test_the_script_imports_nothing_of_storagebench() -> None:
    own = {path.stem for path in INDEPENDENT.glob("*.py")}
    assert {"recompute", "rank", "tables"} <= own
    for path in INDEPENDENT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "" if node.level == 0 else "relative"] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in {*sys.stdlib_module_names, "numpy", *own}, f"{path.name} imports {name}"
                assert name.partition(".")[0] not in ("importlib", "runpy", "subprocess"), f"{path.name} imports {name}"
    code = "import sys; sys.path.insert(0, sys.argv[1]); import recompute; sys.exit(any(name.startswith('storagebench') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code, str(INDEPENDENT)], check=False).returncode == 0


# -- real runs ---------------------------------------------------------------------------------------------------------------------------------------


def arguments(dataset: str, results: Path, *more: str) -> list[str]:
    return ["run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--batch-size", "4", "--cache", "as-is",
            "--null-duration", "0.2", *more]  # fmt: skip


RUNS = {
    "direct": ("--loader", "direct", "--compute-time", "3ms", "--epochs", "3", "--cache", "cold"),
    "files": ("--loader", "files", "--num-accelerators", "2", "--compute-time", "5ms", "--remainder", "keep", "--verify", "full"),
    "null": ("--loader", "null", "--compute-time", "1ms"),
    "no compute": ("--loader", "direct", "--compute-time", "0", "--warmup-steps", "0"),
    "bounded": ("--loader", "direct", "--compute-time", "2ms", "--epochs", "9", "--max-steps", "23", "--sync", "none"),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_a_real_run_agrees(name: str, cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    path, _ = make_dataset(num_samples=65)
    result = cli(*arguments(path, tmp_path, *RUNS[name]))
    assert result.returncode == 0, result.stderr
    assert_agrees(tmp_path / "r")


def test_a_killed_run_agrees(make_dataset: Any, cli: Any, tmp_path: Path) -> None:
    path, _ = make_dataset(num_samples=65)
    command = [
        sys.executable,
        "-P",
        "-m",
        "storagebench",
        *arguments(path, tmp_path, "--loader", "direct", "--compute-time", "10ms", "--epochs", "99"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trace, end = rank_trace_path(tmp_path / "r", 0), time.monotonic() + 60
    while not (trace.exists() and sum(step.kind == "step" for step in read_trace(trace).steps) > 20) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert write_summary(tmp_path / "r")["status"] == "incomplete"
    assert_agrees(tmp_path / "r")


def test_a_wrong_figure_is_seen(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    """Each figure of a real summary, changed by a millionth or made unknown: the comparison names it."""
    path, _ = make_dataset(num_samples=65)
    assert cli(*arguments(path, tmp_path, "--loader", "direct", "--compute-time", "3ms")).returncode == 0
    file = tmp_path / "r" / "summary.json"
    summary = json.loads(file.read_text())
    figures = [name for name, value in summary.items() if isinstance(value, int | float) and not isinstance(value, bool) and name != "exit_code"]
    assert len(figures) > 35
    broken = {name: None if summary[name] == 0 else summary[name] * (1 + 1e-6) + 1e-8 for name in figures}
    file.write_text(json.dumps({**summary, **broken}))
    result = recompute(tmp_path / "r")
    assert result.returncode == 1
    named = {line.removeprefix(str(tmp_path / "r")).lstrip(".").partition(":")[0] for line in result.stdout.splitlines()}
    assert named == set(figures)


@pytest.mark.catalogue
def test_the_parts_of_the_steps_are_the_wall_time(cli: Any, make_dataset: Any, tmp_path: Path) -> None:
    """Fetch, compute, sync and host delay of all steps against the real clock. The schedule and the clock differ by how late one wake-up was, at most
    the 2 ms of a step: under 0.1 % of a window of 2.4 s."""
    path, _ = make_dataset(num_samples=2400, record_length_bytes=1000, record_length_bytes_stdev=0, samples_per_shard=20, format="webdataset")
    result = cli(*arguments(path, tmp_path, "--loader", "direct", "--compute-time", "2ms", "--epochs", "1", "--batch-size", "1",
                            "--num-accelerators", "2"), timeout=170)  # fmt: skip
    result = result if result.returncode else cli("report", str(tmp_path / "r"))
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        steps = [step for step in read_trace(rank_trace_path(tmp_path / "r", rank)).steps if step.kind != "null"]
        assert len(steps) == 1200
        total, wall = 0, steps[-1].sync_end_ns - steps[0].sync_end_ns
        for before, step in pairwise(steps):
            fetch, compute = step.start_ns - before.release_ns, step.due_ns - step.start_ns
            sync, host = step.release_ns - step.host_delay_ns - step.due_ns, step.host_delay_ns
            assert min(fetch, compute, sync, host) >= 0
            late, late_before = step.sync_end_ns - step.release_ns, before.sync_end_ns - before.release_ns
            assert 0 <= late <= 2 * MS
            assert fetch + compute + sync + host + late - late_before == step.sync_end_ns - before.sync_end_ns
            total += fetch + compute + sync + host
        assert wall > 2.3e9
        assert abs(total - wall) <= 0.001 * wall


# -- random traces -----------------------------------------------------------------------------------------------------------------------------------


class RandomRun:
    """A run folder out of a seed: schedules as the engine makes them, with everything optional there or not."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.world, self.epochs, self.warmup = rng.randint(1, 3), rng.randint(1, 3), rng.choice([0, 1, 1, 3, 12])
        self.compute = rng.choice([0, 1_000_003, 7 * MS, 50 * MS])
        self.prefetch, self.sync = rng.choice([1, 2, 4, 8]), rng.random() < 0.7
        self.steps = [rng.randint(1, 30) for _ in range(self.epochs)]
        self.sees_ready, self.sees_level = rng.random() < 0.5, rng.random() < 0.5
        self.store, self.workers = rng.choice(["posix", "posix", "s3"]), rng.choice([None, 0, 4])
        self.server, self.cut = rng.random() < 0.3, rng.random() < 0.1
        self.hosts = [f"host-{rng.randint(0, 1)}" for _ in range(self.world)]
        self.members = self.make_members()
        others = dict.fromkeys(host for host in self.hosts if host != self.hosts[0])
        self.clocks = {host: rng.randint(-5 * DAY_NS, 5 * DAY_NS) for host in others}  # how far ahead of the first host's
        self.stop = rng.randint(1, sum(self.steps)) if rng.random() < 0.25 else None
        self.begin = rng.randint(10**9, 10**15)
        self.writers = seed % 4

    def make_members(self) -> list[dict[str, Any]]:
        """Neighbouring ranks of one host are of one member, or of two."""
        rows: list[dict[str, Any]] = []
        for rank, host in enumerate(self.hosts):
            if rows and rows[-1]["host"] == host and rank % 2:
                rows[-1]["ranks"] += 1
            else:
                rows.append({"member": len(rows), "host": host, "pid": 100 + rank, "first_rank": rank, "ranks": 1})
        return rows

    def write(self, run_dir: Path) -> Path:
        (run_dir / "trace").mkdir(parents=True)
        (run_dir / "run.json").write_text(json.dumps(self.run_json(run_dir.name)))
        traces = self.rank_rows()
        for rank, rows in enumerate(traces):
            if rank == 0 or self.rng.random() > 0.05:
                self.write_rows(rank_trace_path(run_dir, rank), self.on_clock(rows), self.cut and rank == 0)
        for member in self.members:
            self.write_rows(
                run_dir / "trace" / f"host-{member['member']:05d}.jsonl", self.on_clock(self.host_rows(member["host"], member["member"])), False
            )
        stamps = [row["sync_end_ns"] for rows in traces for row in rows if "sync_end_ns" in row]
        for writer in range(self.writers):
            host = self.hosts[writer % self.world]
            self.write_rows(run_dir / "trace" / f"writer-{writer:05d}.jsonl", self.on_clock(self.writer_rows(writer, host, stamps)), False)
        write_summary(run_dir)
        return run_dir

    def on_clock(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As the host of this file stamps it."""
        ahead_ns = self.clocks.get(rows[0]["host"], 0)

        def shifted(name: str, value: Any) -> Any:
            return value + ahead_ns if name.endswith("_ns") and name != "host_delay_ns" and value is not None else value

        return [{name: shifted(name, value) for name, value in row.items()} for row in rows]

    @staticmethod
    def write_rows(path: Path, rows: list[dict[str, Any]], cut: bool) -> None:
        columns = {"kind": "columns", "columns": COLUMNS}
        values = [[row.get(name, 0) for name in COLUMNS] if row["kind"] in STEPS else row for row in [columns, *rows]]
        lines = [json.dumps(value) for value in values]
        path.write_text("".join(line + "\n" for line in lines) + ('["step",0,' if cut else ""))

    def run_json(self, run_id: str) -> dict[str, Any]:
        rng = self.rng
        settings = {"cache": rng.choice(["cold", "warm", "as-is", "direct"]), "decode": "parse", "remainder": rng.choice(["drop", "keep"]),
                    "max_steps": self.stop, "accelerator": rng.choice(["h100", "cuda", "cuda:1"]), "sync": "step" if self.sync else "none", "duration_s": None,
                    **({"writers": self.writers} if self.writers else {})}  # fmt: skip
        return {
            "schema_version": 3, "run_id": run_id, "accelerator": "x", "command_start_ns": self.begin - rng.randint(0, 10**10),
            "config": {"name": "w", "loader": {"name": rng.choice(["direct", "null"]), "num_workers": 2, "prefetch_batches": self.prefetch},
                       "train": {"batch_size": 4, "epochs": self.epochs, "au_threshold": 0.9}, "run": settings},
            "plan": {"compute_time_s": self.compute / 1e9, "world_size": self.world, "prefetch_batches": self.prefetch},
            "dataset": {"format": "npz", "digest": "d", "record_bytes": 1000, "stored_bytes": 1100, "num_samples": 7, "origin": None},
            "store": {"kind": self.store, "root": "/data"}, "members": self.members,
            "hosts": [{"host": host, "memory_bytes": 1, "usable_cores": rng.choice([1, 2, 64, None]), "versions": {"kernel": "6"}} for host in dict.fromkeys(self.hosts)],
            "listing": rng.choice([None, {"listed": 3}]),
        }  # fmt: skip

    @staticmethod
    def writer_rows(writer: int, host: str, stamps: list[int]) -> list[dict[str, Any]]:
        """Shards before, within and after these stamps, one after another."""
        rng = random.Random(writer)
        first, length = min(stamps), max(stamps) - min(stamps) + 100
        cuts = sorted(rng.randint(first - length // 4, first + length + length // 4) for _ in range(rng.choice([0, 2, 80])))
        rows: list[dict[str, Any]] = [{"kind": "header", "writer": writer, "host": host}]
        for number, (begin, end) in enumerate(zip(cuts[::2], cuts[1::2], strict=True)):
            shard = {"key": f"k-{number}", "bytes": rng.randint(1, 10**6), "samples": 3, "begin_ns": begin, "end_ns": end + 1, "cpu_s": number * 0.01}
            rows += [{"kind": "writing", "keys": [f"k-{number}"], "begin_ns": begin}, {"kind": "shard", **shard}]
        return rows

    def rank_rows(self) -> list[list[dict[str, Any]]]:
        rng, now = self.rng, [self.begin] * self.world
        traces: list[list[dict[str, Any]]] = [[{"kind": "header", "rank": rank, "host": self.hosts[rank]}] for rank in range(self.world)]
        number, schedule, stopped = 0, list(now), False
        for rank, rows in enumerate(traces):
            rows.append(
                {
                    "kind": "opened",
                    "open_begin_ns": self.begin - 9 * MS,
                    "open_end_ns": self.begin - 2 * MS,
                    "effective": {"decode": "parse", "workers": self.workers},
                }
            )
            for step in range(rng.choice([0, 1, 2, 9])):
                self.one_step(rows, "null", 0, step, now, schedule, [rank], now[rank])
        for epoch, count in enumerate(self.steps):
            now = [stamp + rng.randint(0, 5 * MS) for stamp in now]
            schedule, starts, first_row = list(now), list(now), [len(rows) for rows in traces]
            for rank, rows in enumerate(traces):
                cache = {"cached_fraction_before": rng.choice([None, 0.0, rng.random()]), "method": "cachestat"}
                if rank == self.hosts.index(self.hosts[rank]) and rng.random() < 0.8:
                    rows.append({"kind": "cache", "epoch": epoch, **cache, "server_cache": rng.choice([None, "unknown", "dropped"])})
                rows.append({"kind": "epoch_start", "epoch": epoch, "start_ns": starts[rank], "steps": count, "samples": 4 * count})
            for index in range(count):
                stopped = stopped or number == self.stop
                if stopped:
                    break
                idle = index == count - 1 and rng.random() < 0.3
                kinds = ["idle" if idle and rank else "warmup" if number < self.warmup else "step" for rank in range(self.world)]
                for rank, rows in enumerate(traces):
                    self.one_step(rows, kinds[rank], epoch, number, now, schedule, range(self.world), starts[rank], rank)
                self.release(traces, now, schedule)
                number += 1
            if stopped and rng.random() < 0.5:
                return traces
            for rank, rows in enumerate(traces):
                now[rank] += rng.randint(0, MS)
                rows.append(self.epoch_end(epoch, starts[rank], now[rank], rows[first_row[rank] :]))
            if stopped:
                break
        for rows in traces:
            if rng.random() < 0.05:
                rows.append({"kind": "error", "message": "m", "hint": "h", "exit_code": 4, "lost_peer": rng.random() < 0.5})
            elif rng.random() > 0.05:
                rows.append({"kind": "footer", "steps": number, "samples": 0})
        return traces

    def one_step(
        self, rows: list[Any], kind: str, epoch: int, number: int, now: list[int], schedule: list[int], peers: Any, begin: int, rank: int = -1
    ) -> None:
        """Fetch and compute of one rank; the null loader's steps end here, the others when all ranks have theirs (`release`)."""
        rng, rank = self.rng, peers[0] if rank < 0 else rank
        asked = now[rank]
        wait = rng.choice([0, 0, rng.randint(0, 3 * self.compute + MS)])
        got = asked + wait + rng.randint(0, 20_000)
        ready = rng.randint(min(begin, asked) - MS, asked) if not wait else asked + wait
        start = schedule[rank] if kind == "idle" else max(schedule[rank], min(ready, got))
        samples = 0 if kind == "idle" else rng.choice([4, 4, 4, 3])
        due = start + self.compute * samples // 4
        rows.append(
            {
                "kind": kind, "epoch": epoch, "step": number, "asked_ns": asked, "ready_ns": ready if self.sees_ready and kind != "idle" else None,
                "got_ns": got, "start_ns": start, "due_ns": due, "compute_end_ns": due + rng.randint(0, 90_000), "release_ns": due, "sync_end_ns": due,
                "host_delay_ns": 0, "queue_level": rng.randint(0, self.prefetch) if self.sees_level else None, "samples": samples,
                "record_bytes": samples * rng.randint(900, 1100), "handover_bytes": samples * 1000, "verified": rng.randint(0, samples),
                "errors": int(rng.random() < 0.01), "bad_samples": [[rng.randint(0, 9), "shard"]] if rng.random() < 0.02 else [],
                "spans_s": {"fetch": rng.random(), "parse": rng.random()} if rng.random() < 0.8 else {}, "ids_hash": 1, "copy_s": rng.random() / 99,
                "prep_cpu_s": rng.random() / 20, "run_delay_s": rng.random() / 9,
            }
        )  # fmt: skip
        if kind == "null":
            self.release([[rows[-1]]], now, schedule, rank)

    def release(self, traces: list[list[Any]], now: list[int], schedule: list[int], only: int | None = None) -> None:
        """Sync: the latest deadline, or each its own; and how late each rank woke, as a stall of the host where it was very late."""
        latest = max(rows[-1]["due_ns"] for rows in traces) + self.rng.randint(0, 9_000)
        for rank, rows in enumerate(traces):
            step, place = rows[-1], rank if only is None else only
            release = latest if self.sync else step["due_ns"]
            stall = self.rng.randint(5 * MS, 30 * MS) if self.rng.random() < 0.05 else 0
            step.update(release_ns=release + stall, host_delay_ns=stall, sync_end_ns=release + stall + (0 if stall else self.rng.randint(0, 80_000)))
            now[place], schedule[place] = step["sync_end_ns"] + self.rng.randint(0, 10_000), step["release_ns"]

    def epoch_end(self, epoch: int, start: int, end: int, rows: list[Any]) -> dict[str, Any]:
        rng, delivered = self.rng, sum(row.get("record_bytes", 0) for row in rows)
        stored = rng.choice([None, *[delivered + rng.randint(0, 999)] * 8])
        return {
            "kind": "epoch_end", "epoch": epoch, "start_ns": start, "end_ns": end, "samples": sum(row["samples"] for row in rows if row["kind"] != "epoch_start" and "samples" in row),
            "dropped_samples_of_all": rng.randint(0, 3), "missing_samples_of_all": rng.choice([0, 0, 2]), "duplicate_samples_of_all": 0,
            "storage_bytes": stored, "storage_method": "counted", "device_read_bytes": rng.choice([None, *[round(delivered * rng.random() * 1.5)] * 8]),
            "server_device_bytes": rng.randint(0, 10**6) if self.server and rng.random() < 0.8 else None, "requests": rng.choice([None, 5, 9]),
            "retries": rng.choice([0, 1, None]), "errors": 0, **self.retries(), **self.own_cache(epoch), "rank_cpu_s": rng.random(), "worker_cpu_s": rng.random(),
            "rank_run_delay_s": rng.choice([None, *[rng.random()] * 8]), **self.host_used(),
        }  # fmt: skip

    def retries(self) -> dict[str, Any]:
        """By kind, and bytes by endpoint where there are several; old traces have neither."""
        if self.rng.random() < 0.3:
            return {}
        kinds = {kind: self.rng.randint(1, 5) for kind in self.rng.sample(["503", "reset", "timeout"], self.rng.randint(0, 3))}
        return {
            "retries_by_kind": kinds,
            "bytes_by_endpoint": {name: self.rng.randint(1, 10**6) for name in self.rng.sample(["a", "b"], 2 * self.server)},
        }

    def own_cache(self, epoch: int) -> dict[str, Any]:
        """Most loaders have none, and old traces do not speak of it."""
        if self.rng.random() < 0.5:
            return {}
        held = self.rng.choice([None, 1000 * epoch])
        return {"local_cache_bytes_before": held, "local_cache_bytes": None if held is None else held + self.rng.choice([0, 1000])}

    def host_used(self) -> dict[str, Any]:
        """Only the first rank of a host writes it."""
        if self.rng.random() < 0.3:
            return {}
        busy = self.rng.random()
        return {"host_span_s": self.rng.random(), "host_busy_s": busy, "host_command_s": self.rng.choice([None, busy * 0.7, busy * 1.1])}

    def host_rows(self, host: str, member: int) -> list[dict[str, Any]]:
        rng, rows = self.rng, [{"kind": "header", "host": host, "member": member}]
        totals = {"cpu_user_s": 0.0, "cpu_system_s": 0.0, "cpu_steal_s": 0.0}
        device = rng.choice([None, 0])
        for index in range(rng.randint(0, 4)):
            totals = {name: value + rng.random() for name, value in totals.items()}
            device = None if device is None else device + rng.randint(0, 10**6)
            rows.append(
                {
                    "kind": "host",
                    "monotonic_ns": self.begin + index * 10**9,
                    "device_read_bytes": device,
                    "rss_bytes": rng.randint(1, 10**9),
                    **totals,
                }
            )
            if self.begin % 2 and rng.random() < 0.9:
                unknown = rng.random() < 0.2
                rates = {f"pcie_{way}_bytes_per_s": None if unknown else rng.random() * 1e9 for way in ("rx", "tx")}
                memory = None if unknown else rng.randint(1, 10**9)
                rows[-1]["devices"] = [
                    {"index": index, "name": "x", "utilisation": rng.random(), "memory_used_bytes": memory, **rates} for index in (0, 3)
                ]
        stamp = {"begin_ns": 0, "monotonic_ns": 10**9}
        if rng.random() < 0.3:
            rows += [{"kind": "ceiling", "when": when, "bytes_per_s": 1e6 * (1 + rng.random() / 9), **stamp} for when in ("before", "after")]
        elif rng.random() < 0.5:
            rows.append({"kind": "headroom", "bytes_per_s": rng.choice([None, 1e6 * rng.random()]), **stamp})
        for _ in range(rng.choice([0, 0, 1, 3]) if member else 0):
            rows.append({"kind": "clock", "wall_offset_s": rng.uniform(-9, 9), "uncertainty_s": rng.random()})
        if rng.random() < 0.9:
            rows.append({"kind": "end", "exit_code": 0, "failed_rank": None, "failure": "killed" if rng.random() < 0.1 else None})
        return rows


def test_random_traces_agree(tmp_path: Path) -> None:
    run_dirs = [RandomRun(seed).write(tmp_path / f"run-{seed}") for seed in range(240)]
    assert_agrees(*run_dirs)
    summaries = [json.loads((run_dir / "summary.json").read_text()) for run_dir in run_dirs]
    statuses = {summary["status"] for summary in summaries}
    assert statuses == {"complete", "incomplete", "failed"}
    credits = [row["credit_steps"] for summary in summaries for row in summary["per_rank"]]
    assert sum(credit > 0 for credit in credits) > 20 and any(credit % 1 for credit in credits)
    assert sum((summary["au_uncertainty"] or 0) > 0 for summary in summaries) > 20
    assert sum(summary["au_nominal"] is None for summary in summaries) > 20
    assert sum(0 < (summary["au_nominal"] or 0) < 1 for summary in summaries) > 100
    # No figure has a difference of two hosts' clocks in it: a run of seconds on hosts that are days apart.
    several = [summary for summary in summaries if summary["num_hosts"] > 1]
    assert len(several) > 50 and all(0 <= (summary["wall_s"] or 0) < 100 and (summary["harness_s"] or 0) < 100 for summary in several)
    assert all(row["duration_s"] < 100 for summary in several for row in summary["per_epoch"])
    assert sum((summary["write_bytes_per_s"] or 0) > 0 for summary in several) > 20
    for name in (
        "cached_fraction_served",
        "storage_bytes",
        "server_cache",
        "host_delay_s",
        "time_to_first_batch_s",
        "read_amplification",
        "idle_steps",
    ):
        assert sum(bool(summary[name]) for summary in summaries) > 20, name
