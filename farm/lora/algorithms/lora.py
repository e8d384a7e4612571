"""LoRA and LoCon: a change of low rank, W' = W + s · (alpha / r) · B A.

Papers: LoRA (Hu et al., arXiv 2106.09685); LoCon, the same for convolutions, where A holds the kernel (LyCORIS, Yeh et
al., arXiv 2309.14859). Shapes: `lora_up` B (out, r[, 1, 1]), `lora_down` A (r, in[, kh, kw]), `alpha` one value.
With `lora_mid` M (r, r, kh, kw), a Tucker or CP core: change[o, i, …] = (alpha / r) Σ_mn B[o, m] M[m, n, …] A[n, i].
M's first axis pairs with B, so M and A together are again a down factor of rank r.
DyLoRA (Valipour et al., arXiv 2210.07558) is the same after training; its live form lists A and B rank by rank.
AdaLoRA (Zhang et al., arXiv 2303.10512) adds `lora_e` E (r, 1): B diag(E) A. peft's embeddings store both factors
transposed, `embedding_a` (r, entries) and `embedding_b` (width, r): change = (alpha / r) · (B A)ᵀ.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.algorithms import residual
from farm.lora.algorithms.factors import with_core
from farm.lora.delta import Delta, LayerTensors


class LowRank(Delta):
    """A change that is a product of two factors. alpha / r is folded into `down`."""

    __slots__ = ("down", "up")

    def __init__(self, up: Tensor, down: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        #: (out, r) and (r, in · kernel)
        self.up, self.down = up, down

    def factors(self, max_rank: int | None = None) -> tuple[Tensor, Tensor]:
        if max_rank is None or max_rank >= self.up.shape[1]:
            return self.up, self.down
        return self.up[:, :max_rank], self.down[:max_rank]

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        up, down = (factor.to(pristine.device) for factor in self.factors(max_rank))
        return (up * strength @ down).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.up, self.down)


def read(layer: LayerTensors) -> Delta:
    _check_reshape(layer)
    if layer.has("embedding_a"):
        up, down = layer.read("embedding_a").T.contiguous(), layer.read("embedding_b").T.contiguous()
    else:
        up, down = _listed(layer, "lora_up", 1), _listed(layer, "lora_down", 0)
    singular, core = layer.maybe("lora_e"), layer.maybe("lora_mid")
    scale = layer.scale(down.shape[0])
    if singular is not None:
        down = down.mul_(singular.reshape(-1, 1))
    if core is not None:
        down = with_core(core, down)
    bias = layer.bias("diff_b")
    if bias is None:
        bias = layer.bias("lora_up_bias")
        bias = None if bias is None else bias * scale
    down = layer.finite("lora_down", down.mul_(scale).contiguous())
    return residual.wrap(layer, LowRank(up, down, bias), scale)


def _listed(layer: LayerTensors, suffix: str, axis: int) -> Tensor:
    """A factor as a matrix, joined along the rank when it is stored as a list."""
    if not layer.has(f"{suffix}.0"):
        return layer.read(suffix).flatten(1).contiguous()
    parts: list[Tensor] = []
    while layer.has(f"{suffix}.{len(parts)}"):
        parts.append(layer.read(f"{suffix}.{len(parts)}").flatten(1))
    return torch.cat(parts, dim=axis)


def _check_reshape(layer: LayerTensors) -> None:
    wanted = layer.raw("reshape_weight")
    if wanted is not None and tuple(wanted.reshape(-1).tolist()) != layer.shape:
        raise BadRequest(
            f"{layer.module} wants its layer made {'x'.join(map(str, wanted.reshape(-1).tolist()))}, the model's has "
            f"{'x'.join(map(str, layer.shape))} (reshape_weight)",
            "Farm changes weights where they are and cannot make them larger; use a model of that shape",
            code="algorithm_not_applied",
        )
