"""What a real module has: the judge of every layout."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from farm.lora.layout import Layer

Described = dict[str, tuple[str, tuple[int, ...], bool]]
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weighted(module: nn.Module) -> Described:
    """Return kind, shape and bias of every module with a weight, by name."""
    return {
        name: (_kind(part, name), tuple(part.weight.shape), getattr(part, "bias", None) is not None)
        for name, part in module.named_modules()
        if isinstance(getattr(part, "weight", None), torch.Tensor)
    }


def _kind(part: nn.Module, name: str) -> str:
    if isinstance(part, _CONVS):
        return "conv"
    if isinstance(part, nn.Embedding):
        return "embedding"
    if len(part.weight.shape) == 1:  # type: ignore[union-attr, arg-type]
        assert "norm" in type(part).__name__.lower(), f"{name} is a {type(part).__name__}"
        return "norm"
    return "linear"


def described(layers: Iterable[Layer]) -> Described:
    """Return the same of a layout's layers."""
    listed = list(layers)
    found = {layer.path: (layer.kind, layer.shape, layer.bias) for layer in listed}
    assert len(found) == len(listed)
    return dict(found)
