"""The models by name. Small ones, for images of 8 x 8 pixels and more; none is imported from a library, so that all of it can be read here (`nets`).

`resnetN` and `plainN` are those of He et al. 2015 (arXiv 1512.03385, section 4.2) for CIFAR-10: N = 6n + 2 layers with weights, three stages of 16, 32 and 64
filters, batch normalisation behind each convolution; the first with shortcuts (option A: without parameters), the second without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from storagebench.errors import UsageError, did_you_mean

LEAST_PIXELS: Final = 8
Kind = Literal["linear", "mlp", "plain", "resnet"]


class Model(NamedTuple):
    """`layers` with weights; of the convolutional ones 6n + 2. `rate` is the learning rate where none is given: of the convolutional ones that of He et al.,
    whose batch normalisation bears it; the others diverge with it (tried on digits)."""

    name: str
    kind: Kind
    layers: int
    rate: float = 0.1


MODELS: Final[Mapping[str, Model]] = {
    model.name: model
    for model in (
        Model("linear", "linear", 1, 0.01),
        Model("mlp", "mlp", 3, 0.01),
        *(Model(f"plain{layers}", "plain", layers) for layers in (8, 14, 20)),
        *(Model(f"resnet{layers}", "resnet", layers) for layers in (8, 14, 20, 32, 56)),
    )
}


def model_of(name: str) -> Model:
    """The row of a model. Raises UsageError with the list for an unknown name."""
    if name in MODELS:
        return MODELS[name]
    raise UsageError(f"unknown model {name!r} to train; known: {', '.join(MODELS)}", did_you_mean(name, list(MODELS)))


def build(model: Model, num_classes: int, height: int, width: int) -> Any:
    """A torch module from float32[batch, 3, height, width] to float32[batch, num_classes]. Weights are drawn from torch's own generator."""
    from storagebench.training import nets

    if model.kind == "linear":
        return nets.linear(3 * height * width, num_classes)
    if model.kind == "mlp":
        return nets.mlp(3 * height * width, num_classes)
    return nets.ResNet((model.layers - 2) // 6, num_classes, shortcuts=model.kind == "resnet")


def num_parameters(net: Any) -> int:
    """Trained numbers of a torch module (running means of batch normalisation are none)."""
    return sum(int(parameter.numel()) for parameter in net.parameters() if parameter.requires_grad)
