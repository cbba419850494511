"""How samples cross from a worker process to its rank: all of a piece in one shared memory, which the worker uses again once the rank is done with it.

torch's own advice (notes/multiprocessing, "Reuse buffers passed through a Queue"): new shared memory for each batch costs a page fault every 4 KiB,
most of the time that a 20 MB sample took here, and a descriptor sent through a socket. With a slab that the rank has mapped already a piece costs a
few numbers. On the rank's side only views are made, and only when somebody looks at a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT_BYTES = 4096
_SLAB_STEP_BYTES = 64 * 1024


@dataclass(frozen=True)
class Packed(Sequence[Any]):
    """Uint8 tensors that lie in one: sample i is `memory[starts[i] : starts[i] + sizes[i]]`, in the shape `shapes[i]` where there are shapes."""

    memory: torch.Tensor
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    shapes: Sequence[tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Packed(self.memory, self.starts[index], self.sizes[index], None if self.shapes is None else self.shapes[index])
        start = int(self.starts[index])
        flat = self.memory[start : start + int(self.sizes[index])]
        return flat if self.shapes is None else flat.view(self.shapes[index])

    def stacked(self) -> torch.Tensor | None:
        """All samples in one tensor (uint8[n, *shape], a view), where they have one shape and lie behind one another; else None."""
        if self.shapes is None or not len(self) or any(shape != self.shapes[0] for shape in self.shapes):
            return None
        size, first = int(self.sizes[0]), int(self.starts[0])
        if not np.array_equal(self.starts, first + size * np.arange(len(self))):
            return None
        return self.memory[first : first + size * len(self)].view(len(self), *self.shapes[0])


@dataclass(frozen=True)
class Sent:
    """`Packed` on its way: the slab by its number, and the memory itself only when the rank does not have it yet. `serial` counts a worker's pieces."""

    slot: int
    serial: int
    memory: torch.Tensor | None
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    shapes: Sequence[tuple[int, ...]] | None = None


@dataclass
class Slab:
    """Shared memory (page-aligned) that holds piece `serial` of a worker, and all that the worker needs to write into it."""

    slot: int
    serial: int
    tensor: torch.Tensor
    memory: memoryview
    is_known: bool = False  # the rank has it mapped

    def send(self, starts: NDArray[np.int64], sizes: NDArray[np.int64], shapes: Sequence[tuple[int, ...]] | None = None) -> Sent:
        """The piece that lies here, for the rank."""
        memory = None if self.is_known else self.tensor
        self.is_known = True
        return Sent(self.slot, self.serial, memory, starts, sizes, shapes)

    def send_in_place(self, records: Sequence[memoryview]) -> Sent:
        """Records that lie in this slab, without a copy; a record that lies elsewhere has them all copied. Raises ValueError where they do not fit."""
        base = _address(self.memory)
        sizes = np.array([len(record) for record in records], np.int64)
        starts = np.array([_address(record) for record in records], np.int64) - base
        if ((starts < 0) | (starts + sizes > len(self.memory)))[sizes > 0].any():
            raise ValueError("a record does not lie in the memory that it was read into")
        return self.send(starts, sizes)


class Slabs:
    """The slabs of all workers of a rank. One object, copied to the workers with their dataset: they `take`, the rank does `receive` and `release`.

    A worker takes a slab again as soon as the rank has released its piece (in shared memory: pieces of a worker are released in order, so one number a
    worker will do), and makes a new one only while the rank holds all others: as many as there are pieces in flight and in the rank's hands.
    """

    def __init__(self, workers: int) -> None:
        self._released = torch.zeros(max(workers, 1), dtype=torch.int64)
        if workers:
            self._released.share_memory_()
        self._mine: list[Slab] = []
        self._serial = 0
        self._received: dict[tuple[int, int], torch.Tensor] = {}

    def take(self, worker: int, num_bytes: int) -> Slab:
        """In a worker: a slab of at least that size, whose content nobody needs any more."""
        released = int(self._released.numpy()[worker])
        free = sorted((slab for slab in self._mine if slab.serial < released), key=lambda slab: len(slab.memory))
        slab = next((slab for slab in free if len(slab.memory) >= num_bytes), free[-1] if free else None)
        if slab is None:
            slab = Slab(len(self._mine), 0, *_shared_bytes(num_bytes))
            self._mine.append(slab)
        elif len(slab.memory) < num_bytes:
            slab.tensor, slab.memory = _shared_bytes(num_bytes)
            slab.is_known = False
        slab.serial = self._serial
        self._serial += 1
        return slab

    def pack(self, worker: int, values: Sequence[Any]) -> Sent:
        """In a worker: records, or decoded uint8 arrays, copied into a slab."""
        arrays = [np.frombuffer(value, np.uint8) if isinstance(value, memoryview) else value for value in values]
        sizes = np.array([array.size for array in arrays], np.int64)
        ends = np.cumsum(sizes)
        slab = self.take(worker, int(ends[-1]) if len(ends) else 0)
        target = np.frombuffer(slab.memory, np.uint8)
        for array, end in zip(arrays, ends.tolist(), strict=True):
            target[end - array.size : end] = array.reshape(-1)
        shapes = None if all(array.ndim == 1 for array in arrays) else [array.shape for array in arrays]
        return slab.send(ends - sizes, sizes, shapes)

    def receive(self, worker: int, sent: Sent) -> Packed:
        """In the rank: what was sent, with its memory. It stays as it is until it is released."""
        if sent.memory is not None:
            self._received[worker, sent.slot] = sent.memory
        return Packed(self._received[worker, sent.slot], sent.starts, sent.sizes, sent.shapes)

    def release(self, worker: int, serial: int) -> None:
        """In the rank: nobody looks at this piece of the worker any more, nor at those before it."""
        self._released.numpy()[worker] = serial + 1

    def close(self) -> None:
        """In the rank, when the workers are gone: let go of the memory. Batches that are still held keep theirs."""
        self._received.clear()
        self._mine.clear()
        self._released = self._released.clone()  # the shared one holds a descriptor


def _shared_bytes(num_bytes: int) -> tuple[torch.Tensor, memoryview]:
    """A uint8 tensor in shared memory of at least that size and its memory."""
    size = -(-max(num_bytes, 1) // _SLAB_STEP_BYTES) * _SLAB_STEP_BYTES
    storage = torch.UntypedStorage._new_shared(size)
    tensor = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,))
    return tensor, memoryview(tensor.numpy())


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0]) if len(view) else 0
