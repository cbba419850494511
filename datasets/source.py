"""What the builder asks of a source of records, synthetic or real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storagebench.protocols import Record


class Source(Protocol):
    """Where records come from. Thread-safe.

    `kind` is synthetic, imported or task, `payload` bytes, text, jpeg or png; `approx_bytes` int64[num_samples] are record lengths as far as known beforehand;
    `classes` names the labels, where there are names.
    """

    kind: str
    payload: str
    num_samples: int
    approx_bytes: NDArray[np.int64]
    classes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """All that determines the records' bytes, as JSON-able fields."""

    def encoder(self) -> dict[str, str]:
        """Libraries, with versions, whose output the records are."""

    def records(self, first: int, count: int) -> Iterator[Record]:
        """Samples first .. first + count, each with at least one byte; a payload's memory may be reused for the next."""

    def close(self) -> None:
        """Release what is held. May be called twice."""
