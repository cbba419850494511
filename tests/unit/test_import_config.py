"""Workload files of DLIO and mlpstorage become ours: each key is carried over, asks for what happens anyway, or is named. None is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from storagebench.configfile import load_workload
from storagebench.dlio import keys
from storagebench.dlio.convert import Conversion, convert
from storagebench.dlio.text import facts, report_text, yaml_text
from storagebench.errors import UsageError
from storagebench.plan import make_plan

DATA = Path(__file__).parents[1] / "data" / "dlio"
RELEASE = sorted((DATA / "release-2.0.0").glob("*.yaml"))
MLPSTORAGE = sorted((DATA / "mlpstorage").glob("*.yaml"))
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "theirs.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def leaf_keys(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Keys that have no mapping below them, by an independent reading of the file."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(leaf_keys(value, f"{above}{key}.") if isinstance(value, dict) else {above + str(key): value})
    return leaves


def fate_of(conversion: Conversion, key: str) -> dict[str, str]:
    return {fate.status: fate.text for fate in conversion.fates if fate.key == key}


def test_the_release_is_all_there() -> None:
    assert len(RELEASE) == 14
    assert len(MLPSTORAGE) == 3


@pytest.mark.parametrize("path", [*RELEASE, *MLPSTORAGE], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_key_is_lost_and_the_workload_loads_and_plans(path: Path, tmp_path: Path) -> None:
    conversion = convert(path)
    theirs = leaf_keys(yaml.safe_load(path.read_text()))
    assert {fate.key for fate in conversion.fates} == set(theirs)
    lines = path.read_text().splitlines()
    for fate in conversion.fates:
        assert lines[fate.line - 1].strip().startswith(fate.key.rpartition(".")[2] + ":")
        assert fate.value == theirs[fate.key]
        assert fate.text
        assert fate.status == "implied" or fate.field or fate.instead
    ours = tmp_path / "ours.yaml"
    ours.write_text(yaml_text(conversion))
    loaded = load_workload(str(ours)).workload
    assert loaded == conversion.workload
    files, per_file = theirs["dataset.num_files_train"], theirs["dataset.num_samples_per_file"]
    assert make_plan(loaded, 1).samples_per_epoch + make_plan(loaded, 1).dropped_samples_per_epoch == files * per_file


@pytest.mark.parametrize(
    ("name", "samples_per_s", "mb_per_s"), [("unet3d_h100", 21.67, 3177.1), ("resnet50_h100", 1785.7, 204.8), ("cosmoflow_h100", 285.7, 808.1)]
)
@pytest.mark.parametrize("folder", ["release-2.0.0", "mlpstorage"])
def test_the_demand_is_the_published_one(folder: str, name: str, samples_per_s: float, mb_per_s: float) -> None:
    """Published: batch / compute time, times the record's bytes (MLPerf Storage v1.0 and v2.0, one H100)."""
    plan = make_plan(convert(DATA / folder / f"{name}.yaml").workload, 1)
    assert plan.demand_samples_per_s == pytest.approx(samples_per_s, rel=0.001)
    assert plan.demand_bytes_per_s == pytest.approx(mb_per_s * 1e6, rel=0.001)


def test_unet3d_field_by_field() -> None:
    workload = convert(DATA / "mlpstorage" / "unet3d_h100.yaml").workload
    data, loader, train = workload.dataset, workload.loader, workload.train
    assert (workload.name, data.format, data.num_samples, data.record_length_bytes) == ("unet3d", "npz", 168, 146_600_628)
    assert (data.record_length_bytes_stdev, data.record_length_bytes_resize) == (68_341_808, 2_097_152)
    # DLIO's torch loader: ceil(2 / 4) = 1 batch ahead in each of 4 workers.
    assert (loader.name, loader.num_workers, loader.prefetch_batches, loader.shuffle) == ("files", 4, 4, True)
    assert (train.batch_size, train.epochs, train.compute_time_s, train.au_threshold) == (7, 5, {"h100": 0.323}, 0.9)
    assert workload.run.accelerator == "h100"


