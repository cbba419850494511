"""Every key that a DLIO workload file may have, and what becomes of it here: one row a key, in DLIO's own sections.

Sources: `LoadConfig` in dlio_benchmark/utils/config.py of the registry's 2.0.0, of argonne-lcf/dlio_benchmark main (2026-06, which spells
`record_length_bytes`), and of mlcommons/DLIO_local_changes (the engine of MLPerf Storage v3.0); and the workload files that come with them and with
mlcommons/storage, which also hold keys that no engine reads (`STRAY`). A row is `carried` by `storagebench.dlio.fields`, or it says why it is not
carried and what there is instead; where its value is among `same_for`, it asks for what storagebench does anyway, and `same` says so.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

OFF = (False, None, "off", "none", "")


@dataclass(frozen=True)
class Key:
    """What becomes of one key. `why` it is not carried, what there is `instead`; `same` is said where the value is one of `same_for`."""

    why: str = ""
    instead: str = ""
    same: str = ""
    same_for: tuple[object, ...] = ()
    carried: bool = False


CARRIED = Key(carried=True)
STRAY = Key("stands in files that come with DLIO or mlpstorage, and no code of theirs reads it", "leave it out")
_EVALUATION = Key("there is no evaluation phase", "measure the evaluation set as a dataset of its own, with a run of its own")
_CHECKPOINT = Key("checkpoints are not measured yet", "measure the reading of the data set alone")
_MODEL = Key("the model's shape only sizes DLIO's checkpoints, which are not measured yet", "compute is run.compute_time_s alone")
_PLACE = Key("where the data lie is no part of a workload", "say it on the command line: --data-dir URL, --storage-option KEY=VALUE")
_SECRET = Key("credentials never stand in a file", "use the standard AWS chain (AWS_ACCESS_KEY_ID ..., or a profile)")
_PLUGIN = Key("DLIO's plug-in classes are not loaded", "write a plug-in for storagebench (entry points storagebench.loaders, .formats)")
_COLUMNS = Key("a record is one column of bytes here, of the length of all columns together", "dataset.record_length_bytes")
_CHUNKS = Key("HDF5 samples lie whole, one after another, so that a sample is one read", "measure DLIO's own files: `storagebench import --in-place`")
_SLEEP = Key("no time is slept in a worker", "real work: --decode full decodes, and crops or resizes to record_length_bytes_resize")
_SPREAD = Key("every step takes the mean: AU's window then holds no luck", "run.compute_time_s", "a spread of 0", (0, 0.0, None))
_OUTPUT = Key("where results go is no part of a workload", "--results-dir DIR and --run-id NAME; run.json, trace/ and summary.json in it")
_PROFILER = Key("no profiler is started", "each run samples CPU, pressure, device and network bytes every second (trace/host-*.jsonl)", "none", OFF)
_LIBRARY = Key("which client reads S3 belongs to the storage and the loader", "--storage-option client=... and --loader")

KEYS: dict[str, Key] = {
    "model": CARRIED,
    "model.name": CARRIED,
    **dict.fromkeys(
        (
            "model.type", "model.model_size", "model.model_size_bytes", "model.model_datatype", "model.optimizer_datatype", "model.num_layers",
            "model.layer_parameters", "model.optimization_groups", "model.parallelism.tensor", "model.parallelism.pipeline",
            "model.parallelism.data", "model.parallelism.zero_stage", "model.transformer.vocab_size", "model.transformer.hidden_size",
            "model.transformer.ffn_hidden_size", "model.transformer.num_attention_heads", "model.transformer.num_kv_heads",
        ),
        _MODEL,
    ),
    "framework": Key(
        "this framework is unknown to DLIO",
        "choose a loader: `storagebench list loaders`",
        "the framework only chooses DLIO's loader and its checkpoints; here loader.name says who reads, and compute is emulated without one",
        ("pytorch", "tensorflow"),
    ),
    # What is to be done is a verb here, not a switch.
    "workflow.generate_data": Key("generating is a command of its own", "`storagebench generate WORKLOAD --data-dir URL`", "generating is a command of its own", OFF),
    "workflow.train": Key("a file that only generates runs nothing in DLIO", "generate with it, or run it", "`storagebench run` reads as training does", (True,)),
    "workflow.evaluation": Key(_EVALUATION.why, _EVALUATION.instead, "no evaluation", OFF),
    "workflow.checkpoint": Key(_CHECKPOINT.why, _CHECKPOINT.instead, "no checkpoints", OFF),
    "workflow.profiling": Key(_PROFILER.why, _PROFILER.instead, "no profiler", OFF),
    "workflow.debug": Key("logging is no part of a workload", "`storagebench --debug`", "no debug log", OFF),
    "workflow.do_eval": STRAY,
    "storage.storage_type": Key(_PLACE.why, _PLACE.instead, "a path for --data-dir is a local or mounted file system", ("local_fs", "parallel_fs")),
    "storage.storage_root": _PLACE,
    "storage.storage_options.*": _PLACE,
    "storage.storage_options.access_key_id": _SECRET,
    "storage.storage_options.secret_access_key": _SECRET,
    "storage.storage_options.storage_library": _LIBRARY,
    "storage.storage_options.prefetch_window": Key("reads ahead follow from the batches ahead", "loader.prefetch_batches and loader.io_depth"),
    "storage.storage_library": _LIBRARY,
    "storage.post_generation_settle_seconds": Key("there is no wait after generating", "wait between the commands", "no wait", (0, 0.0)),
    "storage.endpoint_uris": _PLACE,
    "storage.use_mpi_endpoint_distribution": Key("all ranks of a host use one endpoint", "--storage-option endpoint_url=...", "one endpoint", OFF),
    "storage.load_balance_strategy": Key("all ranks of a host use one endpoint", "--storage-option endpoint_url=..."),
    "dataset.format": CARRIED,
    "dataset.data_folder": Key(_PLACE.why, "--data-dir; DLIO's own files there are measured as they are by `storagebench import FOLDER --in-place`"),
    "dataset.num_files_train": CARRIED,
    "dataset.num_files_eval": Key(_EVALUATION.why, _EVALUATION.instead, "no evaluation set", (0,)),
    "dataset.num_samples_per_file": CARRIED,
    "dataset.eval_num_samples_per_file": STRAY,
    "dataset.record_length": CARRIED,
    "dataset.record_length_bytes": CARRIED,
    "dataset.record_length_stdev": CARRIED,
    "dataset.record_length_bytes_stdev": CARRIED,
    "dataset.record_length_resize": CARRIED,
    "dataset.record_length_bytes_resize": CARRIED,
    "dataset.record_dims": CARRIED,
    "dataset.record_element_type": CARRIED,
    "dataset.record_element_bytes": Key("DLIO overwrites it with the size of record_element_type", "dataset.record_element_type"),
    "dataset.num_subfolders_train": CARRIED,
    "dataset.num_subfolders_eval": Key(_EVALUATION.why, _EVALUATION.instead, "no evaluation set", (0,)),
    "dataset.file_prefix": Key("shards are named by number (shards/000000...)", "names of files do not matter: the manifest lists them"),
    "dataset.compression": Key(
        "records are stored uncompressed: they hold random bytes, and DLIO's own switch does nothing for npz",
        "--compressibility gives records that the storage can compress",
        "records are stored uncompressed",
        OFF,
    ),
    "dataset.compression_level": Key("records are stored uncompressed", "--compressibility gives records that the storage can compress"),
    "dataset.enable_chunking": Key(_CHUNKS.why, _CHUNKS.instead, "no chunks", OFF),
    "dataset.chunk_size": Key(_CHUNKS.why, _CHUNKS.instead, "no chunks", (0,)),
    "dataset.keep_files": Key("`run` never deletes a dataset", "delete the folder yourself", "`run` never deletes a dataset", (True,)),
    "dataset.generation_buffer_size": Key("records are made piece by piece, one in memory for each writer", "`generate --num-threads`"),
    "dataset.data_gen_method": Key("bytes are an AES keystream of seed and sample, the same on any machine", "--data-seed"),
    "dataset.skip_listing": CARRIED,
    "dataset.listing_validation_interval": Key("every shard's size is compared with the manifest before a run", "`storagebench verify` reads them too"),
    "dataset.num_files_generated": Key("a run uses the dataset that is there, and its manifest counts it", "generate as many samples as the run is to use"),
    **dict.fromkeys(("dataset.hdf5.chunk_dims", "dataset.hdf5.max_shape"), Key(_CHUNKS.why, _CHUNKS.instead, "no chunks", ([], None))),
    "dataset.hdf5.num_dset_per_record": Key(_CHUNKS.why, _CHUNKS.instead, "a sample is one dataset", (1,)),
    "dataset.parquet.columns": CARRIED,
    "dataset.parquet.row_group_size": CARRIED,
    "dataset.parquet.partition_by": Key("shards are not partitioned by a column", "dataset.num_subfolders spreads them", "no partitions", OFF),
    "dataset.parquet.read_mode": Key("the loader decides what it reads: row groups", "--loader parquet, or direct", "row groups are read", ("row_group", "default")),
    "dataset.parquet.generation_batch_size": Key("row groups are written one at a time", "--row-group-size"),
    "dataset.parquet.use_s3dlio_gen": Key("storagebench writes Parquet itself", "`storagebench generate`", "storagebench writes Parquet itself", OFF),
    "dataset.arrow.columns": _COLUMNS,
    "dataset.arrow.generation_batch_size": Key("there is no Arrow format", "--format parquet"),
    "reader.data_loader": CARRIED,
    "reader.batch_size": CARRIED,
    "reader.batch_size_eval": _EVALUATION,
    "reader.read_threads": CARRIED,
    "reader.write_threads": Key("generating is a command of its own", "`generate --num-threads`"),
    "reader.computation_threads": Key("a worker decodes what it read, in its own thread or process", "loader.num_workers"),
    "reader.prefetch_size": CARRIED,
    "reader.file_shuffle": CARRIED,
    "reader.sample_shuffle": CARRIED,
    "reader.shuffle_size": CARRIED,
    **dict.fromkeys(
        (
            "reader.seed", "reader.shuffle", "reader.storage_library", "reader.storage_root", "reader.storage_options.*", "reader.data_loader_root",
            "reader.endpoint_uris", "reader.load_balance_strategy", "reader.checkpoint_folder", "generator.num_workers", "generator.buffer_size",
        ),
        STRAY,
    ),
    "reader.read_type": Key(
        "nothing is kept in a worker over epochs", "--cache warm reads from the page cache", "every epoch reads its samples", ("on_demand",)
    ),
    "reader.file_access": Key("a file shared by all ranks is read by byte ranges", "a large dataset.samples_per_shard", "several files", ("multi", "posix")),
    "reader.transfer_size": Key("a record, or a whole small file, is one read", "the block size of a raw read: `storagebench probe`", "unset", (None,)),
    "reader.preprocess_time": Key(_SLEEP.why, _SLEEP.instead, "no time is slept in a worker", (0, 0.0)),
    "reader.preprocess_time_stdev": Key(_SLEEP.why, _SLEEP.instead, "a spread of 0", (0, 0.0)),
    **dict.fromkeys((f"reader.preprocess_time.{part}" for part in ("type", "mean", "stdev", "min", "max", "shape", "scale", "lam")), _SLEEP),
    "reader.multiprocessing_context": Key(
        "workers start from a fork server", "nothing to do", "workers are processes of their own, from a fork server", ("forkserver", "spawn")
    ),
    "reader.pin_memory": Key("no GPU is copied to unless --accelerator cuda is", "--accelerator cuda --compute-time SECONDS", "nothing is pinned", OFF),
    "reader.odirect": CARRIED,
    "reader.dont_use_mmap": Key("no loader here maps files in a measured run", "nothing to do", "no loader here maps files in a measured run", (True,)),
    "reader.transformed_record_dims": CARRIED,
    "reader.transformed_record_element_type": CARRIED,
    **dict.fromkeys(("reader.reader_classname", "reader.data_loader_classname", "reader.data_loader_sampler"), _PLUGIN),
    "train.epochs": CARRIED,
    "train.computation_time": CARRIED,
    **dict.fromkeys((f"train.computation_time.{part}" for part in ("mean", "min", "max", "shape", "scale", "lam")), CARRIED),
    "train.computation_time.type": Key(_SPREAD.why, "its mean is carried"),
    "train.computation_time.stdev": _SPREAD,
    "train.computation_time_stdev": _SPREAD,
    "train.total_training_steps": CARRIED,
    "train.total_eval_steps": STRAY,
    "train.seed": CARRIED,
    "train.seed_change_epoch": Key(
        "every epoch has an order of its own", "loader.shuffle=false has one order for all", "every epoch has an order of its own", (True,)
    ),
    **dict.fromkeys(
        (
            "evaluation.eval_time", "evaluation.eval_time_stdev", "evaluation.eval_after_epoch", "evaluation.epochs_between_evals",
            *(f"evaluation.eval_time.{part}" for part in ("type", "mean", "stdev", "min", "max", "shape", "scale", "lam")),
        ),
        _EVALUATION,
    ),
    "evaluation.steps_between_evals": STRAY,
    **dict.fromkeys(
        (
            f"checkpoint.{name}" for name in (
                "checkpoint_folder", "checkpoint_after_epoch", "epochs_between_checkpoints", "steps_between_checkpoints", "type", "mode",
                "checkpoint_mechanism_classname", "fsync", "time_between_checkpoints", "num_checkpoints_write", "num_checkpoints_read",
                "recovery_rank_shift", "rank_sync", "randomize_tensor", "ksm", "ksm.madv_mergeable_id", "ksm.high_ram_trigger", "ksm.low_ram_exit",
                "ksm.await_time", "model_size", "optimization_groups", "num_layers", "layer_parameters", "tensor_parallelism", "pipeline_parallelism",
            )
        ),
        _CHECKPOINT,
    ),
    "output.folder": _OUTPUT,
    "output.log_file": _OUTPUT,
    "output.metric.exclude_start_steps": CARRIED,
    "output.metric.exclude_end_steps": Key("the window ends with the last step", "judge with `check --rules`, in the window of an edition", "none", (0,)),
    "profiling.profiler": Key(_PROFILER.why, _PROFILER.instead, "device and network bytes are sampled every second", ("none", "iostat")),
    "profiling.iostat_devices": Key("the devices below the dataset are found", "see trace/host-*.jsonl", "none", ([], None)),
    "metric.au": CARRIED,
    # Hydra's own keys, in a file that DLIO or mlpstorage wrote out of a run.
    "defaults": Key("Hydra composes files", "import the file that has the values"),
    "hydra.*": Key("Hydra's own settings", "--results-dir"),
}  # fmt: skip

# Keys of the mappings in a list, which is carried or named as a whole.
ITEM_KEYS = frozenset(f"dataset.{form}.columns.-.{name}" for form in ("parquet", "arrow") for name in ("name", "dtype", "size", "read"))
_SECTIONS = frozenset(name.rsplit(".", depth)[0] for name in KEYS for depth in range(1, name.count(".") + 1))


def plain_name(parts: tuple[str, ...]) -> str:
    """The dotted name of a key in the table: without Hydra's group `workload`, and `data_reader`, the old name, as `reader`."""
    if parts[:1] == ("workload",):
        parts = parts[1:]
    if parts[:1] == ("data_reader",):
        parts = ("reader", *parts[1:])
    return ".".join(parts)


