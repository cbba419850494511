"""`report --tta` over made-up runs: projections by hand, real trainings and their seeds, what is left out, text, JSON, CSV and the files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storagebench.configfile import load_workload
from storagebench.errors import UsageError
from storagebench.model import dawnbench, mllog
from storagebench.model.prices import Price, Prices, StoragePrices
from storagebench.report.load import LoadedRun
from storagebench.report.tta import HOW_TO_PRICE, entry_of
from storagebench.report.ttabasis import Asked
from storagebench.report.ttafiles import dawnbench_files, mllog_text
from storagebench.report.ttagroups import groups_of
from storagebench.report.ttatext import tta_csv, tta_text

Make = Callable[..., LoadedRun]
PUBLISHED = 1_281_167  # samples of train-resnet50
RATE, AU, FIRST_S = 1000.0, 0.8, 2.0
PRICE = Price(value=3.0, source="an offer", date="2026-10-01")
PRICES = Prices(currency="EUR", accelerators={"h100": PRICE, "cpu": Price(value=0.5, source="a bill", date="2026-10-02")})
FULL = Prices(currency="EUR", accelerators={"h100": PRICE}, storage=StoragePrices(per_gb_month=PRICE, per_gb_read=PRICE, per_request=PRICE))


def emulated(make: Make, workload: str = "train-resnet50", **summary: Any) -> LoadedRun:
    """A run of that workload's configuration with these figures in its summary."""
    loaded = make()
    config = {**loaded.run["config"], "name": workload, "train": load_workload(workload).workload.model_dump(mode="json")["train"]}
    figures = {
        "workload": workload, "samples_per_s": RATE, "au_nominal": AU, "time_to_first_batch_s": FIRST_S, "samples": 1000, "delivered_bytes": 10**9,
        "storage_bytes": 2 * 10**9, "requests": 500, "findings": [], "measures": load_workload(workload).workload.measures,
    }  # fmt: skip
    return replace(loaded, run={**loaded.run, "config": config}, summary={**loaded.summary, "training": None, **figures, **summary})


def trained(make: Make, seed: int = 1, times: tuple[float, ...] = (10.0, 19.0, 28.0), reached: bool = True, **summary: Any) -> LoadedRun:
    """A training by contract 6 of issue 7: an epoch ends at each of `times`, the last of them at the target; 0.5 s of each is evaluation, 2 s stall."""
    loaded = make(run_id=f"seed-{seed}", world_size=1)
    before = (1.0, *times)
    curve = [
        {
            "epoch": epoch, "time_s": time_s, "accuracy": 0.5 + 0.48 * (epoch + 1) / len(times) if reached else 0.5, "loss": 1.0 / (epoch + 1),
            "train_s": time_s - before[epoch] - 0.5, "eval_s": 0.5, "stall_s": 2.0,
        }
        for epoch, time_s in enumerate(times)
    ]  # fmt: skip
    train_s = sum(row["train_s"] for row in curve)
    training = {
        "model": "resnet8", "device": "cpu", "parameters": 75_000, "seed": seed, "metric": "top-1 accuracy", "target": 0.97, "target_source": "us",
        "target_date": "2026-11-27", "reached": reached, "epochs_run": len(times), "epochs_to_target": len(times) if reached else None,
        "tta_s": times[-1] if reached else None, "start_s": 1.0, "train_s": train_s, "eval_s": 0.5 * len(times), "stall_s": 2.0 * len(times),
        "stall_share": 2.0 * len(times) / train_s, "step_compute_s": 0.01, "final_accuracy": curve[-1]["accuracy"], "best_accuracy": curve[-1]["accuracy"],
        "curve": curve,
    }  # fmt: skip
    config = {**loaded.run["config"], "name": "digits", "run": {**loaded.run["config"]["run"], "seed": seed, "accelerator": "train:resnet8@cpu"}}
    figures = {"workload": "digits", "accelerator": "train:resnet8@cpu", "training": training, "findings": [], **summary}
    return replace(loaded, run={**loaded.run, "config": config, "accelerator": "train:resnet8@cpu"}, summary={**loaded.summary, **figures})


