"""Task `digits`: handwritten digits of 8 x 8 grey pixels, as scikit-learn ships them (1797 images, 10 classes).

A pixel of the data counts the ink in a block of 4 x 4 of the scan, 0 to 16; here it is (255 * count + 8) // 16, so 0 is 0, 16 is 255, and no two are alike.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from storagebench.datasets.taskimages import TaskImages, need_scikit_learn
from storagebench.heldout import HELD_OUT

_HELD_OUT_ONE_IN = 5
_CREDITS = {
    "source": "test set of Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI 1998, https://doi.org/10.24432/C50P49, "
    "as in scikit-learn's load_digits",
    "licence": "CC BY 4.0",
}


def load(split: str) -> TaskImages:
    """One split. The held-out one has the last fifth of each class. Raises UsageError where scikit-learn is not installed."""
    need_scikit_learn("digits")
    from sklearn.datasets import load_digits

    found = load_digits()
    counts, labels = np.rint(found.images).astype(np.int64), found.target.astype(np.int64)
    chosen = held_out(labels) == (split == HELD_OUT)
    return TaskImages(
        pixels=grey(counts[chosen]),
        labels=labels[chosen],
        classes=tuple(str(name) for name in found.target_names),
        fingerprint=hashlib.sha256(counts.astype("<i8").tobytes() + labels.astype("<i8").tobytes()).hexdigest(),
        credits=_CREDITS,
    )


def grey(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Ink counts 0 to 16 as grey levels 0 to 255."""
    return ((counts * 255 + 8) // 16).astype(np.uint8)


def held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which samples are held out: of each class the last fifth, in the order of the data, so the shares of the classes stay as they are."""
    found = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        found[places[len(places) - len(places) // _HELD_OUT_ONE_IN :]] = True
    return found
