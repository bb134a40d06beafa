"""Low-rank adapters (LoRA: Hu et al. 2021): beside a frozen linear layer, two thin ones that are trained.

y = W x + (alpha / rank) B A x, with A [rank, in] and B [out, rank]; afterwards they are merged, W + (alpha / rank) B A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.errors import ModelError
from model.layers import Linear
from model.lora_settings import LoRASettings

_A, _B = ".adapter.a", ".adapter.b"


class Adapter(nn.Module):
    """The two thin layers. B starts at zero, so that the model starts as it was (Hu et al. 2021, section 4.1)."""

    def __init__(self, in_features: int, out_features: int, settings: LoRASettings) -> None:
        super().__init__()
        self.scale, self.dropout = settings.scale, settings.dropout
        self.a = nn.Parameter(torch.empty(settings.rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, settings.rank))
        nn.init.normal_(self.a, std=1 / math.sqrt(in_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        x = F.dropout(x, self.dropout, self.training)
        return F.linear(F.linear(x, self.a), self.b) * self.scale


def add_adapters(module: nn.Module, settings: LoRASettings) -> None:
    """Put adapters beside the linear layers of the blocks that the targets name, drawn from torch's global generator.

    Raises:
        ModelError: a target matches none.
    """
    layers = {name: layer for name, layer in module.named_modules() if _in_block(name) and isinstance(layer, Linear)}
    for pattern in settings.targets:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ModelError(
                f"train.lora.targets: {pattern!r} must match a linear layer of a block and matches none; "
                f"there are {', '.join(_kinds(layers))} in each"
            )
    for name, layer in layers.items():
        if any(fnmatchcase(name, pattern) for pattern in settings.targets):
            adapter = Adapter(layer.in_features, layer.out_features, settings)
            layer.adapter = adapter.to(layer.weight.device, layer.weight.dtype)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return name.endswith((_A, _B))


def _in_block(name: str) -> bool:
    return "h" in name.split(".")


def _kinds(names: Mapping[str, nn.Module]) -> Sequence[str]:
    """The names within a block, each once: attn.c_attn of h.3.attn.c_attn."""
    return sorted({name.partition("h.")[2].partition(".")[2] for name in names})


class _Merged(Mapping[str, Tensor]):
    """See `merge`."""

    def __init__(self, parameters: Mapping[str, Tensor], settings: LoRASettings) -> None:
        self._parameters, self._scale = parameters, settings.scale
        self._names = [name for name in parameters if not is_adapter(name)]

    def __getitem__(self, name: str) -> Tensor:
        if is_adapter(name):
            raise KeyError(name)
        weight = self._parameters[name]
        layer = name.removesuffix(".weight")
        if layer == name or layer + _A not in self._parameters:
            return weight
        a, b = self._parameters[layer + _A].float(), self._parameters[layer + _B].float()
        return (weight.float() + self._scale * (b @ a)).to(weight.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def merge(parameters: Mapping[str, Tensor], settings: LoRASettings) -> Mapping[str, Tensor]:
    """The parameters of the plain model, by name, each worked out when it is asked for: one is held at a time.

    parameters: the adapted model's, perhaps read from a file by name. What has no adapter is handed on as it is.
    """
    return _Merged(parameters, settings)
