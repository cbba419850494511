"""Small real tasks on the command line: two datasets of one command, golden texts, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from storagebench.manifest import load_dataset
from storagebench.storage import open_store

PLAN_HEAD = """\
accelerators   1, 10 ms of compute a step
steps          880 on each rank (22 an epoch of global batch 64)
samples        1408 an epoch, 34 dropped at its end
dataset        177 kB of records, 123 B each on average
demand         0.8 MB/s, 6400.0 samples/s at AU 1
"""


def made(cli_here: Any, *arguments: str) -> dict[str, Any]:
    done = cli_here("generate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_generate_makes_both_splits_and_the_same_again(cli_here: Any, tmp_path: Path) -> None:
    data = str(tmp_path / "digits") + "/"
    done = cli_here("generate", "digits", "--num-samples", "200", "--data-dir", data)
    assert done.returncode == 0, done.stderr
    one, digest, two, held_out_digest = done.stdout.splitlines()
    assert one.startswith(f"{data}: 200 samples of png in 200 png shards, ")
    assert two.startswith(f"held out: {tmp_path}/digits-held-out: 355 samples of png in 355 png shards, ")
    again = made(cli_here, "digits", "--num-samples", "200", "--data-dir", data)
    assert (f"digest {again['digest']}", f"digest {again['held_out']['digest']}") == (digest, held_out_digest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "digits-held-out"]
    for url in (data, f"{tmp_path}/digits-held-out"):
        assert cli_here("verify", "--data-dir", url).returncode == 0


def test_splits_of_other_formats_and_places(cli_here: Any, tmp_path: Path) -> None:
    data, rest = str(tmp_path / "train"), str(tmp_path / "elsewhere" / "rest")
    arguments = ("photographs", "--data-dir", data, "--held-out-dir", rest, "--format", "parquet", "--num-samples", "500")
    found = made(cli_here, *arguments)
    assert (found["num_samples"], found["format"], found["payload"], found["held_out"]["data_dir"]) == (500, "parquet", "jpeg", rest)
    assert load_dataset(open_store(rest)).origin["split"] == "held-out"
    other = cli_here("generate", *arguments, "--data-seed", "7")
    assert other.returncode == 2 and "seed 42 (asked: 7)" in other.stderr


def test_a_task_can_be_asked_of_another_workload(cli_here: Any, tmp_path: Path) -> None:
    found = made(cli_here, "unet3d", "--task", "digits", "--format", "tfrecord", "--num-samples", "100", "--data-dir", str(tmp_path / "x"))
    assert (found["payload"], found["num_samples"], found["num_shards"], found["held_out"]["num_samples"]) == ("png", 100, 100, 355)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--record-length", "5000"), "--record-length: dataset.record_length_bytes is 5000, and the records of task digits"),
        (("digits", "--record-length-stdev", "10"), "--record-length-stdev: "),
        (("digits", "--compressibility", "0.5"), "--compressibility: "),
        (("digits", "--payload", "bytes", "--format", "npz"), "the records of task digits are png, and dataset.payload is bytes"),
        (("digits", "--format", "jpeg"), "dataset.payload is jpeg, as format jpeg needs it"),
        (("photographs", "--format", "png"), "dataset.payload is png, as format png needs it"),
        (("digits", "--num-samples", "1443"), "1443 samples were asked for, and task digits has 1442 for training"),
        (("digits", "--scale", "2"), "2884 samples were asked for"),
        (("quick", "--task", "digts"), "did you mean 'digits'?"),
        (("quick", "--held-out-dir", "/tmp/x"), "synthetic records have no held-out split"),
        (("digits", "--data-dir", "s3://bucket"), "is a whole bucket, so no held-out split can be named after it"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(cli_here: Any, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    place = () if "--data-dir" in arguments else ("--data-dir", str(tmp_path / "data"))
    done = cli_here("generate", *arguments, *place)
    assert done.returncode == 2 and words in done.stderr and "hint: " in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_plan(cli_here: Any) -> None:
    done = cli_here("plan", "digits", "--compute-time", "10ms")
    assert done.returncode == 0 and done.stdout.startswith(PLAN_HEAD), done.stdout
    rows = {" ".join(line.split()) for line in done.stdout.splitlines()}
    from_file = {re.sub(r":\d+\)$", ")", row) for row in rows}
    assert {"dataset.task digits (digits.yaml)", "run.decode full (digits.yaml)", "run.held_out_dir - (default)"} <= from_file
    said = json.loads(cli_here("plan", "photographs", "--compute-time", "10ms", "--json").stdout)
    assert said["config"]["train"]["targets"]["storagebench"]["metric"] == "top-1 accuracy"


def test_list_shows_the_tasks_and_guesses_no_compute_time(cli_here: Any) -> None:
    rows = {row["name"]: row for row in json.loads(cli_here("list", "workloads", "--json").stdout)["workloads"]}
    accelerators = json.loads(cli_here("list", "accelerators", "--json").stdout)["accelerators"]
    for name, form in (("digits", "png"), ("photographs", "jpeg")):
        row = rows[name]
        assert (row["status"], row["format"], row["measures"], row["accelerators"]) == ("here", form, "steady state", [])
        assert (row["targets"][0]["edition"], row["targets"][0]["metric"]) == ("storagebench", "top-1 accuracy") and "scikit-learn" in row["source"]
        assert name not in {one["workload"] for one in accelerators}
    lines = {line.split()[0]: " ".join(line.split()) for line in cli_here("list", "workloads").stdout.splitlines() if line}
    assert lines["digits"] == "digits here png 0.0001774 steady state - handwritten digits of 8 x 8 pixels with labels, to train a small real model"
    assert lines["photographs"].endswith("steady state - windows of two photographs in 12 classes, to train a small real model")
