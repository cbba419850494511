"""DAWNBench's tables and MLPerf's log lines: read, written, read again; what is no such file is refused with the line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storagebench.errors import UsageError
from storagebench.model import dawnbench, mllog

# The end of CIFAR10/train/basenet.tsv of dawn-bench-entries (5197470): epochs from 0, rows 24 to 32.
BASENET = """\
epoch\thours\ttop1Accuracy
24\t0.07640756865342459\t88.81
25\t0.07944716102547116\t91.18
28\t0.08858485188749102\t93.14
29\t0.09160958170890808\t93.99
30\t0.0946198488606347\t94.08
31\t0.09764599925941891\t94.15
"""
# The end of ImageNet/train/lambda_resnet50_lambda_cloud_single_pytorch.tsv (01a6d41).
LAMBDA = """\
epoch\thours\ttop1Accuracy\ttop5Accuracy
27\t10.9214283980264\t72.9280014038086\t91.265998840332
28\t11.5573375323746\t73.9560012817383\t91.6600036621094
29\t12.6633863253064\t76.0479965209961\t93.0500030517578
"""
# The README's own example of ImageNet, with its blanks.
IMAGENET = """\
epoch   hours top1Accuracy top5Accuracy
1       0.07166666666666667     33.57     68.93
2       0.1461111111111111      52.51     72.48\x20
"""


def test_basenet_reaches_94_at_epoch_30() -> None:
    table = dawnbench.read_table(BASENET)
    row = table.first_at(dawnbench.THRESHOLDS["CIFAR10"])
    assert row is not None
    assert (row.epoch, f"{row.time_s:.2f}", f"{dawnbench.cost(row.hours, 3.06):.4f}") == (30, "340.63", "0.2895")
    assert dawnbench.cost(row.hours, None) is None
    assert dawnbench.write_table(table) == BASENET


def test_lambda_reaches_93_of_the_first_five_at_epoch_29() -> None:
    """The worked row of the reference: 45,588.19 s at 1.5 an hour. Top-1, which comes first, does not count."""
    table = dawnbench.read_table(LAMBDA)
    row = table.first_at(dawnbench.THRESHOLDS["ImageNet"])
    assert row is not None
    assert (row.epoch, f"{row.time_s:.2f}", f"{dawnbench.cost(row.hours, 1.5):.4f}") == (29, "45588.19", "18.9951")
    assert dawnbench.write_table(table) == LAMBDA


def test_the_readme_s_own_table_is_read_and_does_not_reach_its_target() -> None:
    table = dawnbench.read_table(IMAGENET)
    assert table.columns == ("top1Accuracy", "top5Accuracy") and table.rows[1].qualities == (52.51, 72.48)
    assert table.first_at(dawnbench.THRESHOLDS["ImageNet"]) is None
    with pytest.raises(UsageError, match="no column f1Score"):
        table.first_at(dawnbench.THRESHOLDS["SQuAD"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not its head"),
        ("epoch\thours\n1\t0.1\n", "not its head"),
        ("epoch\thours\taccuracy\n", "not its head"),
        (BASENET + "32\t0.1\n", "line 8"),
        (BASENET + "32\t0.1\tnan\n", "line 8"),
        (BASENET + "32\tsoon\t94\n", "line 8"),
        (BASENET + "-1\t0.1\t94\n", "line 8"),
    ],
)
def test_no_table(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        dawnbench.read_table(text)


NUMBER = st.floats(0.0, 1e6)


@given(st.lists(st.tuples(st.floats(0, 1000), NUMBER, NUMBER, NUMBER), max_size=20))
def test_a_table_is_the_same_when_read_again(rows: list[tuple[float, float, float, float]]) -> None:
    table = dawnbench.Table(("top1Accuracy", "top5Accuracy"), tuple(dawnbench.Row(row[0], row[1], row[2:]) for row in rows))
    assert dawnbench.read_table(dawnbench.write_table(table)) == table


def test_the_entry_has_the_keys_of_the_readme() -> None:
    found = json.loads(dawnbench.entry({"model": "resnet8", "hardware": "2 cores", "timestamp": "2026-11-27"}, 0.5))
    assert list(found) == ["version", "author", "authorEmail", "framework", "codeURL", "model", "hardware", "costPerHour", "timestamp", "misc"]
    assert (found["version"], found["author"], found["costPerHour"]) == ("v1.0", "", 0.5)
    assert "costPerHour" not in json.loads(dawnbench.entry({"timestamp": "2026-11-27"}, None))


# As NVIDIA's and others' logs have them: a rank before the token, the program's own lines between, a line printed twice.
LOG = """\
Loading data
:::MLLOG {"namespace": "", "time_ms": 1000000, "event_type": "POINT_IN_TIME", "key": "submission_benchmark", "value": "resnet", "metadata": {"file": "a.py", "lineno": 3}}
 0: :::MLLOG {"namespace": "", "time_ms": 1000000, "event_type": "POINT_IN_TIME", "key": "global_batch_size", "value": 3200, "metadata": {}}
 0: :::MLLOG {"namespace": "", "time_ms": 1000000, "event_type": "POINT_IN_TIME", "key": "seed", "value": 17, "metadata": {}}
 0: :::MLLOG {"namespace": "", "time_ms": 1000000, "event_type": "POINT_IN_TIME", "key": "train_samples", "value": 1281167, "metadata": {}}
