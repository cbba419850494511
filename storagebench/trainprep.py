"""Before a training run: what has to be right for a model to be trained on what the loader delivers, and what `run.json` says of the training."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import UsageError
from storagebench.heldout import held_out_url
from storagebench.manifest import Dataset, load_dataset
from storagebench.records import as_plain
from storagebench.registry import refuse_missing
from storagebench.request import Request, store_spec
from storagebench.storage import open_spec, options_beside
from storagebench.training.heldout import refuse_too_large
from storagebench.training.models import model_of
from storagebench.trainname import METRIC, TrainName, is_training, train_name
from storagebench.workload import Target, Workload, target_of

_IMAGES: Final = ("jpeg", "png")
_NO_LABEL: Final = -1  # `datasets.importers.NO_LABEL`
_LEAST_CLASSES: Final = 2


def training_asked(request: Request, dataset: Dataset, world_size: int) -> dict[str, Any] | None:
    """The section `training` of `run.json`, None where nothing is trained. Its `accelerator` is the name with the device that the run takes.

    Raises UsageError where this job cannot be trained, DatasetError where the held-out split is missing, RankError where torch is not installed.
    """
    workload = request.configured.workload
    if not is_training(workload.run.accelerator):
        return None
    name = train_name(workload.run.accelerator)
    model = model_of(name.model)
    refuse_missing(f"--accelerator {name}", ("torch", "PIL"), "train")
    _refuse_settings(workload, world_size)
    _refuse_data(dataset, workload)
    target = target_of(workload)
    _refuse_metric(target, workload)
    device = _device(name)
    return {
        "accelerator": str(TrainName(name.model, device)),
        "model": name.model,
        "learning_rate": workload.train.learning_rate or model.rate,
        "device": device,
        "metric": METRIC,
        "target": None if target is None else target.value,
        "target_source": None if target is None else target.source,
        "target_date": None if target is None or target.date is None else target.date.isoformat(),
        "held_out": _held_out(request, dataset),
    }


def labels_of(dataset: Dataset) -> NDArray[np.int32]:
    """The labels that occur in a dataset, ascending: each is a class."""
    return np.unique(dataset.index["label"])


def _refuse_settings(workload: Workload, world_size: int) -> None:
    run, several = workload.run, world_size > 1
    if workload.loader.name == "null":
        raise UsageError("loader null reads nothing, so there is nothing to train on", "choose another --loader")
    if run.decode != "full":
        raise UsageError(f"--decode is {run.decode}, and a model is trained on decoded images", "use --decode full")
    if run.accelerators_per_process > 1:
        raise UsageError(
            f"--accelerators-per-process is {run.accelerators_per_process}, and each rank that trains has a process of its own",
            "leave it out, or give 1",
        )
    if several and run.sync != "step":
        raise UsageError(
            f"--sync is {run.sync}, and {world_size} ranks that train one model average their gradients in every step", "use --sync step"
        )
    if several and run.remainder == "keep":
        raise UsageError(
            f"--remainder is keep, and {world_size} ranks that train one model need a batch each in every step", "use --remainder drop, or one rank"
        )


def _refuse_data(dataset: Dataset, workload: Workload) -> None:
    if dataset.payload not in _IMAGES:
        raise UsageError(
            f"the records of the dataset are {dataset.payload}, and a model is trained on {' or '.join(_IMAGES)} images",
            "generate a task (`storagebench generate digits`), or import images in one folder a class",
        )
    labels = labels_of(dataset)
    if _NO_LABEL in labels or len(labels) < _LEAST_CLASSES:
        what = "samples without a label" if _NO_LABEL in labels else f"{len(labels)} class"
        raise UsageError(
            f"the dataset has {what}, and a model is trained on {_LEAST_CLASSES} classes or more", "import images in one folder a class (ImageFolder)"
        )
    if dataset.num_samples < workload.train.batch_size:
        raise UsageError(
            f"the dataset has {dataset.num_samples} samples, and --batch-size is {workload.train.batch_size}", "use a smaller --batch-size"
        )


def _refuse_metric(target: Target | None, workload: Workload) -> None:
    if target is not None and target.metric != METRIC:
        raise UsageError(
            f"the target of workload {workload.name} is {target.metric} {target.value:g}, and a training here is judged by its {METRIC}",
            "use a workload whose target is one (digits, photographs)",
        )
    if target is not None and not 0 <= target.value <= 1:
        raise UsageError(f"the target of workload {workload.name} is {target.value:g}, and a {METRIC} is a share of 0 to 1", "such as 0.95")


def _device(name: TrainName) -> str:
    """The device in effect. Torch is asked only where it has to be: for a CUDA device that is named, or where the name leaves it open."""
    if name.device == "cpu":
        return "cpu"
    import torch

    has = bool(torch.cuda.is_available())
    if name.device and not has:
        raise UsageError(f"--accelerator {name} needs a CUDA device, and torch {torch.__version__} finds none here", f"use train:{name.model}@cpu")
    return name.device or ("cuda" if has else "cpu")


def _held_out(request: Request, dataset: Dataset) -> Mapping[str, Any]:
    """Where the held-out split lies, and what it is. Raises UsageError for one that does not belong to this dataset."""
    url = held_out_url(request.data_dir, request.configured.workload.run.held_out_dir)
    asked = replace(request, data_dir=url, storage_options=options_beside(request.data_dir, url, request.storage_options))
    with closing(open_spec(store_spec(asked))) as store:
        manifest_spec, held_out = store.spec, load_dataset(store)
    hint = "generate or import both splits from one source, or name the right one with --held-out-dir"
    if held_out.format != dataset.format or held_out.payload not in _IMAGES:
        raise UsageError(
            f"the held-out split at {url} has {held_out.payload} records in {held_out.format}, and the dataset {dataset.payload} in {dataset.format}",
            hint,
        )
    more = sorted(set(labels_of(held_out).tolist()) - set(labels_of(dataset).tolist()))
    if more:
        raise UsageError(f"the held-out split at {url} has the labels {', '.join(map(str, more[:8]))}, which the dataset has not", hint)
    if held_out.partition:
        raise UsageError(f"the held-out split at {url} is spread over hosts, and each rank reads it", "make it without --placement partitioned")
    side_bytes = request.configured.workload.dataset.record_length_bytes_resize
    refuse_too_large(max(held_out.stored_bytes, held_out.num_samples * side_bytes))
    spec = store_spec(asked, held_out)
    return {
        "url": url,
        "store": as_plain(spec),
        **({"manifest_store": as_plain(manifest_spec)} if held_out.data_root else {}),
        "digest": held_out.digest(),
        "num_samples": held_out.num_samples,
    }
