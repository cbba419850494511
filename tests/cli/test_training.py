"""`run --accelerator train:MODEL` from end to end: to the target, several ranks, what is refused, repeats, a killed rank."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storagebench.records import rank_trace_path
from storagebench.traces import read_trace

sys.path.insert(0, str(Path(__file__).parents[1] / "independent"))
RECOMPUTE = Path(__file__).parents[1] / "independent" / "recompute.py"

KEYS = {
    "model", "device", "parameters", "seed", "metric", "target", "target_source", "target_date", "reached", "epochs_run", "epochs_to_target", "tta_s", "start_s",
    "train_s", "eval_s", "stall_s", "stall_share", "step_compute_s", "final_accuracy", "best_accuracy", "curve",
}  # fmt: skip
TO_TARGET = ("--epochs", "20", "--target-quality", "0.8", "--verify", "full")
POINT = {"epoch", "time_s", "accuracy", "loss", "train_s", "eval_s", "stall_s"}


def arguments(dataset: str, results: Path, *more: str, model: str = "linear@cpu") -> list[str]:
    return [
        "run", "quick", "--data-dir", dataset, "--results-dir", str(results), "--run-id", "r", "--accelerator", f"train:{model}", "--decode", "full",
        "--batch-size", "32", "--learning-rate", "0.01", "--cache", "as-is", "--headroom-duration", "0", "--num-workers", "0", *more,
    ]  # fmt: skip


def summary_of(results: Path, run_id: str = "r") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / run_id / "summary.json").read_text())
    return found


def agrees(*run_dirs: Path) -> None:
    result = subprocess.run([sys.executable, "-E", "-s", str(RECOMPUTE), *map(str, run_dirs)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]


def test_to_the_target(cli: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    page = tmp_path / "page.prom"
    result = cli(*arguments(make_digits(), tmp_path / "a", *TO_TARGET, "--metrics-textfile", str(page)))
    assert result.returncode == 0, result.stderr
    summary = summary_of(tmp_path / "a")
    assert "storagebench_fetch_" in page.read_text()
    assert not re.search("^storagebench_au_(uncorrected|nominal)_ratio", page.read_text(), re.MULTILINE)  # no compute time is nominal
    t = summary["training"]
    assert set(t) == KEYS and all(set(point) == POINT for point in t["curve"])
    assert (t["model"], t["device"], t["parameters"], t["seed"], t["metric"]) == ("linear", "cpu", 1930, 1, "top-1 accuracy")
    assert (t["target"], t["target_source"], t["target_date"], t["reached"]) == (0.8, "train.target_quality", None, True)
    assert t["epochs_to_target"] == t["epochs_run"] == len(t["curve"]) < 20
    assert t["final_accuracy"] >= 0.8 > max((point["accuracy"] for point in t["curve"][:-1]), default=0.0)
    assert t["tta_s"] == pytest.approx(t["start_s"] + t["train_s"] + t["eval_s"]) == pytest.approx(t["curve"][-1]["time_s"])
    assert (summary["accelerator"], summary["au_nominal"], summary["valid"]) == ("train:linear@cpu", None, True)
    assert 0 < summary["au_measured"] < 1
    assert "TARGET REACHED" in result.stdout and "of each epoch" in result.stdout
    run = json.loads((tmp_path / "a" / "r" / "run.json").read_text())
    assert run["training"]["held_out"]["num_samples"] == 200
    agrees(tmp_path / "a" / "r")


@pytest.mark.nightly
def test_loaders_of_one_order_train_the_same_model_to_the_bit(cli: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    for place, loader in (("a", "direct"), ("b", "direct"), ("c", "files")):
        result = cli(*arguments(make_digits(), tmp_path / place, *TO_TARGET, "--loader", loader, "--num-workers", "2", model="resnet8@cpu"))
        assert result.returncode == 0, result.stderr
    found = [read_trace(rank_trace_path(tmp_path / place / "r", 0)).of_kind("eval") for place in "abc"]
    same = [[(row["accuracy"], row["weights_crc32c"]) for row in rows] for rows in found]
    assert same[0] == same[1] == same[2]
    agrees(*(tmp_path / place / "r" for place in "abc"))


@pytest.mark.catalogue
@pytest.mark.parametrize(("loader", "form"), [("parquet", "parquet"), ("webdataset", "webdataset"), ("direct", "parquet")])
def test_other_formats_train_too(loader: str, form: str, cli: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    result = cli(*arguments(make_digits(form), tmp_path, *TO_TARGET, "--loader", loader))
    assert result.returncode == 0, result.stderr
    assert summary_of(tmp_path)["training"]["reached"] is True


@pytest.mark.catalogue
def test_two_ranks_train_the_model_that_one_rank_trains_on_the_global_batch(cli: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    for ranks, batch in ((1, 32), (2, 16)):
        more = ("--epochs", "2", "--num-accelerators", str(ranks), "--batch-size", str(batch))
        result = cli(*arguments(make_digits(), tmp_path / str(ranks), *more, model="mlp@cpu"))
        assert result.returncode == 0, result.stderr
    one, two = summary_of(tmp_path / "1"), summary_of(tmp_path / "2")
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert [p["loss"] for p in two["training"]["curve"]] == pytest.approx([p["loss"] for p in one["training"]["curve"]], rel=1e-3)
    assert [p["accuracy"] for p in two["training"]["curve"]] == pytest.approx([p["accuracy"] for p in one["training"]["curve"]], abs=0.011)
    weights = [[row["weights_crc32c"] for row in read_trace(rank_trace_path(tmp_path / "2" / "r", rank)).of_kind("eval")] for rank in (0, 1)]
    assert weights[0] == weights[1] and len(weights[0]) == 2
    assert [row["samples"] for row in read_trace(rank_trace_path(tmp_path / "2" / "r", 0)).of_kind("eval")] == [200, 200]
    agrees(tmp_path / "1" / "r", tmp_path / "2" / "r")


@pytest.mark.catalogue
def test_a_missed_target_is_a_result_and_a_diverged_training_is_none(cli: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    missed = cli(*arguments(make_digits(), tmp_path / "a", "--epochs", "1", "--target-quality", "1", "--remainder", "keep"))
    assert missed.returncode == 0, missed.stderr
    assert "TARGET NOT REACHED" in missed.stdout and "TARGET_NOT_REACHED" in missed.stdout
    assert summary_of(tmp_path / "a")["training"]["tta_s"] is None
    bad = cli(*arguments(make_digits(), tmp_path / "b", "--epochs", "5", "--learning-rate", "100", model="mlp@cpu"))
    assert bad.returncode == 6, bad.stderr
    assert "the training diverged" in bad.stderr
    agrees(tmp_path / "a" / "r", tmp_path / "b" / "r")


@pytest.mark.catalogue
def test_repeats_take_one_seed_each(cli: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    result = cli(*arguments(make_digits(), tmp_path, "--epochs", "10", "--target-quality", "0.7", "--seed", "5", "--repeat", "2"))
    assert result.returncode == 0, result.stderr
    runs = [json.loads((tmp_path / f"r-{number}" / "run.json").read_text()) for number in (1, 2)]
    assert [run["config"]["run"]["seed"] for run in runs] == [5, 6]
    assert [run["provenance"]["run.seed"] for run in runs] == ["--repeat: seed 5, run 1", "--repeat: seed 5, run 2"]
    assert "time to target" in result.stdout and "2 of 2" in result.stdout and "seeds 5, 6; olympic mean: plain mean" in result.stdout


REFUSED = {
    "decode": (("--decode", "parse"), "--decode is parse, and a model is trained on decoded images"),
    "model": (("--accelerator", "train:vgg"), "unknown model 'vgg' to train; known: linear, mlp"),
    "name": (("--accelerator", "train:mlp@tpu"), "--accelerator is 'train:mlp@tpu'"),
    "cuda": (("--accelerator", "train:mlp@cuda"), "needs a CUDA device"),
    "compute time": (("--compute-time", "5ms"), "--compute-time is 0.005 s, and --accelerator train:linear@cpu really computes"),
    "null": (("--loader", "null"), "loader null reads nothing, so there is nothing to train on"),
    "sharing": (
        ("--num-accelerators", "2", "--accelerators-per-process", "2", "--loader", "direct"),
        "each rank that trains has a process of its own",
    ),
    "sync": (("--num-accelerators", "2", "--sync", "epoch"), "--sync is epoch, and 2 ranks that train one model"),
    "keep": (("--num-accelerators", "2", "--remainder", "keep"), "--remainder is keep, and 2 ranks"),
    "batch": (("--batch-size", "400"), "the dataset has 288 samples, and --batch-size is 400"),
    "held-out": (("--held-out-dir", "/nowhere/at/all"), "no dataset at /nowhere/at/all"),
    "edition": (("--edition", "v9"), "workload quick has no target of edition 'v9'"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_trained_is_refused_before_the_run_folder_is_there(
    name: str, cli_here: Any, make_digits: Callable[..., str], tmp_path: Path
) -> None:
    import torch

    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this kernel: there is a CUDA device")
    options, message = REFUSED[name]
    result = cli_here(*arguments(make_digits(), tmp_path, *options))
    assert result.returncode in (2, 3) and message in result.stderr, result.stderr
    assert not (tmp_path / "r").exists()


def test_other_data_is_refused(cli_here: Any, make_dataset: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    path, _ = make_dataset()
    result = cli_here(*arguments(path, tmp_path))
    assert (result.returncode, "the records of the dataset are bytes, and a model is trained on jpeg or png images" in result.stderr) == (2, True)
    other = cli_here(*arguments(make_digits(), tmp_path, "--held-out-dir", path))
    assert (other.returncode, "has bytes records in npz, and the dataset png in png" in other.stderr) == (2, True)


def test_plan_knows_the_models(cli_here: Any) -> None:
    planned = cli_here("plan", "quick", "--accelerator", "train:resnet8@cpu")
    assert (planned.returncode, "1, train:resnet8@cpu, whose compute is measured" in planned.stdout) == (0, True)
    wrong = cli_here("plan", "quick", "--accelerator", "train:resnet9@cpu")
    assert (wrong.returncode, "unknown model 'resnet9' to train" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["search", "diagnose"])
def test_verbs_that_go_by_nominal_compute_refuse(verb: str, cli_here: Any, make_digits: Callable[..., str]) -> None:
    result = cli_here(verb, "quick", "--data-dir", make_digits(), "--accelerator", "train:linear@cpu")
    assert (result.returncode, f"error: {verb} " in result.stderr, "train:linear@cpu" in result.stderr) == (2, True, True), result.stderr


@pytest.mark.catalogue
def test_a_killed_rank_leaves_a_partial_curve(cli: Any, make_digits: Callable[..., str], tmp_path: Path) -> None:
    command = arguments(make_digits(), tmp_path, "--epochs", "2000", "--num-accelerators", "2", "--batch-size", "16")
    process = subprocess.Popen([sys.executable, "-P", "-m", "storagebench", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        path, end = rank_trace_path(tmp_path / "r", 1), time.monotonic() + 60
        while time.monotonic() < end and not (path.exists() and len(read_trace(path).of_kind("eval")) >= 2):
            time.sleep(0.1)
        os.kill(read_trace(path).header["pid"], signal.SIGKILL)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 5, said
    assert "rank 1 of 2" in said
    t = summary_of(tmp_path)["training"]
    assert summary_of(tmp_path)["status"] == "incomplete" and t["epochs_run"] >= 2 and t["reached"] is None
    agrees(tmp_path / "r")
