"""What people type: sizes, durations, workloads, overrides. Bad input is refused with the name, the value, the bound and the next action."""

from __future__ import annotations

from pathlib import Path

import pytest

from storagebench.configfile import known_workloads, load_workload, variants
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


# Published demand of one accelerator, samples/s and MB/s: reference/workloads.md, section 1 (rows of the first table), 2 and 5. Section 5 gives GB/s of a node
# of 8, rounded: here as text; None where it gives a bound only.
PUBLISHED = [
    ("unet3d", "mlperf-storage", "v100", 2.94, 431),
    ("unet3d", "mlperf-storage", "a100", 11.01, 1613.5),
    ("unet3d", "mlperf-storage", "h100", 21.67, 3177.1),
    ("unet3d", "mlperf-storage", "b200", 43.21, 6334.6),
    ("unet3d", "mlperf-training", "h100", 70.0, None),
    ("bert", "mlperf-storage", "v100", 49.6, 0.124),
    ("resnet50", "mlperf-storage", "a100", 919.5, 105.4),
    ("resnet50", "mlperf-storage", "h100", 1785.7, 204.8),
    ("resnet50", "mlperf-training", "a100", 2816, 322.9),
    ("resnet50", "mlperf-training", "h100", 7009, 803.7),
    ("cosmoflow", "mlperf-storage", "a100", 181.5, 513.3),
    ("cosmoflow", "mlperf-storage", "h100", 285.7, 808.1),
    ("retinanet", "mlperf-storage", "b200", 504.7, 163.0),
    ("retinanet", "mlperf-storage", "mi355", 504.7, 163.0),
    ("retinanet", "mlperf-training", "h100", 277, None),
    ("flux", "mlperf-storage", "b200", 35.56, 77.0),
    ("flux", "mlperf-storage", "mi355", 35.56, 77.0),
    ("dlrm", "mlperf-storage", "b200", 43.69e6, 33249),
    ("dlrm", "mlperf-storage", "mi355", 29.13e6, 22166),
    ("dlrm-columns", "mlperf-storage", "b200", 43.69e6, 6990),
    ("dlrm-columns", "mlperf-storage", "mi355", 29.13e6, 4660),
    ("train-resnet50", "mlperf-training", "v100", 1397, "1.29"),
    ("train-resnet50", "mlperf-training", "a100", 2816, "2.60"),
    ("train-resnet50", "mlperf-training", "h100", 7009, "6.47"),
    ("train-ssd-resnet34", "mlperf-training", "v100", 601, "0.79"),
    ("train-ssd-resnet34", "mlperf-training", "a100", 1228, "1.61"),
    ("train-mask-rcnn", "mlperf-training", "v100", 25.3, "0.033"),
    ("train-mask-rcnn", "mlperf-training", "a100", 50.2, "0.066"),
    ("train-mask-rcnn", "mlperf-training", "h100", 186.7, "0.244"),
    ("train-gnmt", "mlperf-training", "v100", 1800, None),
    ("train-gnmt", "mlperf-training", "a100", 4305, None),
    ("train-transformer", "mlperf-training", "v100", 1638, None),
    ("train-transformer", "mlperf-training", "a100", 3818, None),
    ("train-ncf", "mlperf-training", "v100", 11.8e6 / 131_072, None),  # a record is of a batch
]
# No published step time is behind these.
UNPUBLISHED = {"quick"}


@pytest.mark.parametrize(("name", "profile", "accelerator", "samples_per_s", "mb_per_s"), PUBLISHED, ids=lambda value: str(value))
def test_demand_is_the_published_one(name: str, profile: str, accelerator: str, samples_per_s: float, mb_per_s: float | str | None) -> None:
    workload = load_workload(name, [("train.profile", profile, "test"), ("run.accelerator", accelerator, "test")]).workload
    found = workload.train.batch_size / workload.compute_time_of_step_s()
    assert found == pytest.approx(samples_per_s, rel=0.005)
    if isinstance(mb_per_s, str):
        digits = len(mb_per_s.partition(".")[2])
        assert f"{8 * found * workload.dataset.record_length_bytes / 1e9:.{digits}f}" == mb_per_s
    elif mb_per_s is not None:
        assert found * workload.dataset.record_length_bytes / 1e6 == pytest.approx(mb_per_s, rel=0.005)


