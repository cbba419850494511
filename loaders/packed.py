"""How samples cross from a worker process to its rank: all of a piece in one shared memory, so that a piece costs one descriptor and no pickling.

Only views are made on the other side, and only when somebody looks at a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT_BYTES = 4096


def shared_bytes(num_bytes: int) -> tuple[torch.Tensor, memoryview]:
    """A uint8 tensor in shared memory (page-aligned) and its memory, so that reads land where the rank will find them."""
    storage = torch.UntypedStorage._new_shared(max(num_bytes, 1))
    tensor = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,))
    return tensor, memoryview(tensor.numpy())


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


def pack_in_place(tensor: torch.Tensor, memory: memoryview, records: Sequence[memoryview]) -> Packed:
    """Records that lie in `memory`, which is the tensor's, without a copy; a record that lies elsewhere has them all copied."""
    base = _address(memory)
    sizes = np.array([len(record) for record in records], np.int64)
    starts = np.array([_address(record) for record in records], np.int64) - base
    if ((starts < 0) | (starts + sizes > len(memory)))[sizes > 0].any():
        return pack(records)
    return Packed(tensor, starts, sizes)


def pack(values: Sequence[Any]) -> Packed:
    """Records, or decoded uint8 arrays, copied into new shared memory."""
    arrays = [np.frombuffer(value, np.uint8) if isinstance(value, memoryview) else value for value in values]
    sizes = np.array([array.size for array in arrays], np.int64)
    ends = np.cumsum(sizes)
    tensor, memory = shared_bytes(int(ends[-1]) if len(ends) else 0)
    target = np.frombuffer(memory, np.uint8)
    for array, end in zip(arrays, ends.tolist(), strict=True):
        target[end - array.size : end] = array.reshape(-1)
    shapes = None if all(array.ndim == 1 for array in arrays) else [array.shape for array in arrays]
    return Packed(tensor, ends - sizes, sizes, shapes)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0]) if len(view) else 0