def test_a_projection_by_hand(report_make: Make) -> None:
    """v3.0: 35 epochs of 1,281,167 samples at 1000 samples/s, of which a fifth is stalled; 2 accelerators at 3 EUR."""
    entry = entry_of(emulated(report_make), Asked(prices=PRICES))
    (point,) = entry["points"]
    train_s = 35 * PUBLISHED / RATE
    assert (entry["kind"], point["which"], point["epochs"]) == ("projected", "all", 35)
    assert point["tta_s"] == entry["tta_s"] == pytest.approx(FIRST_S + train_s)
    assert (entry["stall_share"], point["stall_share"]) == pytest.approx((0.2, 0.2))
    assert point["tta_without_stalls_s"] == pytest.approx(FIRST_S + 0.8 * train_s)
    assert point["cost"]["total"] == point["cost"]["accelerators"] == pytest.approx((FIRST_S + train_s) / 3600 * 2 * 3.0)
    assert point["cost"]["stalls"] == pytest.approx(0.2 * train_s / 3600 * 2 * 3.0)
    assert point["cost"]["epoch"] == pytest.approx(train_s / 3600 * 2 * 3.0 / 35)
    assert entry["target"]["edition"] == "v3.0" and entry["target"]["source"] and entry["target"]["date"] == "2021-03-25"
    assert entry["samples_per_epoch"] == PUBLISHED
    assert entry["samples_from"] == f"workload train-resnet50; the run's dataset has {report_make().run['dataset']['num_samples']}"
    assert entry["prices"] == [{"of": "h100", "per": "accelerator and hour", "value": 3.0, "source": "an offer", "date": "2026-10-01"}]
    assert any(note.startswith("evaluation: nothing is known") for note in entry["left_out"])


def test_all_parts_of_the_cost_by_hand(report_make: Make) -> None:
    """1 MB a sample kept, 2 MB and half a request a sample read, each at 3 EUR."""
    entry = entry_of(emulated(report_make), Asked(prices=FULL, epochs=(2,), training_samples=10_000))
    (point,) = entry["points"]
    time_s = FIRST_S + 2 * 10_000 / RATE
    assert point["cost"]["keeping"] == pytest.approx(10.0 * 3.0 * time_s / 3600 / 730)
    assert point["cost"]["reading"] == pytest.approx(2 * 20.0 * 3.0)
    assert point["cost"]["requests"] == pytest.approx(2 * 5000 * 3.0)
    assert [row["of"] for row in entry["prices"]] == ["h100", "storage.per_gb_month", "storage.per_gb_read", "storage.per_request"]
    assert not any(note.startswith("cost") for note in entry["left_out"])


def test_without_stalls_it_is_the_compute_bound(report_make: Make) -> None:
    (point,) = entry_of(emulated(report_make, au_nominal=1.0), Asked())["points"]
    assert (point["stall_s"], point["tta_without_stalls_s"]) == (0.0, point["tta_s"])


def test_a_range_has_no_median_and_counts_have_one(report_make: Make) -> None:
    entry = entry_of(emulated(report_make), Asked(edition="v0.7"))
    assert [(point["which"], point["epochs"]) for point in entry["points"]] == [("fewest", 33), ("most", 41)]
    assert entry["tta_s"] is None and entry["tta_spread_s"]["p50_s"] is None and entry["epochs"]["counts"] == []
    seen = entry_of(emulated(report_make), Asked(epochs=(3, 3, 3, 4), training_samples=1000))
    assert [(point["which"], point["epochs"]) for point in seen["points"]] == [("fewest", 3), ("median", 3), ("most", 4)]
    assert seen["tta_s"] == pytest.approx(FIRST_S + 3.0) and seen["tta_spread_s"]["mean_s"] == pytest.approx(FIRST_S + 3.25)
    assert (seen["samples_from"], seen["epochs"]["source"]) == ("--training-samples", "--epochs-to-target")


def test_data_that_is_read_once_stalls_once(report_make: Make) -> None:
    """train-ncf: the first epoch at the measured rate, the others at what the accelerators take; it is read, and paid for, once."""
    entry = entry_of(emulated(report_make, "train-ncf"), Asked(prices=FULL, epochs=(10,)))
    (point,) = entry["points"]
    one_s = 758 / RATE
    assert point["tta_s"] == pytest.approx(FIRST_S + one_s + 9 * 0.8 * one_s)
    assert point["stall_s"] == pytest.approx(0.2 * one_s)
    assert entry["stall_share"] == point["stall_share"] == pytest.approx(0.2 / (1 + 9 * 0.8))
    assert point["cost"]["reading"] == pytest.approx(758 * 2e-3 * 3.0)
    assert entry["read_once"] and "1000 samples/s (of the first epoch: the data is read once)" in tta_text([entry], [])
    blind = entry_of(emulated(report_make, "train-ncf", au_nominal=None), Asked())
    assert blind["points"] == [] and any("read once" in note for note in blind["left_out"])