def test_shards_rounding_and_buffers() -> None:
    resnet = convert(DATA / "mlpstorage" / "resnet50_h100.yaml")
    assert resnet.workload.dataset.samples_per_shard == 1251
    assert resnet.workload.dataset.record_length_bytes == 114_660
    assert "rounded" in fate_of(resnet, "dataset.record_length_bytes")["carried"]
    assert not resnet.workload.loader.shuffle
    cosmoflow = convert(DATA / "mlpstorage" / "cosmoflow_h100.yaml").workload
    assert cosmoflow.loader.shuffle_buffer == 2
    assert cosmoflow.loader.prefetch_batches == 2


def test_what_is_beyond_our_bounds_is_carried_as_the_bound_and_named() -> None:
    megatron = convert(DATA / "release-2.0.0" / "megatron_deepspeed.yaml")
    assert megatron.workload.train.epochs == 100_000
    assert set(fate_of(megatron, "train.epochs")) == {"carried", "not carried"}
    assert "311541" in fate_of(megatron, "train.epochs")["not carried"]


def test_unknown_keys_are_errors_all_at_once_with_line_and_suggestion(write: Write) -> None:
    path = write(
        "framework: pytorch\nreader:\n  batchsize: 4\ntrian:\n  epochs: 2\ndataset:\n  batch_size: 3\n  parquet: {columns: [{nane: x}]}\nnonsense: 1\n"
    )
    with pytest.raises(UsageError) as caught:
        convert(path)
    message = caught.value.message
    assert "theirs.yaml:3: DLIO has no key 'reader.batchsize': did you mean 'reader.batch_size'?" in message
    assert "theirs.yaml:5: DLIO has no key 'trian.epochs': did you mean 'train.epochs'?" in message
    assert "theirs.yaml:7: DLIO has no key 'dataset.batch_size': did you mean 'reader.batch_size'?" in message
    assert "theirs.yaml:8: DLIO has no key 'dataset.parquet.columns.-.nane': columns have dtype, name, read, size" in message
    assert "theirs.yaml:9: DLIO has no key 'nonsense': its sections are " in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {epochs: many}", "theirs.yaml:1: train.epochs is 'many', and must be a number"),
        ("train: {epochs: 1.5}", "a whole number"),
        ("dataset: {num_files_train: 0}", "1 or more"),
        ("dataset: {format: tar}", "one of tfrecord, hdf5"),
        ("dataset: {num_samples_per_file: true}", "a number"),
        ("dataset: {record_dims: [0]}", "a list of whole numbers"),
        ("dataset: {record_dims: [4], record_element_type: quad}", "an element type"),
        ("reader: {sample_shuffle: maybe}", "one of off, seed, random"),
        ("reader: {odirect: 1}", "true or false"),
        ("train: {computation_time: -1}", "0 or more"),
        ("train: {computation_time: {type: cauchy, mean: 1}}", "one of normal, uniform"),
        ("metric: {au: 90}", "0 to 1"),
        ("dataset: 5", "is a section of DLIO"),
        ("dataset: {num_files_train: ${files}}", "not YAML"),
        ("reader: {batch_size: '${batch}'}", "must be a number"),
        ("reader: {batch_size: 1}\ndata_reader: {batch_size: 2}", "are one key"),
        ("- a", "no mapping"),
    ],
)
def test_values_that_dlio_would_not_take_are_refused(write: Write, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(write(text))
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("0.25", 0.25),
        ("25e-2", 0.25),
        ("{mean: 0.25, stdev: 0.1}", 0.25),
        ("{type: normal, mean: 0.25, stdev: 0.1}", 0.25),
        ("{type: uniform, min: 0.1, max: 0.4}", 0.25),
        ("{type: gamma, shape: 2.5, scale: 0.1}", 0.25),
        ("{type: exponential, scale: 0.25}", 0.25),
        ("{type: poisson, lam: 2}", 2.0),
    ],
)
def test_compute_time_as_a_distribution_is_its_mean_and_the_rest_is_named(write: Write, given: str, seconds: float) -> None:
    conversion = convert(write(f"train: {{computation_time: {given}}}"))
    assert conversion.workload.compute_time_of_step_s() == pytest.approx(seconds)
    for part in ("type", "stdev"):
        if part in given:
            assert "not carried" in fate_of(conversion, f"train.computation_time.{part}")


