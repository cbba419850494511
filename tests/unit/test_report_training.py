"""Real training runs on the page: what is grouped, what the median is, what is marked, and special cases of the plot and its table."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from storagebench.report.html import as_html
from storagebench.report.load import LoadedRun
from storagebench.report.plotstyle import GREY, Figure, labels
from storagebench.report.trainingparts import rows
from storagebench.report.trainingplot import accuracy_over_time, target_text
from storagebench.report.trainingseries import Curve, Task, median_curve, store_label, tasks

Make = Callable[..., LoadedRun]
EVIL = "</script><img src=x onerror=alert(1)>%{x}"


def _records() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_record", Path(__file__).parent / "data" / "training_record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made: Any = _records()


@pytest.fixture(scope="module")
def gallery(report_make: Make) -> list[LoadedRun]:
    runs: list[LoadedRun] = made.gallery(report_make)
    return runs


def _tasks(runs: list[LoadedRun]) -> list[Task]:
    return tasks(runs, labels([run.summary for run in runs]))


def _one(runs: list[LoadedRun]) -> Task:
    (task,) = _tasks(runs)
    return task


def _main(figure: Figure) -> list[Figure]:
    return [trace for trace in figure["data"] if trace.get("showlegend", True) and trace["mode"] != "markers" and "line" in trace]


def test_runs_are_grouped_by_architecture_and_store(gallery: list[LoadedRun]) -> None:
    task = _one(gallery)
    expected = [(model, store, 3) for model in ("resnet8", "resnet14", "resnet20") for store in ("posix", "posix at 2.5 MB/s, 10 ms")]
    assert [(group.model, group.store, len(group.curves)) for group in task.groups] == expected
    assert task.targets == [0.95] and task.metric == "top-1 accuracy"


@pytest.mark.parametrize(
    ("root", "options", "label"),
    [
        ("/data", {"bandwidth": "737280"}, "posix at 737 kB/s"),
        ("file:///data", {"bandwidth": "100MB", "latency": "0.0s"}, "posix at 100 MB/s"),
        ("s3://bucket/x", {"latency": "20ms", "jitter": "5ms"}, "s3 20 ms, jitter 5 ms"),
        ("/data", {"clock_id": "x"}, "posix, not slowed down"),
        ("/data", {"bandwidth": "a lot"}, "posix a lot"),
    ],
)
def test_the_label_of_a_shaped_store(root: str, options: dict[str, str], label: str) -> None:
    assert store_label({"store": {"kind": "shaped", "root": root, "options": options}}) == label
    assert store_label({"store": {"kind": "s3", "root": root, "options": options}}) == "s3"


def test_what_tells_runs_apart_is_said_and_the_name_where_nothing_does(report_make: Make) -> None:
    accuracies = made.saturating(20, 0.5)
    loaders = [made.trained(report_make, f"run-{name}", made.training(accuracies), loader=name) for name in ("direct", "files")]
    assert [group.store for group in _one(loaders).groups] == ["posix, loader direct", "posix, loader files"]
    roots = [
        made.trained(report_make, f"run-{root}", made.training(accuracies), {"kind": "posix", "root": root, "options": {}})
        for root in ("/nvme", "/nfs")
    ]
    assert [group.store for group in _one(roots).groups] == ["posix, /nvme", "posix, /nfs"]
    same = [made.trained(report_make, name, made.training(accuracies)) for name in ("first", "second")]
    assert [group.store for group in _one(same).groups] == ["posix, first", "posix, second"]
    seeds = [made.trained(report_make, f"run-{seed}", made.training(accuracies, seed=seed)) for seed in (1, 2)]
    assert [(group.store, len(group.curves)) for group in _one(seeds).groups] == [("posix", 2)]


def test_an_invalid_run_is_no_part_of_a_median(report_make: Make) -> None:
    runs = [made.trained(report_make, f"run-{seed}", made.training(made.saturating(20, 0.5, seed=seed), seed=seed)) for seed in (1, 2, 3)]
    wrong = replace(runs[2], summary={**runs[2].summary, "valid": False})
    task = _one([*runs[:2], wrong])
    assert [len(group.curves) for group in task.groups] == [2, 1]
    figure = accuracy_over_time(task)
    assert [(line["name"], line["line"]["dash"]) for line in _main(figure)] == [
        ("resnet8, posix (2 seeds)", "solid"),
        ("resnet8, posix, run-3 !", "solid"),
    ]
    assert _main(figure)[1]["line"]["color"] == GREY
    assert len(figure["data"][-1]["x"]) == 2, "a mark is on a number that is false"
    assert rows(task)[2][1:4] == ("posix, run-3", "1 of 1", rows(task)[2][3]) and rows(task)[2][3].endswith(" !")


def test_two_workloads_have_two_plots(report_make: Make) -> None:
    runs = [made.trained(report_make, name, made.training(made.saturating(20, 0.5)), workload=name) for name in ("digits", "photographs")]
    assert [task.workload for task in _tasks(runs)] == ["digits", "photographs"]
    page = as_html(runs)
    assert 'id="accuracy-0"' in page and 'id="accuracy-1"' in page


def _curves(report_make: Make, *all_accuracies: list[float | None], target: float | None = 0.9) -> list[Curve]:
    found = [made.training(accuracies, seed=seed, target=target, epoch_s=1.0, start_s=0.0) for seed, accuracies in enumerate(all_accuracies)]
    return _one([made.trained(report_make, f"run-{index}", one) for index, one in enumerate(found)]).curves


def test_the_median_of_seeds_by_hand(report_make: Make) -> None:
    """Runs that end at the target count as above all others: the middle run reaches it after 3 epochs, and there the line ends."""
    curves = _curves(report_make, [0.5, 0.95], [0.4, 0.6, 0.91], [0.3, 0.5, 0.7, 0.8, 0.92])
    middle = median_curve(curves)
    assert [(point.epoch, point.accuracy) for point in middle] == [(1, 0.4), (2, 0.6), (3, 0.91)]
    assert [point.time_s for point in middle] == pytest.approx([1.2, 2.4, 3.6])
    assert [curve.crossing.epoch if curve.crossing else None for curve in curves] == [2, 3, 5]
    # Of two runs the lower one; of runs that never reach it, as long as half of them went on.
    assert [point.accuracy for point in median_curve(curves[1:])] == [0.3, 0.5, 0.7, 0.8, 0.92]
    stopped = _curves(report_make, [0.1], [0.2, 0.3], [0.4, 0.5, 0.6])
    assert [point.accuracy for point in median_curve(stopped)] == [0.2, 0.3]


def test_the_median_never_goes_back_in_time(report_make: Make) -> None:
    slow, fast = made.training([0.5, 0.95], seed=1, target=0.9, epoch_s=9.0), made.training([0.3] * 5, seed=2, target=0.9, epoch_s=1.0)
    times = [point.time_s for point in median_curve(_one([made.trained(report_make, "a", slow), made.trained(report_make, "b", fast)]).curves)]
    assert times == sorted(times) and len(times) == 5


def test_lines_marks_and_target_as_drawn(gallery: list[LoadedRun]) -> None:
    figure = accuracy_over_time(_one(gallery))
    lines = _main(figure)
    assert len(lines) == 6 and len({line["line"]["color"] for line in lines}) == 3 and {line["line"]["dash"] for line in lines} == {"solid", "dash"}
    assert [line["line"]["dash"] for line in lines] == ["solid", "dash"] * 3
    thin = [trace for trace in figure["data"] if trace.get("showlegend") is False]
    assert len(thin) == 18 and {trace["line"]["width"] for trace in thin} == {1}
    (ring,) = [trace for trace in figure["data"] if trace["name"] == "first at or above the target"]
    assert ring["x"] == pytest.approx([run.summary["training"]["tta_s"] for run in gallery], rel=1e-5)
    assert min(ring["y"]) >= 0.95
    assert figure["layout"]["shapes"][0]["y0"] == 0.95 and figure["layout"]["annotations"][0]["text"] == " target 95%"
    hover = thin[0]["hovertext"][0]
    assert "after 1 epoch, 4.78 s" in hover and "stall share of this epoch 2.0%" in hover


def test_the_curve_of_one_run_is_its_evaluations(report_make: Make) -> None:
    found = made.training([0.4, 0.6, 0.8], target=None)
    figure = accuracy_over_time(_one([made.trained(report_make, "only", found)]))
    (line,) = figure["data"]
    assert line["x"] == pytest.approx([row["time_s"] for row in found["curve"]]) and line["y"] == [0.4, 0.6, 0.8]
    assert figure["layout"]["shapes"] == [] and line["name"] == "resnet8, posix"


def test_special_runs_have_a_plot_and_a_row(report_make: Make) -> None:
    cases = {
        "never": made.training([0.4, 0.6, 0.8]),
        "point": made.training([0.4]),
        "nothing": made.training([]),
        "nan": made.training([0.3, float("nan"), None, 0.5]),
        "at-once": made.training([0.97]),
    }
    for name, found in cases.items():
        task = _one([made.trained(report_make, name, found)])
        figure = accuracy_over_time(task)
        json.dumps(figure, allow_nan=False)
        reached = rows(task)[1][2:4]
        assert reached == (("1 of 1", "4.7 s") if name == "at-once" else ("0 of 1", "not reached")), name
        crosses = [trace for trace in figure["data"] if trace["name"] == "ended without reaching it"]
        assert len(crosses) == (name in ("never", "point", "nan"))
    page = as_html([made.trained(report_make, "nothing", cases["nothing"])])
    assert "No epoch came to its evaluation." in page and 'id="accuracy-0"' not in page


def test_the_table_of_seeds(report_make: Make) -> None:
    curves = [[0.5, 0.96], [0.4, 0.6, 0.97], [0.3, 0.5, 0.6]]
    task = _one([made.trained(report_make, f"run-{seed}", made.training(one, seed=seed)) for seed, one in enumerate(curves)])
    head, row = rows(task)
    assert head == ("architecture", "store", "reached", "TTA", "range", "epochs", "stall share", "final accuracy")
    assert row[2:] == ("2 of 3", "13.1 s", "8.9 s to 13.1 s", "2 to 3", "10.0%", "96.00%")
    without = _one([made.trained(report_make, "free", made.training([0.5], target=None))])
    assert rows(without)[1][2:4] == ("no target", "-")


def test_many_runs_are_told_apart(report_make: Make) -> None:
    """30 runs of 30 stores, and 30 of 15 architectures on two: no two groups look the same."""
    accuracies = made.saturating(20, 0.5)
    stores = [
        made.trained(report_make, f"run-{n}", made.training(accuracies), {"kind": "shaped", "root": "/d", "options": {"bandwidth": f"{n + 1}MB"}})
        for n in range(30)
    ]
    models = [
        made.trained(report_make, f"run-{n}-{store['kind']}", made.training(accuracies, model=f"model{n}"), store)
        for n in range(15)
        for store in (made.FAST, made.SLOW)
    ]
    for runs in (stores, models):
        lines = _main(accuracy_over_time(_one(runs)))
        looks = {(line["line"]["color"], line["line"]["dash"], line["marker"]["symbol"]) for line in lines}
        assert len(lines) == len(looks) == 30


def test_the_page_has_plot_and_table_and_stays_escaped(gallery: list[LoadedRun], report_make: Make) -> None:
    page = as_html(gallery)
    assert "How long did it take to the target?" in page and "made up, 2026-11-27" in page and page == as_html(gallery)
    assert "no AU: a real training step" in page
    assert "How long did it take to the target?" not in as_html([report_make()])
    evil = made.training(made.saturating(9, 0.5), model=EVIL, metric=EVIL)
    store = {"kind": "shaped", "root": f"{EVIL}://x", "options": {"bandwidth": EVIL}}
    page = as_html([made.trained(report_make, EVIL, {**evil, "target_source": EVIL, "seed": EVIL}, store, workload=EVIL)])
    assert "<img" not in page.partition("<script")[0] and "<img" not in page.rpartition('id="figures">')[2].partition("</script>")[0]
    assert "%{x}&lt;" not in page


def test_figures_are_what_plotly_knows(gallery: list[LoadedRun]) -> None:
    from plotly.graph_objects import Figure as Checked

    Checked(accuracy_over_time(_one(gallery)))


def test_targets_have_no_digit_too_many() -> None:
    assert [target_text(value) for value in (0.95, 0.749, 0.635, 0.3330001)] == ["95%", "74.9%", "63.5%", "33.3%"]