@pytest.mark.parametrize(
    ("workload", "summary", "note", "points"),
    [
        ("resnet50", {}, "workload resnet50 has no target: give --epochs-to-target", 0),
        ("train-minigo", {}, "nobody published the epochs to it: give --epochs-to-target", 0),
        ("train-resnet50", {"samples_per_s": None}, "the run measured no rate", 0),
        ("train-resnet50", {"au_nominal": None}, "stall share: without compute time there is none", 1),
        ("train-resnet50", {"time_to_first_batch_s": None}, "start-up: the run had no first batch", 1),
        ("train-resnet50", {}, HOW_TO_PRICE, 1),
    ],
)
def test_what_is_not_known_is_named_with_what_to_give(report_make: Make, workload: str, summary: dict[str, Any], note: str, points: int) -> None:
    entry = entry_of(emulated(report_make, workload, **summary), Asked())
    assert any(note in line for line in entry["left_out"]), entry["left_out"]
    assert len(entry["points"]) == points
    assert note in " ".join(tta_text([entry], []).split())
    json.dumps(entry, allow_nan=False)


def test_a_storage_price_that_is_missing_is_left_out_by_name_and_so_is_what_was_not_counted(report_make: Make) -> None:
    entry = entry_of(emulated(report_make), Asked(prices=PRICES))
    assert [line for line in entry["left_out"] if line.startswith("cost")] == [
        f"cost of {part}: the prices have no storage.{key}: add it, with value, source and date"
        for part, key in (("keeping", "per_gb_month"), ("reading", "per_gb_read"), ("requests", "per_request"))
    ]
    unknown = entry_of(emulated(report_make, requests=None, storage_bytes=None), Asked(prices=FULL))
    assert unknown["points"][0]["cost"]["requests"] is None
    assert "cost of requests: the run did not count it" in unknown["left_out"]
    assert any("the records' own bytes count as read" in line for line in unknown["left_out"])
    assert unknown["points"][0]["cost"]["reading"] == pytest.approx(35 * PUBLISHED * 1e-3 * 3.0)


def test_prices_and_editions_that_are_not_there_are_errors(report_make: Make) -> None:
    with pytest.raises(UsageError, match="none for accelerator 'a100'"):
        entry_of(emulated(report_make), Asked(prices=PRICES, price_name="a100"))
    with pytest.raises(UsageError, match=r"no target of edition 'v0\.8'"):
        entry_of(emulated(report_make), Asked(edition="v0.8"))
    with pytest.raises(UsageError, match=r"resnet50 has no target of edition 'v0\.7'"):
        entry_of(emulated(report_make, "resnet50"), Asked(edition="v0.7"))
    old = emulated(report_make)
    old.run["config"]["train"]["targets"]["v3.0"].pop("source")
    with pytest.raises(UsageError, match="no source and date"):
        entry_of(old, Asked())


def test_a_real_training_is_measured_not_projected(report_make: Make) -> None:
    loaded = trained(report_make)
    entry = entry_of(loaded, Asked(prices=PRICES))
    (point,) = entry["points"]
    assert (entry["kind"], entry["reached"], entry["tta_s"], point["epochs"], point["which"]) == ("measured", True, 28.0, 3, "measured")
    assert entry["eval_s"] == 1.5 and entry["stall_share"] == pytest.approx(6.0 / 25.5)
    assert point["tta_without_stalls_s"] == 22.0
    assert point["cost"]["accelerators"] == pytest.approx(28 / 3600 * 0.5)  # the price of its device
    assert point["cost"]["stalls"] == pytest.approx(6 / 3600 * 0.5)
    assert (entry["target"]["value"], entry["target"]["source"]) == (0.97, "us")
    assert entry["prices"][0]["of"] == "cpu"


