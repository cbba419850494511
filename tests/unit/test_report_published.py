"""`report --tta` of files that others published: tables of DAWNBench and logs of MLPerf, by their own rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from storagebench.commands.report import command
from storagebench.errors import StorageError, UsageError
from storagebench.model.mllog import END, POINT, START, Event, line_of
from storagebench.report.ttapublished import published_text, read_published, submissions_of

IMAGENET = "epoch\thours\ttop1Accuracy\ttop5Accuracy\n28\t11.5573375323746\t93.95\t91.66\n29\t12.6633863253064\t76.04\t93.05\n"
CIFAR = "epoch\thours\ttop1Accuracy\n29\t0.09160958170890808\t93.99\n30\t0.0946198488606347\t94.08\n"


def entry(folder: Path, table: str, beside: Any = None) -> dict[str, Any]:
    path = folder / "entry.tsv"
    path.write_text(table)
    if beside is not None:
        path.with_suffix(".json").write_text(beside if isinstance(beside, str) else json.dumps(beside))
    return read_published(path)


def log(folder: Path, name: str, time_s: float, status: str = "success", benchmark: str = "resnet") -> Path:
    path = folder / name
    events = [
        Event(1e6, POINT, "submission_benchmark", benchmark),
        Event(1e6, POINT, "global_batch_size", 3200),
        Event(1e6, START, "run_start"),
        Event(1e6 + 10, START, "epoch_start", None, {"epoch_num": 1}),
        Event(1e6 + 900 * time_s, POINT, "eval_accuracy", 0.76, {"epoch_num": 1}),
        Event(1e6 + 1000 * time_s, END, "run_stop", None, {"status": status}),
    ]
    path.write_bytes(b"\xff not UTF-8\n" + "".join(f"0: {line_of(event)}\n" for event in events).encode())
    return path


def test_an_entry_by_the_rules_of_its_task(tmp_path: Path) -> None:
    found = entry(tmp_path, IMAGENET, {"model": "Resnet 50", "hardware": "4x GTX 1080 Ti", "costPerHour": 1.5, "timestamp": "2019-08-10"})
    assert (found["task"], found["metric"], found["epoch"], f"{found['tta_s']:.2f}", f"{found['cost']:.4f}") == (
        "ImageNet", "top5Accuracy", 29, "45588.19", "18.9951",
    )  # fmt: skip
    text = published_text([found], [])
    assert "Resnet 50 on 4x GTX 1080 Ti (2019-08-10)" in text and "12.7 h, at epoch 29" in text and "19.00 USD at 1.5 an hour" in text


def test_without_a_price_there_is_no_cost_and_without_the_target_no_time(tmp_path: Path) -> None:
    found = entry(tmp_path, CIFAR)
    assert (found["task"], found["epoch"], found["cost"], found["model"]) == ("CIFAR10", 30, None, None)
    assert "none: there is no costPerHour" in published_text([found], [])
    short = entry(tmp_path, CIFAR.replace("94.08", "93.9"), {"costPerHour": 3.06})
    assert (short["reached"], short["tta_s"], short["cost"]) == (False, None, None)
    assert "not reached" in published_text([short], [])
    assert entry(tmp_path, CIFAR, {"costPerHour": True})["cost"] is None


def test_a_table_of_our_own_has_its_own_target(tmp_path: Path) -> None:
    found = entry(tmp_path, CIFAR, {"misc": {"made_by": "storagebench report --dawnbench", "task": "digits", "target": 0.9399}})
    assert (found["task"], found["epoch"], found["target"]) == ("digits", 29, pytest.approx(93.99))


@pytest.mark.parametrize("beside", ["[]", "{", "[" * 100_000])
def test_a_json_that_is_none_is_refused(tmp_path: Path, beside: str) -> None:
    with pytest.raises(UsageError, match="is no JSON object"):
        entry(tmp_path, CIFAR, beside)


def test_logs_make_a_submission(tmp_path: Path) -> None:
    times = (801.0, 805.36, 803.0, 860.61, 799.0)
    paths = [log(tmp_path, f"result_{index}.txt", time_s, "aborted" if index == 3 else "success") for index, time_s in enumerate(times)]
    found = [read_published(path) for path in paths]
    assert (found[0]["benchmark"], found[0]["global_batch_size"], found[0]["tta_s"], found[0]["epoch_starts"]) == ("resnet", 3200, 801.0, 1)
    assert (found[3]["tta_s"], found[3]["run_s"], found[3]["reached"]) == (None, 860.61, False)
    (submission,) = submissions_of(found)
    assert submission["olympic_mean_s"] == pytest.approx((801.0 + 805.36 + 803.0) / 3)
    assert (submission["logs_required"], submission["not_converged"]) == (5, [str(paths[3])])
    text = published_text(found, [submission])
    assert "5 logs of resnet, batch 3200 (a result has 5)" in text and "run_stop does not say success, after 14.3 min" in text
    other = read_published(log(tmp_path, "other.txt", 1.0, benchmark="bert"))
    assert submissions_of([found[0], other]) == []


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing to see\n")
    with pytest.raises(UsageError, match="no line of MLPerf Training"):
        read_published(path)
    with pytest.raises(StorageError, match="cannot be read"):
        read_published(tmp_path / "gone.txt")


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in published_text([entry(tmp_path, CIFAR, {"model": "\x1b[31m", "hardware": "a\nb"})], [])
    assert "\x1b" not in published_text([read_published(log(tmp_path, "a.txt", 1.0, benchmark="\x1b[2J"))], [])


def test_the_command_takes_files(tmp_path: Path) -> None:
    entry(tmp_path, CIFAR)
    paths = [str(tmp_path / "entry.tsv"), str(log(tmp_path, "result_0.txt", 10.0))]
    found = json.loads(CliRunner().invoke(command, [*paths, "--tta", "--json"]).stdout)
    assert [row["kind"] for row in found["published"]] == ["dawnbench", "mlperf"] and found["runs"] == found["submissions"] == []
    assert CliRunner().invoke(command, [*paths, "--tta"]).stdout.startswith("DAWNBench: ")
    for options, says in (
        ((), "no run.json"),
        (("--tta", "--csv"), "has no CSV row"),
        (("--tta", "--mllog", str(tmp_path / "x")), "write one training"),
    ):
        broken = CliRunner().invoke(command, [*paths, *options])
        assert isinstance(broken.exception, UsageError) and says in broken.exception.message
