"""What the engine needs to know of a layer whose weight may be quantised: such weights are read by their kernels alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_quantised(module: nn.Module) -> bool:
    """Whether the weight is stored otherwise than as numbers that may be added to (torchao, bitsandbytes, …)."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    return type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point()


def weight_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Shape of the weight that the module stands for, however it is packed; None when it has none."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if isinstance(module, nn.Linear) and is_quantised(module):
        return module.out_features, module.in_features
    return tuple(weight.shape)


def arithmetic_of(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    """dtype in which the module computes, and its device; float32 where a quantised module does not tell."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    told = (weight.dtype, getattr(module, "compute_dtype", None), None if bias is None else bias.dtype)
    found = next((dtype for dtype in told if dtype is not None and dtype.is_floating_point), torch.float32)
    return found, weight.device
