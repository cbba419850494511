"""A training out of its records: figures worked out by hand, findings, words. No torch."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storagebench.accelerator import Begun, Wake
from storagebench.checks.judge import judge_records
from storagebench.clock import FakeClock
from storagebench.configfile import load_workload
from storagebench.engine import Engine, EngineJob
from storagebench.errors import UsageError
from storagebench.experiments.repeat import summed_up
from storagebench.heldout import held_out_url
from storagebench.hostfiles import read_host_files
from storagebench.members import alone
from storagebench.model.agreement import agreement
from storagebench.protocols import Batch, LoaderCounters
from storagebench.ranks import Ranks
from storagebench.records import TraceWriter, host_trace_path
from storagebench.report.repeats import repeats_text
from storagebench.report.tabular import as_csv
from storagebench.report.text import one_run, run_table
from storagebench.sampling import EpochPlan
from storagebench.traces import TraceFiles, read_trace
from storagebench.training.schedule import learning_rate
from storagebench.trainname import reaches, train_name
from storagebench.workload import target_of
from storagebench.world import SingleWorld

MS = 1_000_000


class FakeLoader:
    """Every batch takes `fetch_ms`; 4 steps of 8 samples an epoch."""

    def __init__(self, clock: FakeClock, fetch_ms: int) -> None:
        self.clock, self.fetch_ms = clock, fetch_ms

    def plan(self, epoch: int) -> EpochPlan:
        return EpochPlan((8,) * 4, np.arange(32), 0)

    def start(self, epoch: int) -> None:
        self.at = 0

    def next(self) -> Batch | None:
        self.clock.advance_ns(self.fetch_ms * MS)
        ids = np.arange(self.at, self.at + 8)
        self.at += 8
        return Batch(ids, record_bytes=800, handover_bytes=800, ready_ns=self.clock.now_ns())

    def drain(self) -> None: ...

    def counters(self) -> LoaderCounters:
        return LoaderCounters()

    def effective(self) -> dict[str, Any]:
        return {"decode": "full"}

    def close(self) -> None: ...


@dataclass
class FakeTrainer:
    """A step takes 10 ms, an evaluation 5 ms; accuracies by epoch. `loss` None: not finite."""

    clock: FakeClock
    trace: TraceWriter
    accuracies: list[float]
    target: float | None = None
    loss: float | None = 0.5
    samples: int = 1000
    weights: int = 7
    compute_ns: int = 0
    handoff_ns: int = 0
    calls: list[str] = field(default_factory=list)

    def begin(self, batch: Batch, batch_size: int, previous_end_ns: int, asked_ns: int, got_ns: int) -> Begun:
        now = self.clock.now_ns()
        return Begun(now, now)

    def compute(self, begun: Begun) -> Begun:
        start = self.clock.now_ns()
        self.clock.advance_ns(10 * MS)
        return Begun(start, self.clock.now_ns())

    def wait(self, begun: Begun, release_ns: int) -> Wake:
        now = self.clock.now_ns()
        return Wake(now, now, 0, begun.due_ns)

    def end_epoch(self, epoch: int) -> bool:
        begin = self.clock.now_ns()
        self.trace.write({"kind": "trained", "epoch": epoch, "start_ns": 0, "end_ns": begin, "samples": 32, "loss": self.loss})
        self.clock.advance_ns(5 * MS)
        accuracy = self.accuracies[epoch]
        reached = self.target is not None and reaches(accuracy, self.target)
        self.trace.write({"kind": "eval", "epoch": epoch, "start_ns": begin, "end_ns": self.clock.now_ns(), "samples": self.samples,
                          "correct": round(accuracy * self.samples), "accuracy": accuracy, "reached": reached, "weights_crc32c": self.weights})  # fmt: skip
        return reached or self.loss is None

    def close(self) -> None: ...


class NoCache:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def prepare(self, epoch: int) -> dict[str, Any]:
        self.clock.advance_ns(100 * MS)  # the harness's own work, on no clock of the training
        return {}

    def device_bytes(self) -> int | None:
        return None


def trained(tmp_path: Path, accuracies: list[float], fetch_ms: int = 1, run_id: str = "r", seed: int = 1, **fields: Any) -> dict[str, Any]:
    """The summary of a training on the fake clock, through the real engine, trace and judge."""
    target, raw = fields.pop("target", None), fields.pop("raw_bytes_per_s", None)
    clock = FakeClock()
    path = tmp_path / f"{run_id}.jsonl"
    trace = TraceWriter(path)
    trace.write({"kind": "header", "run_id": run_id, "rank": 0, "host": "h", "boot_id": "b", "monotonic_ns": 0, "wall_ns": 0})
    trace.write({"kind": "model", "parameters": 1234, "device_name": None})
    trace.write({"kind": "opened", "open_begin_ns": 0, "open_end_ns": 7 * MS, "effective": {"decode": "full"}})
    trainer = FakeTrainer(clock, trace, accuracies, target, **fields)
    job = EngineJob(len(accuracies), 8, 0, 1, "step", None, None, 0, np.zeros(32, np.uint32), lambda _: "s")
    Engine(job, SingleWorld(), clock, trace, NoCache(clock), trainer, None, trainer).run(FakeLoader(clock, fetch_ms), None)
    trace.close()
    workload = load_workload("quick", [("run.accelerator", "train:resnet8@cpu", "t"), ("train.batch_size", 8, "t"), ("run.seed", seed, "t")]).workload
    members = alone("h", 1, 1, 1)
    run = {
        "schema_version": 3, "run_id": run_id, "command_start_ns": 0, "accelerator": "train:resnet8@cpu", "config": workload.model_dump(mode="json"),
        "store": {"kind": "posix", "root": "/d", "options": {}}, "plan": {"world_size": 1, "prefetch_batches": 2, "compute_time_s": 0.0, "workers_per_rank": 0},
        "dataset": {"digest": "d", "format": "png", "num_samples": 32, "record_bytes": 3200, "stored_bytes": 3200, "payload": "png", "options": {}, "origin": {}},
        "launcher": "", "hosts": [{"host": "h", "usable_cores": 2, "memory_bytes": 2**34, "versions": {}}], "members": members,
        "training": {"model": "resnet8", "device": "cpu", "metric": "top-1 accuracy", "target": target, "target_source": "test", "target_date": "2026-11-27"},
    }  # fmt: skip
    folder = tmp_path / f"{run_id}-host"
    end = host_trace_path(folder, 0)
    writer = TraceWriter(end)
    writer.write({"kind": "header", "member": 0, "host": "h", "boot_id": "b"})
    if raw is not None:
        writer.write({"kind": "headroom", "bytes_per_s": raw})
    writer.write({"kind": "end", "exit_code": 0, "failed_rank": None, "failed_host": None, "failure": None})
    writer.close()

    return judge_records(run, Ranks(run, TraceFiles([path])), read_host_files(folder))


def test_the_clock_of_a_training_is_opening_steps_and_evaluations(tmp_path: Path) -> None:
    summary = trained(tmp_path, [0.5, 0.9, 0.96, 0.99], target=0.95, fetch_ms=2)
    t = summary["training"]
    # Opening 7 ms; an epoch 4 x (2 + 10) ms and 5 ms of evaluation; 100 ms of the harness before each epoch count nowhere.
    assert t["tta_s"] == pytest.approx(0.007 + 3 * (0.048 + 0.005))
    assert (t["reached"], t["epochs_run"], t["epochs_to_target"]) == (True, 3, 3)
    assert [point["accuracy"] for point in t["curve"]] == [0.5, 0.9, 0.96]
    assert [point["time_s"] for point in t["curve"]] == pytest.approx([0.060, 0.113, 0.166])
    assert (t["train_s"], t["eval_s"], t["stall_s"]) == pytest.approx((0.144, 0.015, 0.024))
    assert t["stall_share"] == pytest.approx(2 / 12)
    assert t["step_compute_s"] == pytest.approx(0.010)
    assert (summary["au_nominal"], summary["au_uncorrected"]) == (None, None)
    assert summary["au_measured"] == pytest.approx(10 / 12)
    assert summary["limits"]["accelerator_samples_per_s"] == pytest.approx(800.0)
    assert summary["harness_s"] == pytest.approx(0.2)  # between three epochs, without the evaluations
    assert {f["code"] for f in summary["findings"]} & {"TARGET_NOT_REACHED", "HELD_OUT_SMALL", "LOSS_NOT_FINITE", "RANKS_DIVERGED"} == set()


def test_the_first_crossing_counts_and_a_miss_is_a_result(tmp_path: Path) -> None:
    down = trained(tmp_path, [0.5, 0.6], target=0.95, run_id="down", samples=50)
    t = down["training"]
    assert (t["reached"], t["tta_s"], t["epochs_to_target"], t["best_accuracy"]) == (False, None, None, 0.6)
    codes = {f["code"]: f["severity"] for f in down["findings"]}
    assert codes["TARGET_NOT_REACHED"] == codes["HELD_OUT_SMALL"] == "warning"
    assert (down["valid"], down["exit_code"]) == (True, 0)
    free = trained(tmp_path, [0.9, 0.4], run_id="free")["training"]
    assert (free["reached"], free["final_accuracy"], free["best_accuracy"], free["epochs_run"]) == (None, 0.4, 0.9, 2)


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    summary = trained(tmp_path, [0.1, 0.1], loss=None)
    assert summary["training"]["epochs_run"] == 1
    assert summary["training"]["curve"][0]["loss"] is None
    assert ("LOSS_NOT_FINITE", "error") in {(f["code"], f["severity"]) for f in summary["findings"]}
    assert summary["exit_code"] == 6


@pytest.mark.parametrize(
    ("fetch_ms", "raw_bytes_per_s", "bottleneck"), [(0, None, "accelerator"), (30, 21_000.0, "storage"), (30, 2e6, "loader"), (30, None, None)]
)
def test_what_stands_in_a_trainings_way(fetch_ms: int, raw_bytes_per_s: float | None, bottleneck: str | None, tmp_path: Path) -> None:
    """8 samples of 100 bytes in 40 ms are 20 kB/s."""
    assert trained(tmp_path, [0.5, 0.6], fetch_ms=fetch_ms, raw_bytes_per_s=raw_bytes_per_s)["bottleneck"] == bottleneck


def test_words_of_a_training(tmp_path: Path) -> None:
    summary = trained(tmp_path, [0.5, 0.9504], target=0.95)
    page = one_run(summary)
    assert " ".join(page.split()).startswith(
        "TARGET REACHED: direct on png over posix trained resnet8 on cpu to top-1 accuracy 0.9504 (target 0.95) in 2 epochs:"
    )
    assert "resnet8, 1234 parameters, seed 1" in page
    assert "0.500 0.950" in page
    table = run_table([summary, trained(tmp_path, [0.1], target=0.95, run_id="miss")], width=300)
    assert "TTA (epochs)" in table and "not reached (1)" in table
    (row,) = csv.DictReader(io.StringIO(as_csv([summary])))
    assert float(row["training_tta_s"]) == summary["training"]["tta_s"]
    assert row["training_model"] == "resnet8" and "training_curve" not in row
    emulated = {**summary, "training": None}
    assert "TTA" not in run_table([emulated], width=300)
    assert not [name for name in as_csv([emulated]).splitlines()[0].split(",") if name.startswith("training")]


def test_repeats_give_median_range_and_olympic_mean(tmp_path: Path) -> None:
    accuracies = {"a": [0.96], "b": [0.5, 0.96], "c": [0.5, 0.5, 0.96], "d": [0.5, 0.5, 0.5, 0.96]}
    summaries = [trained(tmp_path, values, target=0.95, run_id=name, seed=seed) for seed, (name, values) in enumerate(accuracies.items(), 5)]
    repeats = summed_up(summaries)
    spread = repeats.trainings["epochs_to_target"]
    assert (spread.values, spread.median, spread.minimum, spread.maximum, spread.olympic.value) == ((1, 2, 3, 4), 2.5, 1, 4, 2.5)
    assert repeats.as_dict()["training"]["tta_s"]["olympic"]["dropped"] == 1
    text = repeats_text(repeats)
    assert "time to target" in text and "4 of 4" in text and "seeds 5, 6, 7, 8; olympic mean: without the fastest and the slowest" in text
    missed = summed_up([*summaries, trained(tmp_path, [0.1], target=0.95, run_id="e", seed=9)])
    assert missed.trainings["tta_s"].values[-1] is None
    assert "one that did not converge" in repeats_text(missed)


def test_ranks_with_other_weights_are_told(tmp_path: Path) -> None:
    from storagebench.checks.case import Case
    from storagebench.checks.rules_training import ranks_diverged

    for name, weights in (("a", 7), ("b", 8)):
        trained(tmp_path, [0.5], run_id=name, weights=weights)
    run = {"plan": {"prefetch_batches": 2}, "config": {"run": {"accelerator": "train:resnet8"}, "train": {"batch_size": 8}}}
    same, apart = (Ranks(run, [read_trace(tmp_path / f"{name}.jsonl") for name in names]) for names in ("aa", "ab"))
    assert list(ranks_diverged(Case(run, {}, same, []))) == []
    (found,) = ranks_diverged(Case(run, {}, apart, []))
    assert "2 different sets of weights" in found.message


# -- the small pure parts -------------------------------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert train_name("train:resnet8") == ("resnet8", "")
    assert train_name("train:mlp@cuda:3") == ("mlp", "cuda:3")
    assert str(train_name("train:mlp@cpu")) == "train:mlp@cpu"
    for wrong in ("train:", "train", "train:mlp@", "train:mlp@gpu", "train:mlp@cuda:x", "train:mlp@cpu:0"):
        with pytest.raises(UsageError, match="--accelerator is"):
            train_name(wrong)


def test_targets_are_compared_in_single_precision() -> None:
    assert reaches(21.799999237060547, 21.8) and reaches(0.95, 0.95) and not reaches(0.9499, 0.95)


def test_the_target_in_effect() -> None:
    published = load_workload("train-resnet50").workload
    assert target_of(published).value == list(published.train.targets.values())[-1].value  # type: ignore[union-attr]
    older = load_workload("train-resnet50", [("train.edition", "v0.5", "t")]).workload
    assert target_of(older).value == 0.749  # type: ignore[union-attr]
    own = load_workload("train-resnet50", [("train.target_quality", 0.5, "t")]).workload
    found = target_of(own)
    assert found is not None and (found.value, found.metric, found.epochs, found.date) == (0.5, "top-1 accuracy", None, None)
    assert target_of(load_workload("quick").workload) is None
    with pytest.raises(UsageError, match="no target of edition 'v9'"):
        target_of(load_workload("train-resnet50", [("train.edition", "v9", "t")]).workload)


def test_where_the_held_out_split_lies() -> None:
    assert held_out_url("/data/x//", "") == "/data/x-held-out"
    assert held_out_url("s3://b/x", "") == "s3://b/x-held-out"
    assert held_out_url("/data/x", "/else") == "/else"


def test_the_schedule() -> None:
    assert [learning_rate(1.0, epoch, 4) for epoch in range(4)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    assert learning_rate(0.1, 0, 1) == 0.1


def test_loaders_that_agree_and_a_planted_one_that_does_not() -> None:
    rng = np.random.default_rng(1)
    names = ("files", "parquet", "webdataset", "s3", "direct")
    good = {name: list(0.95 + 0.01 * rng.standard_normal(3)) for name in names}
    assert agreement(good).agrees
    planted = {**good, "s3": [0.11, 0.09, 0.10]}  # as a loader that gives the images of one sample the label of another
    found = agreement(planted)
    assert not found.agrees and found.spread > 0.8
    alarms = sum(not agreement({name: list(rng.standard_normal(3)) for name in names}).agrees for _ in range(100))
    assert alarms <= 12  # 5 in 100 are expected; 13 or more have a probability of 0.15 %
    with pytest.raises(ValueError, match="no difference can be told"):
        agreement({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="too few"):
        agreement({"a": [1.0, 2.0]})
