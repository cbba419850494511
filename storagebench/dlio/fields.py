"""How each field of our workload follows from DLIO's keys. A function for each group of fields; all of them together carry every key that
`storagebench.dlio.keys` has as carried. Where a key is absent, DLIO's default counts, not ours: the file says what DLIO would do.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from storagebench.dlio.draft import Draft
from storagebench.registry import format_info, loaders
from storagebench.workload import PAYLOAD_OF_FORMAT

# DLIO's words. `hdf5_opt` has neither reader nor generator there; `synthetic` files hold their own number only.
FORMATS = {
    "tfrecord": "tfrecord", "hdf5": "hdf5", "hdf5_opt": "hdf5", "csv": "csv", "npz": "npz", "npy": "npy", "jpeg": "jpeg", "png": "png",
    "indexed_binary": "indexed_binary", "mmap_indexed_binary": "indexed_binary", "parquet": "parquet", "synthetic": "raw",
}  # fmt: skip
_LOADERS = ("tensorflow", "pytorch", "dali", "native_dali", "custom", "none", "synthetic")
_SHUFFLES = ("off", "seed", "random")
_MOST_SAMPLES, _LEAST_SHARDS, _LEAST_RECORD = 2**40, 64, 16
_ACCELERATOR = re.compile(r"_([a-z]{1,3}\d{2,4}[a-z]?)(?=_|$)")
_MEANS = {"mean": "normal", "min": "uniform", "max": "uniform", "shape": "gamma", "scale": "gamma", "lam": "poisson"}
DEFAULT_BATCH, DEFAULT_LENGTH = 1, 65536


def name_of(draft: Draft, stem: str) -> None:
    """The workload's name: the model's, or the file's."""
    key = "model.name" if draft.has("model.name") else "model"
    draft.carry("name", str(draft.get(key, stem)), [key], "the workload's name")


def container(draft: Draft) -> None:
    """dataset.format and .payload, samples, shards and subfolders."""
    words = [*FORMATS]
    word = draft.choice("dataset.format", "tfrecord", words)
    ours = FORMATS[word]
    draft.carry("dataset.format", ours, ["dataset.format"], "the same format" if word == ours else f"format {ours}")
    if word == "synthetic":
        draft.name("dataset.format", "synthetic files hold only their own number, and nothing is read of them", "loader.name null reads nothing")
    if word == "mmap_indexed_binary":
        draft.name("dataset.format", "DLIO's mapped reader never touches the bytes; here they are read", "as of indexed_binary")
    payload = PAYLOAD_OF_FORMAT.get(ours, "bytes")
    if payload != "bytes":
        draft.values["dataset.payload"], draft.origins["dataset.payload"] = payload, f"format {ours} holds {payload}"
    _samples(draft, ours)
    folders = draft.whole("dataset.num_subfolders_train", 0)
    if draft.has("dataset.num_subfolders_train"):  # DLIO makes none for 1
        draft.bounded("dataset.num_subfolders", folders if folders > 1 else 0, 0, 100_000, ["dataset.num_subfolders_train"], "as many subfolders")


def _samples(draft: Draft, format_name: str) -> None:
    keys = ["dataset.num_files_train", "dataset.num_samples_per_file"]
    files, per_file = draft.whole(keys[0], 8), draft.whole(keys[1], 1)
    for key, value in zip(keys, (files, per_file), strict=True):
        if value < 1 and draft.has(key):
            raise draft.bad(key, "1 or more")
    draft.bounded("dataset.num_samples", files * per_file, 1, _MOST_SAMPLES, keys, f"{files} files x {per_file} samples")
    single = format_info(format_name).one_sample_per_shard
    if single:
        draft.name(
            keys[1] if per_file > 1 else (), f"a file of format {format_name} holds one sample here", f"{files * per_file} files of one sample"
        )
    else:
        draft.carry("dataset.samples_per_shard", per_file, keys[1:], "as many samples in a shard")
        if files < _LEAST_SHARDS and files * per_file > files:
            draft.name(
                keys[0], f"a generated dataset has at least {_LEAST_SHARDS} shards", "measure DLIO's own files: `storagebench import --in-place`"
            )


def lengths(draft: Draft) -> None:
    """record_length_bytes, _stdev and _resize, out of either spelling, of dimensions, or of columns."""
    length, keys, how = _length(draft)
    whole = round(length)
    how += "" if whole == length else ", rounded to a whole byte"
    draft.bounded("dataset.record_length_bytes", whole, _LEAST_RECORD, 2**62, keys, how)
    kept = draft.values["dataset.record_length_bytes"]
    both = ("dataset.record_length", "dataset.record_length_bytes")
    draft.name([key for key in both if key not in keys], "another key gives the length of a record", f"dataset.record_length_bytes {kept}")
    for suffix, bound in (("stdev", kept), ("resize", 2**62)):
        names = [f"dataset.record_length_bytes_{suffix}", f"dataset.record_length_{suffix}"]
        used = next((name for name in names if draft.has(name)), None)
        if used is not None and not (suffix == "resize" and draft.get("reader.transformed_record_dims")):
            draft.bounded(f"dataset.record_length_bytes_{suffix}", round(draft.number(used, 0)), 0, bound, [used], "in bytes")
            names.remove(used)
        draft.name(names, "another key gives it", f"dataset.record_length_bytes_{suffix}")
    _dimensions(draft, "reader.transformed_record_dims", "reader.transformed_record_element_type", "dataset.record_length_bytes_resize")


