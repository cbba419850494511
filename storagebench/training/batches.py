"""What a loader delivers, as tensors: the pixels of a batch in one uint8 tensor on the device, and its classes. No operation a sample but the copy of its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import DatasetError, RankError
from storagebench.protocols import Batch

# (x / 255 - 0.5) / 0.25: fixed, so that no pass over the data has to come first.
_MIDDLE, _SCALE = 127.5, 63.75
Shape = tuple[int, int, int]
CHANNELS: Final = 3
_BLOCK_DIMENSIONS: Final = 4


def classes_of(labels: NDArray[np.int32], known: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64[n]: the number of each label among the known ones (ascending)."""
    return np.asarray(np.searchsorted(known, labels), np.int64)


def blocks(batch: Batch) -> Iterator[NDArray[np.uint8]]:
    """The decoded images of a batch in order, as they lie in memory: uint8[n, height, width, 3] where several lie together, or single ones. Raises RankError
    where the loader handed over none."""
    if batch.data is None:
        raise RankError("the loader handed over no data to train on", "use a loader that reads, with --decode full")
    for part in batch.data:
        stacked = getattr(part, "stacked", None)  # pieces out of worker processes lie in one memory (`loaders.packed`)
        whole = stacked() if stacked is not None else None
        if whole is not None:
            yield whole.numpy()
            continue
        for sample in part:
            yield sample if isinstance(sample, np.ndarray) else sample.numpy()


def images(batch: Batch) -> list[NDArray[np.uint8]]:
    """The decoded images of a batch (uint8[height, width, 3]), one by one."""
    return list(chain.from_iterable(block if block.ndim == _BLOCK_DIMENSIONS else (block,) for block in blocks(batch)))


def check_shape(image: NDArray[np.uint8], shape: tuple[int, ...], sample: int) -> None:
    """Raises DatasetError for an image of another shape than the first one had."""
    if image.shape != shape:
        raise DatasetError(
            f"sample {sample} is an image of {_size(image.shape)} pixels, and the model takes {_size(shape)}",
            "have all of one size: --record-length-resize BYTES, with BYTES = 3 x side x side",
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class Batches:
    """Turns batches into tensors on one device, through host memory that is used again (pinned where the device is a real one)."""

    def __init__(self, torch: Any, device: Any, classes: NDArray[np.int64], shape: Shape, batch_size: int) -> None:
        """`classes` int64[num_samples] of the dataset."""
        self._torch, self._device, self._shape = torch, device, shape
        pinned = device.type != "cpu"
        self._host = torch.empty((batch_size, *shape), dtype=torch.uint8, pin_memory=pinned)
        self._host_array = self._host.numpy()
        self._classes = torch.from_numpy(classes)

    def take(self, batch: Batch) -> tuple[Any, Any]:
        """(uint8[n, height, width, 3], int64[n]) on the device. On the CPU the pixels lie in memory that the next batch takes."""
        host, count, position = self._host_array, batch.num_samples, 0
        for block in blocks(batch):
            several = block.ndim == _BLOCK_DIMENSIONS
            if (block.shape[1:] if several else block.shape) != self._shape:
                check_shape(block[0] if several else block, self._shape, int(batch.sample_ids[position]))
            end = position + (len(block) if several else 1)
            host[position:end] = block
            position = end
        if position != count:
            raise RankError(
                f"the loader gave {position} images for {count} samples", "this is a defect of the loader: run it with --debug and report it"
            )
        classes = self._classes[self._torch.from_numpy(batch.sample_ids)]
        return self._host[:count].to(self._device, non_blocking=True), classes.to(self._device, non_blocking=True)


def normalised(torch: Any, pixels: Any) -> Any:
    """float32[n, 3, height, width] around 0 out of uint8[n, height, width, 3]; channels stay last in memory, as they came."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).sub_(_MIDDLE).div_(_SCALE)
