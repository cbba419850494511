"""What a small real task is made of: one split's images with their labels, and how they become records. No I/O; Pillow is imported on first use."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import UsageError
from storagebench.registry import missing_modules

# Of 1 to 100: from 95 on the differences to the pixels that went in are a few of 255 levels.
_JPEG_QUALITY = 95
_PNG_LEVEL = 9


@dataclass(frozen=True)
class TaskImages:
    """The images of one split, in the task's own order.

    `pixels` uint8[n, side, side] (grey) or uint8[n, side, side, 3] (RGB), `labels` int64[n] into `classes`; `fingerprint`: sha256 of the data they are from;
    `credits`: source and licence of these.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str
    credits: Mapping[str, str] = field(default_factory=dict)


def need_scikit_learn(task: str) -> None:
    """Raises UsageError where what reads the task's data is not installed."""
    missing = missing_modules(("sklearn", "PIL"))
    if missing:
        names = {"sklearn": "scikit-learn", "PIL": "pillow"}
        raise UsageError(
            f"task {task} needs {' and '.join(names[name] for name in missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            "pip install 'storagebench[train]'",
        )


def mixed_order(seed: int, count: int) -> list[int]:
    """The numbers 0 .. count - 1 in an order that the seed gives, the same with every version of every library.

    >>> mixed_order(42, 5)
    [0, 1, 2, 3, 4]
    """
    return sorted(range(count), key=lambda number: hashlib.sha256(b"%d %d" % (seed, number)).digest())


def encode(pixels: NDArray[np.uint8], payload: str) -> bytes:
    """One image as a file: `png`, which keeps every pixel, or `jpeg`, with colour at full resolution."""
    from PIL import Image

    encoded = io.BytesIO()
    image = Image.fromarray(pixels)
    if payload == "png":
        image.save(encoded, "PNG", compress_level=_PNG_LEVEL)
    else:
        image.save(encoded, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4")
    return encoded.getvalue()
