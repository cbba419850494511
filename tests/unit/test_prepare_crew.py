"""What `session.prepare` finds out and refuses where several members take part, on data that are shared or partitioned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crews import crew_of, everywhere

from storagebench.build import generate, generate_together
from storagebench.cluster.crew import Alone
from storagebench.configfile import load_workload
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset, load_dataset
from storagebench.placement import held, shard_spans
from storagebench.preparation import prepare
from storagebench.protocols import StoreSpec
from storagebench.rankmain import load_job
from storagebench.records import read_run
from storagebench.request import Request
from storagebench.storage.posix import PosixStore
from storagebench.workload import Workload
from storagebench.world import Place


def asked(data: Path, results: Path, placement: str, **settings: Any) -> Request:
    values = {
        "dataset.num_samples": 64,
        "run.compute_time_s": 0.01,
        "train.batch_size": 2,
        "run.placement": placement,
        "run.warmup_steps": 0,
        **settings,
    }
    return Request(load_workload("quick", [(key, value, "test") for key, value in values.items()]), str(data), {}, results, "r", ["test"], 0)


def partitioned(members: list[Any], folder: Path) -> Dataset:
    """Both parts in one folder: all hosts see all of it."""
    workload = Workload.model_validate(
        {"name": "t", "dataset": {"num_samples": 64, "record_length_bytes": 500, "format": "npz"}, "run": {"placement": "partitioned"}}
    )
    disks = [folder, folder, folder.with_name("b")]
    found = everywhere(members, lambda member: generate_together(workload, PosixStore(StoreSpec("posix", str(disks[member.member]))), member))
    assert isinstance(found[0], Dataset), found
    for name in found[0].names[found[0].partition[1][0] :]:
        (folder / name).write_bytes((disks[2] / name).read_bytes())
    return found[0]


def test_a_partitioned_run_knows_who_holds_what(three: list[Any], tmp_path: Path) -> None:
    dataset = partitioned(three, tmp_path / "data")
    ranks = {0: 2, 1: 1, 2: 1}
    found = everywhere(
        three,
        lambda member: prepare(asked(tmp_path / "data", tmp_path / "runs", "partitioned", **{"run.num_accelerators": ranks[member.member]}), member),
    )
    run = read_run(found[0])
    assert run["partition"] == [[0, 43], [43, 64]] and run["config"]["run"]["placement"] == "partitioned"
    assert shard_spans(run) == ((0, 43), (0, 43), (0, 43), (43, 64))
    assert held(run, dataset, "b").names == dataset.names[43:]
    # 43 samples for 3 ranks of batch 2 are 7 steps, 21 for one rank are 10.
    assert (run["plan"]["steps_per_epoch"], run["plan"]["dropped_samples_per_epoch"]) == (7, 64 - 7 * 2 * 4)
    job = load_job(Workload.model_validate(run["config"]), StoreSpec(**run["store"]), dataset, Place(3, 4), shard_spans(run))
    assert job.shards_here == range(43, 64) and job.num_dealt_shards == 21


@pytest.mark.parametrize(("placement", "words"), [("shared", "--placement is shared"), ("replicated", "--placement is replicated")])
def test_another_placement_than_the_datasets_is_refused(three: list[Any], tmp_path: Path, placement: str, words: str) -> None:
    partitioned(three, tmp_path / "data")
    for error in everywhere(three, lambda member: prepare(asked(tmp_path / "data", tmp_path / "runs", placement), member)):
        assert isinstance(error, UsageError) and words in error.message and error.hint == "give --placement partitioned"


def test_a_partitioned_dataset_needs_its_hosts(three: list[Any], tmp_path: Path) -> None:
    partitioned(three, tmp_path / "data")
    for placement in ("shared", "partitioned"):
        with pytest.raises(UsageError, match="partitioned over 2 hosts, and this runs on one"):
            prepare(asked(tmp_path / "data", tmp_path / "runs", placement), Alone())
    with crew_of(("a", "b", "c")) as others:
        for error in everywhere(others, lambda member: prepare(asked(tmp_path / "data", tmp_path / "runs", "partitioned"), member)):
            assert isinstance(error, UsageError) and "partitioned over 2 hosts, and this runs on 3 (a, b, c)" in error.message
    assert not (tmp_path / "runs").exists()


def test_a_whole_dataset_is_not_partitioned(three: list[Any], tmp_path: Path) -> None:
    workload = Workload.model_validate({"name": "t", "dataset": {"num_samples": 64, "record_length_bytes": 500, "format": "npz"}})
    generate(workload, PosixStore(StoreSpec("posix", str(tmp_path / "data"))))
    for error in everywhere(three, lambda member: prepare(asked(tmp_path / "data", tmp_path / "runs", "partitioned"), member)):
        assert isinstance(error, UsageError) and "the dataset is whole wherever it lies" in error.message
    run = read_run(everywhere(three, lambda member: prepare(asked(tmp_path / "data", tmp_path / "runs", "replicated"), member))[0])
    assert "partition" not in run and shard_spans(run) == ()


def test_a_host_with_a_missing_shard_is_named(three: list[Any], tmp_path: Path) -> None:
    dataset = partitioned(three, tmp_path / "data")
    (tmp_path / "data" / dataset.names[50]).unlink()
    for error in everywhere(three, lambda member: prepare(asked(tmp_path / "data", tmp_path / "runs", "partitioned"), member)):
        assert isinstance(error, DatasetError) and error.message.startswith(f"host b: shard {dataset.names[50]} ")
    assert load_dataset(PosixStore(StoreSpec("posix", str(tmp_path / "data")))).partition == ((0, 43), (43, 64))
