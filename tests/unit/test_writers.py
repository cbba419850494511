"""Writers beside the ranks: what they write, the share of it that lies in the window, what is deleted, what is refused. No process is started here."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storagebench.configfile import load_workload
from storagebench.errors import UsageError
from storagebench.plan import WRITER_BYTES, make_plan
from storagebench.records import TraceWriter, writer_trace_path
from storagebench.traces import Steps, Trace
from storagebench.window import EpochWindow, RankWindow
from storagebench.writefigures import bytes_within, write_figures
from storagebench.writermain import shard_of
from storagebench.writers import refuse_unfit, remove_written

S = 10**9
RUN = {"config": {"run": {"writers": 2}}}


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 100)], 1000.0),  # all of both
        ([(10, 30)], 600.0),  # the first whole, the second not begun
        ([(20, 50)], 300.0 + 100.0),  # half of the first, a quarter of the second
        ([(0, 15), (45, 55)], 150.0 + 100.0),  # an epoch's end, and the next one's start
        ([(30, 40)], 0.0),  # between them
        ([], 0.0),
    ],
)
def test_a_shard_counts_with_the_share_that_lies_in_the_window(spans: list[tuple[int, int]], expected: float) -> None:
    assert bytes_within(ints(10, 40), ints(30, 80), ints(600, 400), spans) == pytest.approx(expected)


def test_windows_that_cover_all_time_count_every_byte_once() -> None:
    rng = random.Random(5)
    begin = np.array([rng.randrange(1000) for _ in range(50)], np.int64)
    end = begin + np.array([rng.randrange(1, 300) for _ in range(50)], np.int64)
    num_bytes = np.array([rng.randrange(10**6) for _ in range(50)], np.int64)
    cuts = sorted({0, 2000, *(rng.randrange(2000) for _ in range(20))})
    assert bytes_within(begin, end, num_bytes, list(pairwise(cuts))) == pytest.approx(int(num_bytes.sum()))


def window(*spans: tuple[int, int]) -> RankWindow:
    epochs = [EpochWindow(number, 1, 1, 1, begin, end, 1, 1, 0, 0, 0, 0.0, True, 0.0, 0.0) for number, (begin, end) in enumerate(spans)]
    return RankWindow(tuple(epochs))


def trace(*rows: tuple[int, int, int, int], host: str = "a") -> Trace:
    """Of shards (begin, end, bytes, samples)."""
    cells = [dict(zip(("begin_ns", "end_ns", "bytes", "samples"), row, strict=True)) for row in rows]
    return Trace(
        {"kind": "header", "host": host},
        Steps.of(()),
        tuple({"kind": "shard", "cpu_s": 0.5 + index, **row} for index, row in enumerate(cells)),
        False,
    )


def test_figures_of_two_writers_in_the_window_of_the_longest_rank() -> None:
    writers = [trace((0, 2 * S, 100, 3), (2 * S, 4 * S, 100, 3)), trace((3 * S, 6 * S, 900, 5))]
    found = write_figures(RUN, ["a", "a"], [window((S, 2 * S)), window((S, 3 * S), (4 * S, 5 * S))], writers)
    assert (found["written_shards"], found["written_bytes"], found["written_samples"]) == (3, 1100, 11)
    assert found["write_bytes_per_s"] == pytest.approx((50 + 50 + 300) / 3)
    assert found["write_quantiles_s"] == {"p50": 2.0, "p90": 3.0, "p99": 3.0, "max": 3.0}
    assert found["write_cpu_s"] == 1.5 + 0.5


def test_writers_of_hosts_are_held_against_a_rank_of_their_own_host() -> None:
    """Host b booted an hour later: 100 bytes in 2 s of its window and 900 in 4 s of a's are 275 a second."""
    far = 3600 * S
    writers = [trace((far, far + 2 * S, 100, 3), host="b"), trace((0, 4 * S, 900, 5)), trace(host="b")]
    found = write_figures(RUN, ["a", "b", "b"], [window((0, 4 * S)), window((far, far + S)), window((far, far + 2 * S))], writers)
    assert found["write_bytes_per_s"] == 50 + 225


def test_what_is_not_known_is_none() -> None:
    writers = [trace((0, S, 100, 3))]
    assert set(write_figures({"config": {"run": {}}}, ["a"], [window((0, S))], []).values()) == {None}
    assert write_figures(RUN, ["b"], [window((0, S))], writers)["write_bytes_per_s"] is None
    assert write_figures(RUN, [], [], writers)["write_bytes_per_s"] is None
    nothing = write_figures(RUN, ["a"], [window((0, S))], [])
    assert (nothing["written_bytes"], nothing["write_bytes_per_s"], nothing["write_quantiles_s"]) == (0, 0.0, None)


