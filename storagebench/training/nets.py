"""The modules behind `models`. Importing this imports torch."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

_HIDDEN: Final = 256
_FILTERS: Final = (16, 32, 64)


def linear(num_features: int, num_classes: int) -> Any:
    """Softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(num_features, num_classes))


def mlp(num_features: int, num_classes: int) -> Any:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(num_features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, num_classes)
    )


def _conv(inputs: int, outputs: int, stride: int) -> Any:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


class Block(nn.Module):  # type: ignore[misc]  # torch is not type-checked
    """Two convolutions; with a shortcut the input is added before the last ReLU, its rows and columns thinned by the stride and zeros in the new channels
    (option A of He et al.)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.first, self.first_norm = _conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.second, self.second_norm = _conv(outputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.stride, self.more, self.shortcut = stride, outputs - inputs, shortcut

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        if self.shortcut:
            if self.stride > 1:
                x = x[:, :, :: self.stride, :: self.stride]
            y = y + (functional.pad(x, (0, 0, 0, 0, 0, self.more)) if self.more else x)
        return functional.relu(y)


class ResNet(nn.Module):  # type: ignore[misc]  # torch is not type-checked
    """A convolution, three stages of `blocks` blocks each (the second and third begin with stride 2), the mean over all pixels, and a linear layer."""

    def __init__(self, blocks: int, num_classes: int, shortcuts: bool) -> None:
        super().__init__()
        self.stem, self.stem_norm = _conv(3, _FILTERS[0], 1), nn.BatchNorm2d(_FILTERS[0])
        stages: list[Any] = []
        inputs = _FILTERS[0]
        for stage, outputs in enumerate(_FILTERS):
            for block in range(blocks):
                stages.append(Block(inputs, outputs, 2 if stage and not block else 1, shortcuts))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(_FILTERS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Any) -> Any:
        x = self.stages(functional.relu(self.stem_norm(self.stem(x))))
        return self.head(torch.mean(x, dim=(2, 3)))
