"""Prices carry source and date; a table's mistakes are told with file and line; what is missing is asked for. So it is with quality targets."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from storagebench.configfile import known_workloads, load_workload
from storagebench.errors import UsageError
from storagebench.model.prices import read_prices
from storagebench.workload import Target

ROOT = Path(__file__).parents[2]
GOOD = """\
currency: EUR
accelerators:
  h100: {value: 2, source: our offer, date: 2026-10-01}
storage:
  per_gb_read: {value: 0.01, source: our offer, date: 2026-10-02}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text)
    return path


def test_a_table_is_read_as_it_stands(tmp_path: Path) -> None:
    prices = read_prices(write(tmp_path, GOOD))
    price = prices.accelerator("h100")
    assert (prices.currency, price.value, price.source, price.date) == ("EUR", 2.0, "our offer", date(2026, 10, 1))
    assert (prices.storage.per_gb_month, prices.storage.per_gb_read is not None) == (None, True)


def test_a_missing_price_says_what_to_add(tmp_path: Path) -> None:
    prices = read_prices(write(tmp_path, GOOD))
    with pytest.raises(UsageError, match=r"none for accelerator 'a100' \(they have: h100\)") as caught:
        prices.accelerator("a100")
    assert "add accelerators.a100 with value, source and date" in caught.value.hint
    with pytest.raises(UsageError, match="has no name"):
        prices.accelerator("")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("currency: EUR\n", "", r"prices.yaml: currency: is missing"),
        (", date: 2026-10-01", "", r"prices.yaml:3: accelerators.h100.date: is missing"),
        ("source: our offer, date: 2026-10-01", "source: '', date: 2026-10-01", r"prices.yaml:3: accelerators.h100.source"),
        ("value: 2,", "value: -2,", r"prices.yaml:3: accelerators.h100.value: .*greater than or equal to 0.*-2"),
        ("value: 2,", "value: '2',", r"prices.yaml:3: accelerators.h100.value: .*valid number"),
        ("value: 2,", "value: .nan,", r"prices.yaml:3: accelerators.h100.value"),
        ("value: 2,", "value: .inf,", r"prices.yaml:3: accelerators.h100.value: .*finite"),
        ("value: 2,", "value: true,", r"prices.yaml:3: accelerators.h100.value: .*valid number"),
        ("date: 2026-10-01", "date: last year", r"prices.yaml:3: accelerators.h100.date: .*last year"),
        ("value: 2,", "value: 2, valu: 3,", r"prices.yaml:3: unknown key 'accelerators.h100.valu'.*did you mean 'value'"),
        ("value: 2,", "value: 2, value: 3,", r"prices.yaml:3: key accelerators.h100.value stands twice"),
        ("per_gb_read", "per_gb_reed", r"prices.yaml:5: unknown key 'storage.per_gb_reed'.*did you mean 'per_gb_read'"),
        ("storage:", "storag:", r"prices.yaml:4: unknown key 'storag'"),
        ("currency: EUR", "currency: {a: b}", r"key 'currency.a' goes below a single value"),
        ("h100: {value: 2, source: our offer, date: 2026-10-01}", "h100: 2", r"prices.yaml:3: accelerators.h100: .*\(given: '2'\)"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=says):
        read_prices(write(tmp_path, GOOD.replace(old, new)))


def test_a_table_is_only_data(tmp_path: Path) -> None:
    for text in ("!!python/object/apply:os.system [true]", "a: &x 1\nb: *x", "- 1", "{", "\x00"):
        with pytest.raises(UsageError):
            read_prices(write(tmp_path, text))
    with pytest.raises(UsageError, match="cannot be read"):
        read_prices(tmp_path / "nothing.yaml")


def test_the_example_has_every_key_and_says_that_it_is_one() -> None:
    path = ROOT / "docs" / "prices.yaml"
    prices = read_prices(path)
    assert {"v100", "cpu"} <= set(prices.accelerators)
    rows = [*prices.accelerators.values(), prices.storage.per_gb_month, prices.storage.per_gb_read, prices.storage.per_request]
    assert all(row is not None and row.source.startswith("EXAMPLE: ") for row in rows)
    assert path.read_text().startswith("# An EXAMPLE of prices")


def test_every_target_that_ships_has_source_and_date() -> None:
    targets = {(name, edition): target for name in known_workloads() for edition, target in load_workload(name).workload.train.targets.items()}
    assert len(targets) >= 15
    for target in targets.values():
        assert target.source and date(2018, 1, 1) <= target.date <= date(2026, 12, 31)
    rn50 = targets["train-resnet50", "v0.7"]
    assert (rn50.value, rn50.epochs, rn50.date) == (0.759, (33, 41), date(2020, 7, 29)) and "833e1e3" in rn50.source


def test_a_target_without_source_or_date_or_with_epochs_the_wrong_way_round_is_refused() -> None:
    good = {"metric": "accuracy", "value": 0.9, "epochs": [2, 3], "source": "here", "date": "2026-11-27"}
    for broken in ({"source": ""}, {"date": None}, {"epochs": [3, 2]}, {"epochs": [0, 2]}, {"value": float("nan")}, {"more": 1}):
        with pytest.raises(ValidationError):
            Target.model_validate({**good, **broken})
    for missing in ("source", "date"):
        with pytest.raises(ValidationError, match="Field required"):
            Target.model_validate({key: value for key, value in good.items() if key != missing})


def test_a_target_survives_the_way_through_a_run_folder() -> None:
    """A run's configuration is JSON, plainly dumped by some verbs."""
    workload = load_workload("train-resnet50").workload
    for mode in ("python", "json"):
        dumped = json.loads(json.dumps(workload.model_dump(mode=mode)))
        assert dumped["train"]["targets"]["v0.5"]["date"] == "2018-11-01"
        assert type(workload).model_validate(dumped) == workload
