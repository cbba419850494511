"""The held-out split in memory: read whole by the loader under test, each record compared with its checksum, before any clock runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset
from storagebench.protocols import Batch, LoaderRun
from storagebench.training.batches import CHANNELS, Shape, check_shape, classes_of, images
from storagebench.training.models import LEAST_PIXELS
from storagebench.units import format_bytes

# All of it lies in the memory of the ranks (each holds its share), beside the batches.
MOST_BYTES: Final = 2**30


class HeldOut(NamedTuple):
    """One rank's share: uint8[n, height, width, 3] and the class of each, int64[n]. `num_samples` of all ranks."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    num_samples: int

    @property
    def shape(self) -> Shape:
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels


def refuse_too_large(num_bytes: int) -> None:
    """Raises UsageError for a held-out split that does not go into memory."""
    if num_bytes > MOST_BYTES:
        raise UsageError(
            f"the held-out split has {format_bytes(num_bytes)}, and {format_bytes(MOST_BYTES)} at most are held in memory",
            "use a smaller one (--held-out-dir), or smaller images (--record-length-resize)",
        )


def read_held_out(loader: LoaderRun, dataset: Dataset, known: NDArray[np.int32], rank: int, world_size: int) -> HeldOut:
    """This rank's share of what the loader (opened for the whole of it, at decode full and verify full) delivers in epoch 0.

    `known`: the labels of the training split, ascending. Raises DatasetError for a record without its checksum or an image of another shape.
    """
    mine = np.arange(rank, dataset.num_samples, world_size)
    pixels: NDArray[np.uint8] | None = None
    seen = 0
    for batch in _batches(loader):
        _refuse_wrong(batch, dataset)
        for sample, image in zip(batch.sample_ids.tolist(), images(batch), strict=True):
            if pixels is None:
                pixels = _room(image, dataset.num_samples, len(mine))
            check_shape(image, pixels.shape[1:], sample)
            seen += 1
            if sample % world_size == rank:
                pixels[sample // world_size] = image
    if pixels is None or seen != dataset.num_samples:
        raise DatasetError(f"the held-out split has {dataset.num_samples} samples, and the loader gave {seen}", "run `storagebench verify` on it")
    return HeldOut(pixels, classes_of(dataset.index["label"][mine], known), dataset.num_samples)


def _batches(loader: LoaderRun) -> Iterator[Batch]:
    loader.counters()
    loader.start(0)
    while (batch := loader.next()) is not None:
        yield batch
    loader.drain()


def _refuse_wrong(batch: Batch, dataset: Dataset) -> None:
    expected = dataset.index["crc32c"][batch.sample_ids]
    if batch.checksums is None or batch.checked is None or not batch.checked.all():
        raise DatasetError("the loader gives no checksums of the held-out split, so it cannot be verified", "use another --loader")
    wrong = np.flatnonzero(batch.checksums != expected)
    if len(wrong):
        sample = int(batch.sample_ids[wrong[0]])
        raise DatasetError(
            f"sample {sample} of the held-out split in {dataset.shard_of(sample)} does not have the checksum of its manifest",
            "run `storagebench verify` on it, and make it again",
        )


def _room(image: NDArray[np.uint8], num_samples: int, mine: int) -> NDArray[np.uint8]:
    """Memory for a share, made when the first image is there."""
    if image.ndim != 3 or image.shape[2] != CHANNELS or min(image.shape[:2]) < LEAST_PIXELS:
        raise DatasetError(
            f"the held-out split has images of shape {image.shape}, and a model takes RGB of {LEAST_PIXELS} x {LEAST_PIXELS} pixels and more",
            "import larger images",
        )
    refuse_too_large(num_samples * image.nbytes)
    return np.empty((mine, *image.shape), np.uint8)