:::MLLOG {"namespace": "", "time_ms": 1002000, "event_type": "INTERVAL_START", "key": "run_start", "value": null, "metadata": {}}
:::MLLOG {"namespace": "", "time_ms": 1002500, "event_type": "INTERVAL_START", "key": "epoch_start", "value": null, "metadata": {"epoch_num": 1}}
1: :::MLLOG {"namespace": "", "time_ms": 1002500, "event_type": "INTERVAL_START", "key": "epoch_start", "value": null, "metadata": {"epoch_num": 1}}
:::MLLOG {"namespace": "", "time_ms": 1012500, "event_type": "POINT_IN_TIME", "key": "eval_accuracy", "value": 0.761, "metadata": {"epoch_num": 1}}
:::MLLOG {"namespace": "", "time_ms": 1022500, "event_type": "POINT_IN_TIME", "key": "eval_accuracy", "value": 0.755, "metadata": {"epoch_num": 2}}
:::MLLOG {"namespace": "", "time_ms": 1022600, "event_type": "INTERVAL_END", "key": "run_stop", "value": null, "metadata": {"status": "STATUS"}}
"""


def read(text: str) -> mllog.TrainingLog:
    return mllog.training_of(mllog.read_events(text.splitlines()))


def test_a_log_of_today() -> None:
    found = read(LOG.replace("STATUS", "success"))
    assert (found.benchmark, found.global_batch_size, found.seed, found.train_samples, found.eval_samples) == ("resnet", 3200, 17, 1_281_167, None)
    assert (found.time_s, found.success, found.epoch_starts) == (20.6, True, 1)
    first = found.first_at(0.759)
    assert first is not None and (first.epoch, first.time_s) == (1, 10.5)
    aborted = read(LOG.replace("STATUS", "aborted"))
    assert not aborted.success and aborted.first_at(0.77) is None


def test_a_log_of_v0_5() -> None:
    """The form of mlperf_log.py, as mlcommons' own parser quotes it."""
    found = read(
        "NCF_RAW_:::MLPv0.5.0 ncf 1538678136.5 (./convert.py:119) run_start\n"
        "loss 0.3\n"
        ":::MLPv0.5.0 ncf 1538678137 (ncf.py:10) train_epoch: 0\n"
        ':::MLPv0.5.0 ncf 1538678140.5 (ncf.py:12) eval_accuracy: {"epoch": 0, "value": 0.60}\n'
        ':::MLPv0.5.0 ncf 1538678146.5 (ncf.py:12) eval_accuracy: {"epoch": 1, "value": 0.6356}\n'
        ':::MLPv0.5.0 ncf 1538678147.0 (ncf.py:187) run_stop: {"success": true}\n'
        ":::MLPv0.5.0 ncf 1538678147.1 (ncf.py:193) run_final\n"
    )
    assert (found.benchmark, found.time_s, found.success, found.epoch_starts) == ("ncf", 10.5, True, 1)
    first = found.first_at(0.635)
    assert first is not None and (first.epoch, first.time_s) == (1, 10.0)


@pytest.mark.parametrize(
    "line",
    [
        ":::MLLOG {",
        ':::MLLOG {"key": "a"}',
        ":::MLLOG [1]",
        ':::MLLOG {"time_ms": 1, "event_type": "", "key": "a", "metadata": [1]}',
        ":::MLPv0.5.0 ncf",
    ],
)
def test_a_broken_line_is_named(line: str) -> None:
    with pytest.raises(UsageError, match="line 2 of the log"):
        mllog.read_events(["all is well", line])


def test_nothing_is_known_of_nothing() -> None:
    found = read("no log at all\n")
    assert (found.benchmark, found.time_s, found.success, found.epoch_starts, found.evaluations) == (None, None, False, 0, ())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
EVENT = st.builds(
    mllog.Event,
    st.integers(0, 2**53).map(float),
    st.sampled_from([mllog.START, mllog.END, mllog.POINT]),
    st.text(min_size=1, max_size=20),
    JSON,
    st.dictionaries(st.text(max_size=10), JSON, max_size=3),
    st.text(max_size=5),
)


@given(st.lists(EVENT, max_size=10, unique_by=mllog.line_of))
def test_events_are_the_same_when_read_again(events: list[mllog.Event]) -> None:
    """Any text between the tokens survives: a line has none of the token itself in front."""
    kept = [event for event in events if ":::ML" not in mllog.line_of(event)[1:]]
    assert mllog.read_events([mllog.line_of(event) for event in kept]) == kept
    assert all(math.isfinite(event.time_ms) for event in kept)


def test_the_data_of_the_reference_says_where_it_is_from() -> None:
    folder = Path(__file__).parents[1] / "data" / "training"
    text = (folder / "README.md").read_text()
    for name in ("dawnbench_tta.csv", "mlperf_training_nvidia_runs.csv"):
        assert f"`{name}`" in text and (folder / name).is_file()
