"""What people type: sizes, durations, workloads, overrides. Bad input is refused with the name, the value, the bound and the next action."""

from __future__ import annotations

from pathlib import Path

import pytest

from storagebench.configfile import known_workloads, load_workload
from storagebench.errors import UsageError, did_you_mean
from storagebench.units import format_bytes, format_seconds, parse_duration, parse_size
from storagebench.workload import option_fields


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("20MB", 20_000_000),
        ("1.5GiB", 1_610_612_736),
        ("10 GB", 10**10),
        ("1e6", 10**6),
        ("7kib", 7168),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1_000", "0x10", "nan", "inf", "1e309", "1.2.3GB", "5 parsecs", "٣MB", str(2**63), "9e18GB", "GB"])
def test_bad_sizes_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("text", "seconds"), [("323ms", 0.323), ("2.5", 2.5), ("10min", 600.0), ("0", 0.0), ("1h", 3600.0), ("5us", 5e-6)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "1e999", "abc", "1 fortnight"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (146_600_628, "147 MB"), (10**9, "1 GB"), (999_999, "1 MB"), (99_960, "100 kB")]
)
def test_bytes_are_printed_in_decimal_units(value: int, text: str) -> None:
    assert format_bytes(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0 s"), (0.323, "323 ms"), (1.3604, "1.36 s"), (12e-6, "12 us"), (3e-9, "3 ns")])
def test_seconds_are_printed_with_the_unit_that_fits(value: float, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize("name", known_workloads())
def test_shipped_workloads_load(name: str) -> None:
    configured = load_workload(name)
    assert configured.workload.name == name
    assert configured.workload.source
    consumer = "query.qsl_samples" if name.startswith("inference-") else "train.batch_size"
    assert configured.provenance[consumer].startswith(f"{name}.yaml:")


@pytest.mark.parametrize(
    ("name", "accelerator", "batch", "compute", "record", "au"),
    [
        ("unet3d", "a100", 7, 0.636, 146_600_628, 0.9),
        ("unet3d", "h100", 7, 0.323, 146_600_628, 0.9),
        ("unet3d", "b200", 7, 0.162, 146_600_628, 0.9),
        ("resnet50", "a100", 400, 0.435, 114_660, 0.9),
        ("resnet50", "h100", 400, 0.224, 114_660, 0.9),
        ("cosmoflow", "a100", 1, 0.00551, 2_828_486, 0.7),
        ("cosmoflow", "h100", 1, 0.0035, 2_828_486, 0.7),
    ],
)
def test_workloads_say_what_mlperf_says(name: str, accelerator: str, batch: int, compute: float, record: int, au: float) -> None:
    """Numbers and sources: reference/workloads.md section 1."""
    workload = load_workload(name, [("run.accelerator", accelerator, "test")]).workload
    assert workload.compute_time_of_step_s() == compute
    assert (workload.train.batch_size, workload.dataset.record_length_bytes, workload.train.au_threshold) == (batch, record, au)


def test_all_problems_are_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("name: w\ntrian:\n  epochs: 3\ndataset:\n  num_sample: 5\n  seed: 1\n  seed: 2\n")
    with pytest.raises(UsageError) as caught:
        load_workload(str(path))
    message = caught.value.message
    assert "w.yaml:2: unknown key 'trian': did you mean 'train'?" in message
    assert "w.yaml:5: unknown key 'dataset.num_sample': did you mean 'num_samples'?" in message
    assert "w.yaml:7: key dataset.seed stands twice" in message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.epoch", 3, "did you mean 'epochs'?"),
        ("batch_size", 3, "write train.batch_size"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("train.epochs", "many", "given: 'many'"),
        ("run.cache", "hot", "'cold', 'warm', 'direct' or 'as-is'"),
        ("dataset.record_length_bytes", "5 parsecs", "size '5 parsecs'"),
        ("name.x", 1, "single value"),
        ("dataset.record_length_bytes_stdev", "1TB", "over record_length_bytes"),
    ],
)
def test_bad_overrides_name_key_value_and_bound(key: str, value: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_workload("quick", [(key, value, "--set")])
    assert words in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "name: !!python/object:os.system x\n",
        "- 1\n",
        "name: [\n",
        "x: " * 3 + "\n",
        "{" * 2000,
        "name: w\n<<: {}\n",
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        load_workload(str(path))


def test_large_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("name: w\n#" + "x" * 2**20)
    with pytest.raises(UsageError, match="over the limit"):
        load_workload(str(path))


def test_an_unknown_accelerator_names_the_known_ones() -> None:
    workload = load_workload("unet3d", [("run.accelerator", "v100", "test")]).workload
    with pytest.raises(UsageError) as caught:
        workload.compute_time_of_step_s()
    assert "a100, b200, h100" in caught.value.message


def test_every_option_is_one_field_with_a_help_text() -> None:
    table = option_fields()
    assert all(info.description for _, _, info in table.values())
    assert len({(section, name) for section, name, _ in table.values()}) == len(table)


def test_suggestions() -> None:
    assert did_you_mean("parqet", ["parquet", "files"]) == "did you mean 'parquet'?"
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