def test_what_is_absent_has_dlios_default_not_ours(write: Write) -> None:
    workload = convert(write("framework: pytorch")).workload
    assert (workload.dataset.format, workload.dataset.num_samples, workload.dataset.record_length_bytes) == ("tfrecord", 8, 65536)
    assert (workload.train.batch_size, workload.train.epochs, workload.loader.num_workers, workload.loader.shuffle) == (1, 1, 1, False)
    assert workload.run.compute_time_s == 0.0


@pytest.mark.parametrize(
    ("word", "ours", "payload"), [("npz", "npz", "bytes"), ("npy", "npy", "bytes"), ("hdf5", "hdf5", "bytes"), ("jpeg", "jpeg", "jpeg"), ("png", "png", "png"), ("csv", "csv", "text"),
                                  ("indexed_binary", "indexed_binary", "bytes"), ("tfrecord", "tfrecord", "bytes"), ("parquet", "parquet", "bytes")]
)  # fmt: skip
def test_formats(write: Write, word: str, ours: str, payload: str) -> None:
    data = convert(write(f"dataset: {{format: {word}}}")).workload.dataset
    assert (data.format, data.payload) == (ours, payload)


def test_synthetic_files_hold_nothing_to_read(write: Write) -> None:
    conversion = convert(write("dataset: {format: synthetic}"))
    assert conversion.workload.loader.name == "null"
    assert "nothing is read" in fate_of(conversion, "dataset.format")["not carried"]


def test_keys_of_the_v3_engine(write: Write) -> None:
    text = """
model: {name: dlrm, type: recommender}
storage: {storage_type: s3, storage_root: bucket, storage_library: s3dlio, storage_options: {endpoint_url: http://x, access_key_id: AKIA, anything: 1}}
dataset:
  format: parquet
  num_files_train: 100
  num_samples_per_file: 50
  skip_listing: true
  compression: snappy
  parquet:
    row_group_size: 10
    columns: [{name: a, dtype: float32, size: 8}, {name: b, dtype: int8, read: false}]
reader: {data_loader: pytorch, odirect: true, transformed_record_dims: [4, 4], transformed_record_element_type: float32}
output: {metric: {exclude_start_steps: 3, exclude_end_steps: 0}}
"""
    conversion = convert(write(text))
    data, run = conversion.workload.dataset, conversion.workload.run
    assert (data.record_length_bytes, data.row_group_bytes, data.record_length_bytes_resize) == (33, 330, 64)
    assert (run.cache, run.listing, run.warmup_steps, conversion.workload.loader.name) == ("direct", "manifest", 3, "parquet")
    assert "1 columns are marked read: false" in fate_of(conversion, "dataset.parquet.columns")["not carried"]
    for key in ("storage.storage_library", "storage.storage_options.anything", "dataset.compression"):
        assert set(fate_of(conversion, key)) == {"not carried"}
    for text in (yaml_text(conversion), report_text(conversion), json.dumps(facts(conversion))):
        assert "AKIA" not in text


def test_keys_that_stand_in_their_files_and_that_nothing_reads(write: Write) -> None:
    text = "reader: {shuffle: true, endpoint_uris: [a], storage_options: {secret_access_key: hidden}}\ngenerator: {num_workers: 3}\ntrain: {total_eval_steps: 1}\n"
    conversion = convert(write(text))
    named = [fate.key for fate in conversion.of("not carried")]
    assert named == [
        "reader.shuffle",
        "reader.endpoint_uris",
        "reader.storage_options.secret_access_key",
        "generator.num_workers",
        "train.total_eval_steps",
    ]
    assert "hidden" not in yaml_text(conversion) + report_text(conversion)


