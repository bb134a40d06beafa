"""Which of a model's parameters are trained, and on which Muon steps. Without DeepSpeed, so that a plan can ask."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_HEADS = ("lm_head", "score")


def muon_shapes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Shapes of Muon's matrices by name: the weights of linear layers, but for the output layer."""
    shapes, trained = {}, dict(trainable(module))
    for place, layer in module.named_modules():
        name = f"{place}.weight"
        if isinstance(layer, nn.Linear) and name in trained and place.rpartition(".")[2] not in _HEADS:
            shapes[name] = (layer.out_features, layer.in_features)
    return shapes


def trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