def _length(draft: Draft) -> tuple[float, list[str], str]:
    size = _dimensions(draft, "dataset.record_dims", "dataset.record_element_type", "")
    columns = _columns(draft)
    if size is not None:
        return size, ["dataset.record_dims", "dataset.record_element_type"], f"{size} bytes of these dimensions"
    for key in ("dataset.record_length_bytes", "dataset.record_length"):
        if draft.has(key):
            return draft.number(key, 0), [key], "in bytes"
    if columns is not None:
        return columns, ["dataset.parquet.columns"], f"{columns} bytes of all columns"
    return DEFAULT_LENGTH, ["dataset.record_length"], "in bytes"


def _dimensions(draft: Draft, dims_key: str, type_key: str, ours: str) -> int | None:
    """Bytes of an array of these dimensions, carried to `ours` where it is given; None where there are none."""
    dims, word = draft.get(dims_key, []), draft.get(type_key, "uint8")
    if not isinstance(dims, list) or any(not isinstance(dim, int) or isinstance(dim, bool) or dim < 1 for dim in dims):
        raise draft.bad(dims_key, "a list of whole numbers of 1 and more")
    if not dims:
        draft.imply(dims_key, "no dimensions: the length in bytes counts")
        draft.imply(type_key, "records are bytes")
        return None
    size = math.prod(dims) * _item_bytes(draft, type_key, word)
    if ours:
        draft.carry(ours, size, [dims_key, type_key], f"{size} bytes of these dimensions")
    return size


def _item_bytes(draft: Draft, key: str, word: Any) -> int:
    known = ("uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32", "uint64", "int64", "float64", "bool")
    if word not in known:
        raise draft.bad(key, f"an element type: {', '.join(known)}")
    return int(np.dtype(word).itemsize)


