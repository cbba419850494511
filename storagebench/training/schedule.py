"""How the weights are changed: stochastic gradient descent with momentum and a fixed schedule, that of He et al. 2015 (arXiv 1512.03385, section 4.2).

Momentum 0.9, weight decay 0.0001, and a learning rate that is divided by 10 at half and again at three quarters of the planned epochs (there 32k and 48k of
64k steps). The rate itself is `train.learning_rate`, else that of the model's row in `models`. Nothing else is tuned, and nothing is drawn at random: no augmentation, no dropout.
"""

from __future__ import annotations

from typing import Final

MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 1e-4
_DROPS: Final = (1 / 2, 3 / 4)
_FACTOR: Final = 0.1


def learning_rate(base: float, epoch: int, epochs: int) -> float:
    """The rate of an epoch (from 0) of so many planned ones.

    >>> [round(learning_rate(0.1, epoch, 8), 6) for epoch in (0, 3, 4, 6)]
    [0.1, 0.1, 0.01, 0.001]
    """
    return base * _FACTOR ** sum(epoch >= drop * epochs for drop in _DROPS)
