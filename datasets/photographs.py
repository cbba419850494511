"""Task `photographs`: which part of which photograph is this? Windows of 32 x 32 pixels out of the two photographs that scikit-learn ships.

Each photograph is cut into blocks of 53 x 53 pixels, and 4 x 4 blocks are a region, which is a class: 6 regions in each. Of the 16 blocks of a region, 4 are
held out, one in each row and in each column. A window lies within one block, so no pixel of a held-out window is in a training window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from storagebench.datasets.taskimages import TaskImages, need_scikit_learn
from storagebench.heldout import HELD_OUT

SIDE = 32
_BLOCK = 53
_BLOCKS_OF_REGION = 4
_REGIONS_DOWN, _REGIONS_ACROSS = 2, 3  # 424 x 636 of a photograph's 427 x 640 pixels
_ROWS, _COLUMNS = ("upper", "lower"), ("left", "middle", "right")
_HELD_OUT_COLUMN = (1, 3, 0, 2)  # of each row of blocks of a region
_TRAINING_OFFSETS, _HELD_OUT_OFFSETS = (0, 7, 14, 21), (0, 10, 21)  # of windows in a block, down and across
_CREDITS = {
    "source": "china.jpg by danielbuechele (https://www.flickr.com/photos/danielbuechele/6061409035) and flower.jpg by vultilion "
    "(https://www.flickr.com/photos/vultilion/6056698931), as in scikit-learn's load_sample_images",
    "licence": "CC BY 2.0, https://creativecommons.org/licenses/by/2.0/",
}


class Window(NamedTuple):
    """A square of SIDE pixels in a photograph."""

    photograph: int
    label: int
    top: int
    left: int


def load(split: str) -> TaskImages:
    """One split. Raises UsageError where scikit-learn is not installed."""
    need_scikit_learn("photographs")
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    hasher = hashlib.sha256()
    for name in found.filenames:
        hasher.update(Path(name).read_bytes())
    cut = list(windows(split, len(found.images)))
    names = [Path(name).stem for name in found.filenames]
    return TaskImages(
        pixels=np.stack([found.images[one.photograph][one.top : one.top + SIDE, one.left : one.left + SIDE] for one in cut]),
        labels=np.array([one.label for one in cut], np.int64),
        classes=tuple(f"{name} {row} {column}" for name in names for row in _ROWS for column in _COLUMNS),
        fingerprint=hasher.hexdigest(),
        credits=_CREDITS,
    )


def windows(split: str, num_photographs: int = 2) -> Iterator[Window]:
    """The windows of a split, region by region."""
    offsets = _HELD_OUT_OFFSETS if split == HELD_OUT else _TRAINING_OFFSETS
    regions = [(photograph, down, across) for photograph in range(num_photographs) for down in range(_REGIONS_DOWN) for across in range(_REGIONS_ACROSS)]
    for label, (photograph, down, across) in enumerate(regions):
        for row in range(_BLOCKS_OF_REGION):
            for column in range(_BLOCKS_OF_REGION):
                if (column == _HELD_OUT_COLUMN[row]) != (split == HELD_OUT):
                    continue
                top, left = (down * _BLOCKS_OF_REGION + row) * _BLOCK, (across * _BLOCKS_OF_REGION + column) * _BLOCK
                yield from (Window(photograph, label, top + y, left + x) for y in offsets for x in offsets)