def _columns(draft: Draft) -> int | None:
    """Bytes of a row of all Parquet columns; says of the columns what is not carried."""
    key = "dataset.parquet.columns"
    columns = draft.get(key)
    if not columns:
        draft.imply(key, "no columns of its own")
        return None
    if not isinstance(columns, list) or any(not isinstance(column, dict) for column in columns):
        raise draft.bad(key, "a list of mappings with name, dtype and size")
    total = 0
    for column in columns:
        size = column.get("size", 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise draft.bad(key, "a list of columns whose size is 1 or more")
        total += size * _item_bytes(draft, key, column.get("dtype", "float32"))
    skipped = sum(column.get("read") is False for column in columns)
    also = f", and all of it is read: {skipped} columns are marked read: false (DLIO's v3 engine reads them too)" if skipped else ""
    draft.name(key, f"a record is one column of bytes here, not {len(columns)} columns of {total} bytes a row{also}", "dataset.record_length_bytes")
    return total


def row_groups(draft: Draft) -> None:
    """Rows of a Parquet row group into its bytes."""
    key = "dataset.parquet.row_group_size"
    if draft.has(key):
        rows = draft.whole(key, 1)
        size = rows * draft.values["dataset.record_length_bytes"]
        draft.bounded("dataset.row_group_bytes", size, 1, 2**62, [key], f"{rows} rows of {draft.values['dataset.record_length_bytes']} bytes")


def loader(draft: Draft) -> None:
    """loader.*: who reads, with how many workers, how far ahead, in which order."""
    word = draft.choice("reader.data_loader", "tensorflow", _LOADERS)
    name, how = _loader_of(word, str(draft.values["dataset.format"]), draft.get("dataset.format") == "synthetic")
    draft.carry("loader.name", name, ["reader.data_loader"], how)
    if word in ("custom", "none"):
        draft.name("reader.data_loader", "DLIO's plug-in classes are not loaded", "`storagebench list loaders`")
    threads, ahead = draft.whole("reader.read_threads", 1), draft.whole("reader.prefetch_size", 2)
    draft.bounded("loader.num_workers", threads, 0, 1024, ["reader.read_threads"], "as many workers of a rank")
    if word == "pytorch":
        each = math.ceil(ahead / max(threads, 1)) or 2  # dlio_benchmark/data_loader/torch_data_loader.py: 0 becomes torch's 2
        batches, how = max(threads, 1) * each, f"DLIO's torch loader has {each} batch{'es' if each > 1 else ''} ahead in each worker"
    else:
        batches, how = ahead, "batches ahead of a rank"
    draft.bounded("loader.prefetch_batches", batches, 1, 1024, ["reader.prefetch_size"], how)
    orders = {key: draft.choice(key, "off", _SHUFFLES) for key in ("reader.file_shuffle", "reader.sample_shuffle")}
    shuffled = any(word != "off" for word in orders.values())
    draft.carry("loader.shuffle", shuffled, [*orders], "another order each epoch" if shuffled else "one order")
    draft.name([key for key, word in orders.items() if word == "random"], "no order is without a seed", "another run.seed for each run")
    if draft.has("reader.shuffle_size"):
        size = draft.whole("reader.shuffle_size", 1024)
        draft.bounded("loader.shuffle_buffer", size, 1, 2**40, ["reader.shuffle_size"], "for loaders that read shards in sequence")


def _loader_of(word: str, format_name: str, reads_nothing: bool) -> tuple[str, str]:
    """Our loader for DLIO's, and why it is the nearest."""
    if word == "synthetic" or reads_nothing:
        return "null", "reads nothing"
    table = loaders()
    wishes = {"pytorch": ("files", "parquet"), "tensorflow": ("tensorflow", "tfrecord"), "dali": ("dali",), "native_dali": ("dali",)}.get(word, ())
    for name in wishes:
        if name in table and format_name in table[name].formats:
            return name, "the same library" if name != "files" else "torch's DataLoader, as DLIO has it"
    return "direct", f"storagebench's own reader: no loader here has {word} for {format_name}" if word != "none" else "storagebench's own reader"


def train(draft: Draft, stem: str) -> None:
    """train.* and whose compute time it is: DLIO has no key for the accelerator, mlpstorage has it in the file's name."""
    draft.bounded("train.batch_size", draft.whole("reader.batch_size", DEFAULT_BATCH), 1, 2**31, ["reader.batch_size"], "samples of a rank in a step")
    draft.bounded("train.epochs", draft.whole("train.epochs", 1), 1, 100_000, ["train.epochs"], "passes over the dataset")
    seconds, names, how = _compute_time(draft)
    accelerator = _ACCELERATOR.search(stem)
    if accelerator is None:
        draft.carry("run.compute_time_s", seconds, names, how)
    else:
        draft.carry("train.compute_time_s", {accelerator[1]: seconds}, names, f"{how}, of accelerator {accelerator[1]} (the file's name)")
        draft.values["run.accelerator"], draft.origins["run.accelerator"] = accelerator[1], "the file's name"
    threshold = draft.number("metric.au", 0.9)
    if not 0 <= threshold <= 1:
        raise draft.bad("metric.au", "0 to 1")
    draft.carry("train.au_threshold", threshold, ["metric.au"], "the AU that counts as kept busy")


def _compute_time(draft: Draft) -> tuple[float, list[str], str]:
    """Seconds of a step: the value, or the mean of the distribution that dlio_benchmark/utils/utility.py `sleep` draws from (absolute values)."""
    key = "train.computation_time"
    below = {part: f"{key}.{part}" for part in _MEANS}
    if not draft.has(f"{key}.type", *below.values()):
        seconds, names, how = draft.number(key, 0.0), [key], "seconds of a step"
    else:
        kind = str(draft.get(f"{key}.type", "normal"))
        kinds = {"normal": ("mean",), "uniform": ("min", "max"), "gamma": ("shape", "scale"), "exponential": ("scale",), "poisson": ("lam",)}
        if kind not in kinds:
            raise draft.bad(f"{key}.type", f"one of {', '.join(kinds)}")
        names = [below[part] for part in kinds[kind]]
        values = [draft.number(name, 0.0) for name in names]
        seconds = sum(values) / 2 if kind == "uniform" else math.prod(values)
        draft.name([name for name in below.values() if name not in names], f"a {kind} distribution has no such parameter", "nothing")
        how = f"the mean of a {kind} distribution"
    if seconds < 0:
        raise draft.bad(next(name for name in names if draft.has(name)), "0 or more")
    return seconds, names, how


def run(draft: Draft) -> None:
    """run.*: steps, seed, cache, listing."""
    steps = draft.whole("train.total_training_steps", -1)
    if steps > 0:
        draft.carry("run.max_steps", steps, ["train.total_training_steps"], "stop after so many steps")
    else:
        draft.imply("train.total_training_steps", "all steps of all epochs")
    if draft.has("output.metric.exclude_start_steps"):
        key = "output.metric.exclude_start_steps"
        draft.bounded("run.warmup_steps", draft.whole(key, 1), 0, 2**40, [key], "steps that are not measured")
    if draft.has("train.seed"):
        draft.bounded("run.seed", draft.whole("train.seed", 123), 0, 2**63 - 1, ["train.seed"], "seed of the order")
    if draft.flag("reader.odirect"):
        draft.carry("run.cache", "direct", ["reader.odirect"], "O_DIRECT")
    else:
        draft.imply("reader.odirect", "the page cache is run.cache's to say: cold (dropped) unless you say warm, direct or as-is")
    if draft.has("dataset.skip_listing"):
        listing = "manifest" if draft.flag("dataset.skip_listing") else "list"
        draft.carry("run.listing", listing, ["dataset.skip_listing"], "where the names of shards come from")
