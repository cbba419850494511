"""What the sync of a step cost, and whom the ranks waited for: over all ranks, one after another, in memory that grows with the steps of one.

In a run with `sync: step` all ranks are released together, as soon as the last one has computed. Each rank's record says how long it waited from its own
due to its release, in the clock of its own host; the rank that came last waited least, and what it waited is what the sync itself takes. So no stamps of
two hosts are compared: over several hosts the least wait is still the last one's, as long as it came later than a message takes between them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from storagebench.traces import Ints

_STEP_BITS = 40
NOBODY: Final = -1  # came last alone


class LeastOfSteps:
    """The least value of each (epoch, step) over the ranks."""

    def __init__(self) -> None:
        self._keys: Ints = np.zeros(0, dtype=np.int64)
        self._least: Ints = np.zeros(0, dtype=np.int64)

    def take(self, epochs: Ints, steps: Ints, values: Ints) -> None:
        keys = _keys(epochs, steps)
        if np.array_equal(keys, self._keys):
            np.minimum(self._least, values, out=self._least)
            return
        every = np.concatenate([self._keys, keys])
        self._keys, where = np.unique(every, return_inverse=True)
        least = np.full(len(self._keys), np.iinfo(np.int64).max)
        np.minimum.at(least, where, np.concatenate([self._least, values]))
        self._least = least

    def total(self) -> int:
        return int(self._least.sum())

    def of(self, epochs: Ints, steps: Ints) -> Ints:
        """The least value of each of these steps, all of which were taken in."""
        return np.asarray(self._least[np.searchsorted(self._keys, _keys(epochs, steps))])


class LastOfSteps:
    """Of each (epoch, step): the least value over the ranks, whose it is, and how much more the others have."""

    def __init__(self) -> None:
        self._keys, self._least, self._sum, self._count, self._who = (np.zeros(0, dtype=np.int64) for _ in range(5))

    def take(self, rank: int, epochs: Ints, steps: Ints, values: Ints) -> None:
        """The values of the rank with this index, each step once."""
        keys = _keys(epochs, steps)
        if not np.array_equal(keys, self._keys):
            self._make_room(keys)
        at = np.searchsorted(self._keys, keys)
        least = self._least[at]
        self._who[at] = np.where(values < least, rank, np.where(values == least, NOBODY, self._who[at]))
        self._least[at] = np.minimum(least, values)
        self._sum[at] += values
        self._count[at] += 1

    def _make_room(self, keys: Ints) -> None:
        every = np.union1d(self._keys, keys)
        at = np.searchsorted(every, self._keys)
        for name, start in (("_least", np.iinfo(np.int64).max), ("_sum", 0), ("_count", 0), ("_who", NOBODY)):
            column = np.full(len(every), start, dtype=np.int64)
            column[at] = getattr(self, name)
            setattr(self, name, column)
        self._keys = every

    def total(self) -> int:
        """The sum of the least values: what the sync itself took."""
        return int(self._least.sum())

    def caused(self, num_ranks: int) -> Ints:
        """For each rank the sum of what the others have over its value, in the steps where its value is the least alone. Of steps where two share the
        least value nobody is the cause."""
        waits = self._sum - self._count * self._least
        alone = self._who != NOBODY
        found = np.zeros(num_ranks, dtype=np.int64)
        np.add.at(found, self._who[alone], waits[alone])
        return found


def _keys(epochs: Ints, steps: Ints) -> Ints:
    return np.asarray((epochs << _STEP_BITS) + steps)