def test_epochs_after_the_target_cost_nothing(report_make: Make) -> None:
    loaded = trained(report_make)
    training = {**loaded.summary["training"], "epochs_to_target": 2, "tta_s": 19.0}
    entry = entry_of(replace(loaded, summary={**loaded.summary, "training": training}), Asked(prices=FULL, price_name="h100"))
    assert entry["stall_share"] == pytest.approx(4.0 / 17.0) and entry["points"][0]["epochs"] == 2
    read_gb = loaded.summary["storage_bytes"] * 2 / 3 / 1e9
    assert entry["points"][0]["cost"]["reading"] == pytest.approx(read_gb * 3.0)


def test_a_training_that_did_not_get_there_has_no_time(report_make: Make) -> None:
    entry = entry_of(trained(report_make, reached=False), Asked(prices=PRICES))
    assert (entry["reached"], entry["tta_s"], entry["points"]) == (False, None, [])
    assert "time to accuracy: the target was not reached, so there is none" in entry["left_out"]
    assert "reached      no: 3 epochs, best 0.500" in tta_text([entry], [])


def test_seeds_together(report_make: Make) -> None:
    runs = [
        trained(report_make, 1), trained(report_make, 2, (10.0, 19.0, 28.0, 38.0)), trained(report_make, 3, (10.0, 20.0)),
        trained(report_make, 4, reached=False), trained(report_make, 5, valid=False),
    ]  # fmt: skip
    entries = [entry_of(loaded, Asked(prices=PRICES)) for loaded in runs]
    (group,) = groups_of(runs, entries)
    assert (group["not_reached"], group["not_valid"], group["seeds"]) == (["seed-4"], ["seed-5"], [1, 2, 3, 4, 5])
    assert (group["tta_s"]["median"], group["tta_s"]["minimum"], group["tta_s"]["maximum"]) == (28.0, 20.0, 38.0)
    assert group["tta_s"]["olympic"]["value"] == 33.0 and "did not converge" in group["tta_s"]["olympic"]["why"]
    assert group["epochs"]["counts"] == [2, 3, 4]
    assert group["cost"]["median"] == pytest.approx(28 / 3600 * 0.5)
    text = tta_text(entries, [group])
    assert "5 trainings that differ in their seed: digits, resnet8" in text
    assert "did not reach the target: seed-4" in text and "not valid, and not counted: seed-5" in text
    json.dumps(group, allow_nan=False)


def test_two_that_did_not_converge_make_it_invalid_and_another_loader_another_group(report_make: Make) -> None:
    runs = [trained(report_make, 1), trained(report_make, 2), trained(report_make, 3, reached=False), trained(report_make, 4, reached=False)]
    entries = [entry_of(loaded, Asked()) for loaded in runs]
    assert groups_of(runs, entries)[0]["tta_s"]["olympic"]["value"] is None
    other = replace(runs[1], run={**runs[1].run, "config": {**runs[1].run["config"], "loader": {"name": "files"}}})
    assert groups_of([runs[0], other], entries[:2]) == []
    assert groups_of([emulated(report_make)], [entry_of(emulated(report_make), Asked())]) == []


@pytest.mark.parametrize(
    ("reference", "epochs", "passed", "mean", "floor", "speedup"),
    [
        ((16, 14, 16, 17, 16, 16, 15, 16, 15, 16), (15, 15, 15, 16, 16), True, 15.33, 15.21, 3.53),
        ((20, 21, 21, 20, 22, 22, 21, 21, 20, 20), (19, 19, 19, 20, 21), False, 19.33, 19.93, 4.12),
    ],
)
def test_convergence_against_a_reference(
    report_make: Make, reference: tuple[int, ...], epochs: tuple[int, ...], passed: bool, mean: float, floor: float, speedup: float
) -> None:
    """The rules' own examples (training_rules.adoc, appendix; reference tta-cost-kubeflow.md section 1). An epoch takes 10 s here."""
    runs = [trained(report_make, seed, tuple(10.0 * epoch for epoch in range(1, count + 1))) for seed, count in enumerate(epochs)]
    entries = [entry_of(loaded, Asked()) for loaded in runs]
    (group,) = groups_of(runs, entries, reference)
    found = group["convergence"]
    assert found["passed"] is passed and found["mean_epochs"] == pytest.approx(mean, abs=0.005)
    assert found["fewest_epochs"] == pytest.approx(floor, abs=0.005) and 100 * (found["max_speedup"] - 1) == pytest.approx(speedup, abs=0.005)
    assert found["normalised_s"] == (pytest.approx(10 * found["reference_mean"]) if passed else None)
    lines = [" ".join(line.split()) for line in tta_text(entries, [group]).splitlines()]
    assert f"allowed {floor} epochs at least, a speed-up of {speedup}% at most (one-sided t-test, p = 0.05, 5 runs)" in lines
    said = [line for line in lines if line.startswith(("convergence", "normalised"))]
    if passed:
        assert said == ["convergence PASS: mean 15.33 epochs", "normalised time 2.62 min (olympic mean x 1.0272)"]
    else:
        assert said == ["convergence FAIL: mean 19.33 epochs, fewer than is allowed: the trainings are not those of the reference"]
    json.dumps(group, allow_nan=False)


