"""A rank that trains, before its loader is opened: the held-out split is read whole, by the loader under test, and the model is built. No clock runs yet."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storagebench.clock import Clock
from storagebench.device import device_index
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset, load_dataset
from storagebench.protocols import LoadJob, StoreSpec
from storagebench.records import TraceWriter
from storagebench.registry import open_loader
from storagebench.storage import open_spec, spec_of_reader
from storagebench.training.batches import classes_of
from storagebench.training.heldout import HeldOut, read_held_out
from storagebench.training.models import model_of
from storagebench.training.trainer import TorchTrainer, TrainJob
from storagebench.workload import Workload
from storagebench.world import Place, World

_READ_AT_ONCE: Final = 64


def open_trainer(run: Mapping[str, Any], workload: Workload, job: LoadJob, world: World, clock: Clock, trace: TraceWriter) -> TorchTrainer | None:
    """The trainer of this rank, None where nothing is trained. `job`: what its loader will be asked to do.

    Raises UsageError where the rank has no device of its number, DatasetError where the held-out split is damaged or not the one that was planned.
    """
    asked = run.get("training")
    if asked is None:
        return None
    labels = job.dataset.index["label"]
    known = np.unique(labels)
    held_out = _held_out(asked["held_out"], workload, job, known)
    train = TrainJob(
        model=model_of(asked["model"]),
        device=_device(asked["device"], world.place),
        seed=workload.run.seed,
        learning_rate=asked["learning_rate"],
        epochs=workload.train.epochs,
        batch_size=workload.train.batch_size,
        classes=classes_of(labels, known),
        num_classes=len(known),
        target=asked["target"],
    )
    return TorchTrainer(train, held_out, world, clock, trace)


def _device(name: str, place: Place) -> str:
    """cpu, or the CUDA device that this rank takes: the one that is named, or one after another on each host."""
    if name == "cpu":
        return name
    import torch

    return f"cuda:{device_index(name, place.rank_of_host, torch.cuda.device_count())}"


def _held_out(planned: Mapping[str, Any], workload: Workload, job: LoadJob, known: NDArray[np.int32]) -> HeldOut:
    spec, manifest_spec = StoreSpec(**planned["store"]), StoreSpec(**planned.get("manifest_store", planned["store"]))
    with closing(open_spec(manifest_spec)) as store:
        dataset = load_dataset(store)
    if dataset.digest() != planned["digest"]:
        raise DatasetError(f"the held-out split at {planned['url']} changed since the run was planned", "nothing may write to it during a run")
    with closing(open_loader(workload.loader.name).open(_whole(job, spec, dataset))) as loader:
        level = loader.effective()["decode"]
        if level != "full":
            raise UsageError(
                f"loader {workload.loader.name} decodes to {level} only, and a model is trained on decoded images", "use another --loader"
            )
        return read_held_out(loader, dataset, known, job.rank, job.world_size)


def _whole(job: LoadJob, spec: StoreSpec, dataset: Dataset) -> LoadJob:
    """The job of reading all of it once, in order, in this process."""
    return replace(
        job,
        store=spec_of_reader(spec, job.rank),
        dataset=dataset,
        rank=0,
        world_size=1,
        batch_size=min(_READ_AT_ONCE, dataset.num_samples),
        shuffle=False,
        keep_remainder=True,
        num_workers=0,
        verify="full",
        shard_spans=(),
    )
