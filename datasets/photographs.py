"""Task `photographs`: what is in this window? Windows of 32 x 32 pixels out of the two photographs that scikit-learn ships, in 12 classes.

Each photograph is cut into blocks of 40 x 40 pixels, and a map gives the blocks their classes (a dot: of none). Of each class every fourth block is held out. A
window lies within one block, so no pixel of a held-out window is in a training window.
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
_BLOCK = 40
# Where a window begins in its block, down and across.
_OFFSETS = (0, 3, 5, 8)
_HELD_OUT_ONE_IN, _HELD_OUT_PLACE = 4, 2
# Drawn by eye: blocks that hold one thing. Where two meet, a block is of none.
_CHINA = """
..........ssssss
..........ssssss
...rrrr.........
...ffff.........
...rrrr........t
g.ffffff....w.tt
g.rrrrrr.wwww.tt
.wffffff.w.bbbtt
gg.......bbbbbtt
ggggg....bbbbbtt
"""
_FLOWER = """
................
................
.ll....uu.......
lll..uuuuu......
lll..uccc.u.....
lll...ccc...qqqq
ll...o.cco..qqqq
l....ooooo.qqqqq
......ooo..qqqqq
................
"""
_MAPS = (_CHINA, _FLOWER)
_CLASSES = {
    "s": "sky",
    "r": "roof",
    "f": "gallery",
    "w": "water",
    "g": "leaves in the sun",
    "b": "bushes",
    "t": "tree",
    "l": "leaf out of focus",
    "q": "shadow",
    "c": "centre of the flower",
    "u": "upper petals",
    "o": "lower petals",
}
_CREDITS = {
    "source": "china.jpg by danielbuechele (https://www.flickr.com/photos/danielbuechele/6061409035) and flower.jpg by vultilion "
    "(https://www.flickr.com/photos/vultilion/6056698931), as in scikit-learn's load_sample_images",
    "licence": "CC BY 2.0, https://creativecommons.org/licenses/by/2.0/",
}


class Window(NamedTuple):
    """A square of SIDE pixels in a photograph (0: china.jpg, 1: flower.jpg)."""

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
    cut = list(windows(split))
    return TaskImages(
        pixels=np.stack([found.images[one.photograph][one.top : one.top + SIDE, one.left : one.left + SIDE] for one in cut]),
        labels=np.array([one.label for one in cut], np.int64),
        classes=tuple(_CLASSES.values()),
        fingerprint=hasher.hexdigest(),
        credits=_CREDITS,
    )


def windows(split: str) -> Iterator[Window]:
    """The windows of a split, class by class."""
    for label, letter in enumerate(_CLASSES):
        for place, (photograph, row, column) in enumerate(_blocks(letter)):
            if (place % _HELD_OUT_ONE_IN == _HELD_OUT_PLACE) == (split == HELD_OUT):
                yield from (Window(photograph, label, row * _BLOCK + down, column * _BLOCK + across) for down in _OFFSETS for across in _OFFSETS)


def _blocks(letter: str) -> Iterator[tuple[int, int, int]]:
    """(photograph, row, column) of the blocks of a class, in reading order."""
    for photograph, drawn in enumerate(_MAPS):
        for row, line in enumerate(drawn.split()):
            yield from ((photograph, row, column) for column, found in enumerate(line) if found == letter)