def test_what_cannot_be_judged_says_why(report_make: Make) -> None:
    runs = [trained(report_make, 1), trained(report_make, 2), trained(report_make, 3, reached=False), trained(report_make, 4, reached=False)]
    entries = [entry_of(loaded, Asked()) for loaded in runs]
    (two,) = groups_of(runs[:2], entries[:2], (3, 3, 3))
    assert two["convergence"]["passed"] is None and "not judged: 2 valid trainings are too few" in tta_text(entries[:2], [two])
    (missed,) = groups_of(runs, entries, (3, 3, 3))
    assert missed["convergence"]["passed"] is False and "FAIL: invalid: 2 runs did not converge" in tta_text(entries, [missed])
    assert groups_of(runs, entries)[0]["convergence"] is None
    with pytest.raises(UsageError, match="--reference-epochs has 2 runs, and 1 on either side do not count"):
        groups_of(runs, entries, (3, 3))
    with pytest.raises(UsageError, match="no two among these runs"):
        groups_of(runs[:1], entries[:1], (3, 3, 3))


def test_text_of_a_projection(report_make: Make) -> None:
    text = tta_text([entry_of(emulated(report_make), Asked(prices=PRICES, edition="v0.7"))], [])
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "time to accuracy, projected: run-a: train-resnet50, 2 x h100, direct over posix"
    assert "33 epochs (fewest) 41 epochs (most)" in lines
    assert "time to accuracy 11.7 h 14.6 h" in lines
    assert "without stalls 9.40 h 11.7 h" in lines
    assert "price: h100 3 EUR per accelerator and hour (an offer, 2026-10-01)" in lines
    assert "stall share 20.0%" in lines
    assert "evaluation left out" in lines


def test_a_run_that_is_not_valid_is_marked_everywhere(report_make: Make) -> None:
    entry = entry_of(emulated(report_make, valid=False), Asked())
    text = tta_text([entry], [])
    assert "INVALID: do not use these numbers" in text and "12.5 h !" in text and "!  the number is false" in text
    (row,) = csv.DictReader(io.StringIO(tta_csv([entry])))
    assert row["valid"] == "false"
    warned = entry_of(emulated(report_make, findings=[{"severity": "warning", "code": "X", "message": "", "hint": ""}]), Asked())
    assert "12.5 h ~" in tta_text([warned], [])


def test_csv_has_a_row_for_each_number_of_epochs(report_make: Make) -> None:
    entries = [
        entry_of(emulated(report_make), Asked(prices=PRICES, edition="v0.7")),
        entry_of(emulated(report_make, "resnet50"), Asked(prices=PRICES)),
    ]
    rows = list(csv.DictReader(io.StringIO(tta_csv(entries))))
    assert [(row["workload"], row["which"], row["epochs"]) for row in rows] == [
        ("train-resnet50", "fewest", "33"), ("train-resnet50", "most", "41"), ("resnet50", "", ""),
    ]  # fmt: skip
    assert float(rows[0]["cost_total"]) == entries[0]["points"][0]["cost"]["total"] and rows[0]["currency"] == "EUR"
    assert rows[0]["target_date"] == "2020-07-29" and rows[2]["target_metric"] == rows[2]["tta_s"] == rows[2]["cost_total"] == ""


def test_control_characters_do_not_reach_the_terminal(report_make: Make) -> None:
    loaded = emulated(report_make, run_id="a\x1b[31mb")
    assert "\x1b" not in tta_text([entry_of(loaded, Asked())], [])