def row_of(name: str) -> Key | None:
    """The row of a key by its dotted name, or the row of `section.*` above it."""
    if name in KEYS:
        return KEYS[name]
    parents = name.split(".")
    return next((KEYS[above] for depth in range(len(parents) - 1, 0, -1) if (above := ".".join(parents[:depth]) + ".*") in KEYS), None)


def unknown_key(parts: tuple[str, ...]) -> str:
    """Why DLIO has no such key, with the nearest that it has; empty where it has one, or keys below it."""
    name = plain_name(parts)
    if not name or name in _SECTIONS or name in ITEM_KEYS or row_of(name) is not None:
        return ""
    written = ".".join(parts)
    if ".-." in name:
        above = name.partition(".-.")[0]
        if row_of(above) is None or f"{above}.-.name" in ITEM_KEYS:
            return f"DLIO has no key {written!r}: columns have {', '.join(sorted({item.rpartition('.')[2] for item in ITEM_KEYS}))}"
        return ""
    leaf = name.rpartition(".")[2]
    elsewhere = [known for known in KEYS if known.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(name, [known for known in KEYS if not known.endswith("*")], n=1, cutoff=0.6)
    if elsewhere or close:
        return f"DLIO has no key {written!r}: did you mean '{(elsewhere or close)[0]}'?"
    return f"DLIO has no key {written!r}: its sections are {', '.join(sorted({known.partition('.')[0] for known in KEYS}))}"