def test_every_accelerator_of_every_workload_is_pinned() -> None:
    found = {
        (one.name, one.train.profile, one.run.accelerator)
        for name in known_workloads()
        if name not in UNPUBLISHED
        for one in variants(name)
        if one.run.accelerator
    }
    assert found == {row[:3] for row in PUBLISHED}


# MLPerf Inference v0.5, reference/workloads.md section 6: samples/s of 8 T4 in Offline, and GB/s of their JPEG source (None where none is given).
PUBLISHED_QUERIES = [
    ("inference-resnet50", 44_978, "6.1"),
    ("inference-mobilenet", 141_807, "19.1"),
    ("inference-ssd-mobilenet", 60_872, "9.9"),
    ("inference-ssd-resnet34", 1_095, "0.18"),
    ("inference-gnmt", 2_835, None),
]


@pytest.mark.parametrize(("name", "samples_per_s", "gb_per_s"), PUBLISHED_QUERIES)
def test_demand_of_queries_is_the_published_one(name: str, samples_per_s: float, gb_per_s: str | None) -> None:
    workload = load_workload(name).workload
    assert workload.query.offline_samples_per_s["t4"] * 8 == pytest.approx(samples_per_s, rel=0.005)
    if gb_per_s is not None:
        digits = len(gb_per_s.partition(".")[2])
        assert f"{samples_per_s * workload.dataset.record_length_bytes / 1e9:.{digits}f}" == gb_per_s


def test_layers_lie_over_one_another_and_options_over_all(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(
        "name: w\ntrain: {batch_size: 1, epochs: 9, compute_time_s: {a: 1.0, b: 2.0}}\naccelerators:\n  b:\n    train: {batch_size: 2}\n"
        "profiles:\n  fast:\n    train:\n      compute_time_s: {b: 0.5}\n    accelerators:\n      b: {train: {epochs: 4}}\n"
    )

    def batch_epochs_step(*overrides: tuple[str, object]) -> tuple[int, int, float]:
        workload = load_workload(str(path), [(key, value, "--x") for key, value in overrides]).workload
        return workload.train.batch_size, workload.train.epochs, workload.compute_time_of_step_s()

    fast, accelerator = ("train.profile", "fast"), ("run.accelerator", "b")
    assert batch_epochs_step(("run.accelerator", "a")) == (1, 9, 1.0)
    assert batch_epochs_step(accelerator) == (2, 9, 2.0)
    assert batch_epochs_step(fast, accelerator) == (2, 4, 0.5)
    assert batch_epochs_step(fast, accelerator, ("train.batch_size", 7), ("train.epochs", 3)) == (7, 3, 0.5)
    configured = load_workload(str(path), [(*fast, "--profile"), (*accelerator, "--accelerator")])
    assert configured.workload.train.profile == "fast"
    assert configured.provenance["train.batch_size"] == "w.yaml:5" and configured.provenance["train.epochs"] == "w.yaml:11"
    assert [(one.train.profile, one.run.accelerator) for one in variants(str(path))] == [
        ("mlperf-storage", "a"),
        ("mlperf-storage", "b"),
        ("fast", "b"),
    ]
    with pytest.raises(UsageError, match=r"no profile 'slow'") as caught:
        load_workload(str(path), [("train.profile", "slow", "--profile")])
    assert caught.value.hint == "it has mlperf-storage, fast"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: w\nprofiles: 3\n", "'profiles' holds '3'"),
        ("name: w\nprofiles: {mlperf-storage: [1]}\n", "holds '[1]'"),
        ("name: w\nprofiles:\n  p:\n    train: {epoch: 3}\n", "w.yaml:4: unknown key 'train.epoch': did you mean 'epochs'?"),
        ("name: w\naccelerators:\n  x:\n    trian: {}\n", "w.yaml:4: unknown key 'trian'"),
        ("name: w\naccelerators: {x: {profiles: {y: {name: z}}}}\nprofiles: {mlperf-storage: {profiles: {q: {}}}}\n", "profiles"),
    ],
)
def test_bad_layers_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_workload(str(path))
    assert words in caught.value.message


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
    workload = load_workload("unet3d", [("run.accelerator", "p100", "test")]).workload
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