def test_dawnbench_s_files_of_a_training(report_make: Make) -> None:
    table, text = dawnbench_files(trained(report_make), 0.5)
    found = dawnbench.read_table(table)
    assert [row.epoch for row in found.rows] == [1, 2, 3]
    row = found.first_at(dawnbench.Threshold(dawnbench.TOP1, 97.0))
    assert row is not None and row.time_s == pytest.approx(28.0) and row.qualities[0] == pytest.approx(98.0)
    entry = json.loads(text)
    assert (entry["model"], entry["costPerHour"], entry["misc"]["seed"], entry["author"]) == ("resnet8", 0.5, 1, "")
    assert len(entry["timestamp"]) == 10 and "costPerHour" not in json.loads(dawnbench_files(trained(report_make), None)[1])


def test_the_log_of_a_training_is_read_again(report_make: Make) -> None:
    found = mllog.training_of(mllog.read_events(mllog_text(trained(report_make, 7)).splitlines()))
    assert (found.benchmark, found.seed, found.success, found.epoch_starts) == ("digits", 7, True, 3)
    assert found.time_s == pytest.approx(28.0, abs=2e-3)
    first = found.first_at(0.97)
    assert first is not None and first.epoch == 3 and first.time_s == pytest.approx(28.0, abs=2e-3)
    loaded = trained(report_make, reached=False)
    aborted = mllog.training_of(mllog.read_events(mllog_text(loaded).splitlines()))
    assert not aborted.success and aborted.time_s == pytest.approx(28.0, abs=2e-3)
    stamps = [event.time_ms for event in mllog.read_events(mllog_text(loaded).splitlines())]
    assert stamps == sorted(stamps)


def test_only_a_training_is_written_as_one(report_make: Make) -> None:
    for write in (lambda loaded: dawnbench_files(loaded, None), mllog_text):
        with pytest.raises(UsageError, match="learns nothing"):
            write(emulated(report_make))
        unfinished = trained(report_make)
        unfinished.summary["training"]["curve"][-1]["accuracy"] = None
        with pytest.raises(UsageError, match="without an evaluation"):
            write(unfinished)


def test_the_command(report_make: Make, report_write: Callable[[Path, LoadedRun], Path], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from storagebench.commands.report import command

    run_dir = report_write(tmp_path, report_make(compute_ms=20.0))
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: USD\naccelerators:\n  h100: {value: 2, source: here, date: 2026-11-27}\n")

    def report(*options: str) -> Any:
        return CliRunner().invoke(command, [str(run_dir), *options])

    text = report("--tta", "--epochs-to-target", "3,4")
    assert text.exit_code == 0 and "4 epochs (most)" in text.stdout and HOW_TO_PRICE in text.stdout
    found = json.loads(report("--tta", "--epochs-to-target", "3", "--prices", str(prices), "--json").stdout)
    assert found["groups"] == [] and found["runs"][0]["points"][0]["cost"]["total"] > 0
    assert report("--tta", "--csv").stdout.count("\n") == 2
    for options, says in (
        (("--prices", str(prices)), "--prices belongs to --tta"),
        (("--tta", "--epochs-to-target", "3;4"), "no list of counts"),
        (("--tta", "--epochs-to-target", "0"), "no list of counts"),
        (("--tta", "--dawnbench", str(tmp_path / "e.tsv")), "learns nothing"),
        (("--tta", "--prices", str(tmp_path / "no.yaml")), "cannot be read"),
        (("--tta", "--prices", str(prices), "--epochs-to-target", "3", "--accelerator-price", "b200"), "none for accelerator 'b200'"),
    ):
        broken = report(*options)
        assert isinstance(broken.exception, UsageError) and says in broken.exception.message, (options, broken.exception)
    assert not (tmp_path / "e.tsv").exists()


def test_mlcommons_own_parser_reads_the_log(report_make: Make, tmp_path: Path) -> None:
    parser = pytest.importorskip("mlperf_logging.compliance_checker.mlp_parser")
    path = tmp_path / "result_0.txt"
    path.write_text(mllog_text(trained(report_make)))
    lines, errors = parser.parse_file(str(path), "3.0.0")
    assert errors == [] and [line.key for line in lines].count("eval_accuracy") == 3
    assert lines[-1].key == "run_stop" and lines[-1].value["metadata"]["status"] == "success"
