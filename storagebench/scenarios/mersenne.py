"""The random choices of LoadGen: std::mt19937 and the distributions of libstdc++ over it, so that a seed gives the very queries that LoadGen issues.

`std::mt19937(seed)` takes the low 32 bits of a seed. The C++ standard fixes the words of the generator only; what follows from them (a number below n, a
shuffle, an exponential gap) is the library's, here that of GCC 11 and later, with which the package on PyPI is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

_WORD = 2**32
_BLOCK = 4096


class Mersenne:
    """A stream of 32-bit words. Not thread-safe."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.RandomState(seed % _WORD)  # MT19937 with the initialisation that std::mt19937 has; its stream is frozen
        self._words: Iterator[int] = iter(())

    def word(self) -> int:
        """The next word, 0 .. 2^32 - 1."""
        for word in self._words:
            return word
        self._words = iter(np.frombuffer(self._source.bytes(4 * _BLOCK), "<u4").tolist())
        return next(self._words)

    def below(self, bound: int) -> int:
        """Uniform in 0 .. bound - 1 (1 <= bound < 2^32), by the high half of a product (Lemire); words that would favour some are drawn again."""
        product = self.word() * bound
        if product % _WORD < bound:
            least = (_WORD - bound) % bound
            while product % _WORD < least:
                product = self.word() * bound
        return product // _WORD

    def shuffle(self, items: list[int]) -> None:
        """std::shuffle in place: two positions out of one word where they fit into it."""
        count = len(items)
        if count < 2:
            return
        if (_WORD - 1) // count < count:
            for index in range(1, count):
                self._swap(items, index, self.below(index + 1))
            return
        index = 1
        if count % 2 == 0:
            self._swap(items, 1, self.below(2))
            index = 2
        while index < count:
            first, second = divmod(self.below((index + 1) * (index + 2)), index + 2)
            self._swap(items, index, first)
            self._swap(items, index + 1, second)
            index += 2

    @staticmethod
    def _swap(items: list[int], one: int, other: int) -> None:
        items[one], items[other] = items[other], items[one]

    def unit(self) -> float:
        """A double in [0, 1) out of two words."""
        value = (self.word() + self.word() * float(_WORD)) / float(_WORD) ** 2
        return value if value < 1.0 else math.nextafter(1.0, 0.0)

    def exponential_ns(self, per_s: float) -> int:
        """A gap of a Poisson process of that rate, in whole nanoseconds (cut, not rounded, as LoadGen's cast does)."""
        return int(-math.log(1.0 - self.unit()) / per_s * 1e9)