@pytest.mark.parametrize("samples", [0, 7, 1000])
def test_written_shards_are_like_the_datasets_and_no_id_comes_twice(samples: int, make_dataset: Any) -> None:
    _, dataset = make_dataset(format="tfrecord", num_samples=150, samples_per_shard=2)
    shards = [shard_of(dataset, ordinal, samples) for ordinal in range(2 * dataset.num_shards + 1)]
    ids = np.concatenate([first + np.arange(len(lengths)) for first, lengths in shards])
    assert len(np.unique(ids)) == len(ids)
    assert ids.min() == dataset.num_samples
    lengths = np.concatenate([lengths for _, lengths in shards])
    assert lengths.tolist() == np.resize(dataset.index["record_bytes"], len(lengths)).tolist()
    assert all(len(mine) == (samples or dataset.shard_samples[number % dataset.num_shards]) for number, (_, mine) in enumerate(shards))


def test_only_what_the_rows_list_is_deleted(tmp_path: Path) -> None:
    folder, run_dir = tmp_path / "data" / "written" / "r", tmp_path / "r"
    folder.mkdir(parents=True)
    (run_dir / "trace").mkdir(parents=True)
    for name in ("00000-0.npz", "00000-1.npz", ".00000-1.npz.part-1-ab", ".00000-0.npz.part-1-ab", "mine.txt"):
        (folder / name).write_text("x")
    rows = TraceWriter(writer_trace_path(run_dir, 0))  # killed in its second shard
    for number in range(2):
        rows.write({"kind": "writing", "keys": [f"written/r/00000-{number}.npz"], "begin_ns": number})
    rows.close()
    run = {"store": {"kind": "posix", "root": str(tmp_path / "data"), "options": {}}}
    assert remove_written(run_dir, run) == {"keys": 2, "error": None}
    assert sorted(path.name for path in folder.iterdir()) == [".00000-0.npz.part-1-ab", "mine.txt"]
    for path in folder.iterdir():
        path.unlink()
    assert remove_written(run_dir, run)["error"] is None
    assert list((tmp_path / "data").iterdir()) == []


def asked(**fields: Any) -> Any:
    return load_workload(
        "quick", [(f"run.{name}", value, "test") for name, value in {"writers": 2, "compute_time_s": 0.01, **fields}.items()]
    ).workload


def test_what_cannot_be_written_is_refused(make_dataset: Any) -> None:
    _, dataset = make_dataset()
    refuse_unfit(asked(), dataset, "r")
    refuse_unfit(asked(writers=0, write_shard_samples=5), dataset, "a/b")
    for run_id in ("a/b", "..", "a\nb"):
        with pytest.raises(UsageError, match="run id"):
            refuse_unfit(asked(), dataset, run_id)
    with pytest.raises(UsageError, match="--write-shard-samples is 5, and format npz holds one sample"):
        refuse_unfit(asked(write_shard_samples=5), dataset, "r")


def test_the_plan_has_the_writers() -> None:
    without, free, bounded = (make_plan(asked(**fields), 1) for fields in ({"writers": 0, "write_rate": "4MB"}, {}, {"write_rate": "4MB"}))
    assert (without.writers, without.write_demand_bytes_per_s) == (0, None)
    assert (free.writers, free.write_demand_bytes_per_s) == (2, None)
    assert bounded.write_demand_bytes_per_s == 4e6
    assert bounded.memory_bytes - without.memory_bytes == 2 * WRITER_BYTES


def test_minigo_writes_what_its_sources_say(cli_here: Any) -> None:
    """Numbers: reference/workloads.md section 5, and the flags that the YAML names."""
    workload = load_workload("train-minigo").workload
    window_size, games, examples, share = 5, 4096, 131072, 0.3
    assert (workload.dataset.format, workload.loader.name) == ("tfrecord_zlib", "tfrecord")
    assert workload.dataset.num_samples == window_size * examples
    assert workload.run.write_shard_samples == round(examples / share / games)
    assert workload.run.writers * workload.run.write_keep_shards == window_size * games
    assert workload.train.compute_time_s == {}
    assert cli_here("plan", "train-minigo").returncode == 2  # nobody published a time, so none is made up
    shown = cli_here("plan", "train-minigo", "--compute-time", "100ms", "--write-rate", "48MB")
    assert "writers        2 beside the ranks, 48.0 MB/s together\n" in shown.stdout
    assert json.loads(cli_here("plan", "train-minigo", "--compute-time", "1s", "--json").stdout)["plan"]["write_demand_bytes_per_s"] is None