def test_dimensions_give_the_length_and_the_length_is_then_named(write: Write) -> None:
    conversion = convert(write("dataset: {record_dims: [10, 20], record_element_type: float32, record_length_bytes: 5}"))
    assert conversion.workload.dataset.record_length_bytes == 800
    assert "not carried" in fate_of(conversion, "dataset.record_length_bytes")


def test_both_spellings_of_one_number(write: Write) -> None:
    conversion = convert(write("dataset: {record_length: 100, record_length_bytes: 200, record_length_stdev: 7}"))
    assert (conversion.workload.dataset.record_length_bytes, conversion.workload.dataset.record_length_bytes_stdev) == (200, 7)
    assert "another key" in fate_of(conversion, "dataset.record_length")["not carried"]


def test_hydras_wrapper_and_the_old_name_of_reader(write: Write) -> None:
    conversion = convert(write("workload:\n  data_reader: {batch_size: 5}\n  metric: {au: 0.8}\nhydra: {run: {dir: x}}\ndefaults: [{workload: y}]\n"))
    assert (conversion.workload.train.batch_size, conversion.workload.train.au_threshold) == (5, 0.8)
    assert fate_of(conversion, "workload.data_reader.batch_size").keys() == {"carried"}
    assert fate_of(conversion, "hydra.run.dir").keys() == fate_of(conversion, "defaults").keys() == {"not carried"}


def test_a_checkpoint_workload_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="only writes checkpoints"):
        convert(write("workflow: {train: false, checkpoint: true}\ncheckpoint: {fsync: true}\n"))


def test_hostile_text_stays_in_its_comment(write: Write, tmp_path: Path) -> None:
    conversion = convert(write('dataset: {file_prefix: "a\\nrun: {cache: direct}"}\nmodel: "x\\ny: 1 # \\u2028z"\n'))
    ours = tmp_path / "ours.yaml"
    ours.write_text(yaml_text(conversion))
    assert load_workload(str(ours)).workload == conversion.workload


def test_every_row_of_the_table_says_enough() -> None:
    for name, row in keys.KEYS.items():
        assert row.carried or (row.why and row.instead), name
        assert bool(row.same) == bool(row.same_for), name


def test_each_carried_key_alone_gets_a_fate(write: Write) -> None:
    """The table's `carried` and the functions that carry agree: `convert` proves it for a file, and here each key stands in one."""
    values = {"format": "npz", "data_loader": "pytorch", "record_element_type": "uint8", "transformed_record_element_type": "uint8", "au": 0.5,
              "file_shuffle": "seed", "sample_shuffle": "seed", "odirect": False, "skip_listing": False, "record_dims": [3], "transformed_record_dims": [3],
              "columns": [{"name": "a"}], "model": "m", "name": "m"}  # fmt: skip
    for name, row in keys.KEYS.items():
        if row.carried:
            *above, leaf = name.split(".")
            tree: Any = values.get(leaf, 2)
            for part in [leaf, *reversed(above)]:
                tree = {part: tree}
            conversion = convert(write(yaml.safe_dump(tree)))
            assert [fate.key for fate in conversion.fates].count(name) >= 1, name


def test_the_verb(cli_here: Callable[..., Any], tmp_path: Path) -> None:
    theirs, ours = str(DATA / "release-2.0.0" / "unet3d_h100.yaml"), tmp_path / "ours.yaml"
    done = cli_here("import-config", theirs, "--out", str(ours))
    assert done.returncode == 0, done.stderr
    assert "unet3d_h100.yaml:31: checkpoint.checkpoint_folder:" in done.stdout
    planned = cli_here("plan", str(ours), "--json")
    assert json.loads(planned.stdout)["plan"]["steps_per_epoch"] == 24
    again = cli_here("import-config", theirs, "--out", str(ours))
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    printed = cli_here("import-config", theirs)
    assert printed.stdout == ours.read_text()
    assert "not carried" in printed.stderr
    assert cli_here("import-config", str(tmp_path / "none.yaml")).returncode == 2
    rows = json.loads(cli_here("import-config", theirs, "--json").stdout)["keys"]
    assert {row["status"] for row in rows} == {"carried", "implied", "not carried"}
