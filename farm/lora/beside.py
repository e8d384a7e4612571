"""The side branch of one layer: y = W0 (x + E (s ∘ F x)) + U (s ∘ D x) + s · C x + s · b, W0 untouched.

The strengths s are a tensor with one row for each sample of the batch, so that samples of different adapters and
strengths share a forward pass (S-LoRA, Sheng et al., arXiv 2311.03285, for language models). Factors of all adapters
stand side by side along the rank; a sample that does not have one has strength 0 there.

The module's `forward` is replaced on the instance, not hooked: torch.compile ignores hooks that were registered after it
compiled, and sees a forward that comes or goes. Nothing else of the module changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farm.errors import BadRequest, Permanent
from farm.lora.arithmetic import upload
from farm.lora.layout import Layer
from farm.lora.sides import Side

_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def why_not_beside(layer: Layer, module: nn.Module) -> str:
    """Why no adapter can act beside this module; "" when one can."""
    # a convolution that pads in a forward of its own would not be met by ours
    plain = type(module).forward in [cls.forward for cls in _CONVS]
    if plain if layer.kind == "conv" else isinstance(module, nn.Linear):
        return ""
    return f"{layer.name} is a {type(module).__name__}, beside which no adapter can act"


class Beside:
    """A layer that may have a branch. `columns` says whose strength each column of `strengths` is."""

    def __init__(self, layer: Layer, module: nn.Module) -> None:
        if problem := why_not_beside(layer, module):
            raise BadRequest(problem, "use lora_mode patch", code="no_side_branch")
        self._conv: _Conv | None = module if isinstance(module, _CONVS) else None
        self._module = module
        self._shape = layer.shape
        self._groups: int = 1 if self._conv is None else self._conv.groups
        self._inner: Callable[..., Tensor] = module.forward
        self._before: Callable[..., Tensor] | None = None
        self._installed = False
        self._dtype = torch.float32
        self.device = torch.device("cpu")
        #: float32, (samples, columns), or (1, columns) for any number of samples
        self.strengths: Tensor = torch.empty(0)
        #: position of each column's side; order: outer ranks, inner ranks, dense, bias
        self.columns: tuple[int, ...] = ()
        self._outer: tuple[Tensor, Tensor] | None = None
        self._inside: tuple[Tensor, Tensor] | None = None
        self._dense: tuple[Tensor, ...] = ()
        self._bias: Tensor | None = None
        self._ends = (0, 0, 0)

    def fill(self, sides: Sequence[Side], dtype: torch.dtype, device: torch.device) -> None:
        """Take the factors of these adapters. Strengths must be set before the next forward pass."""
        outer = [(n, *side.outer) for n, side in enumerate(sides) if side.outer is not None]
        inner = [(n, *side.inner) for n, side in enumerate(sides) if side.inner is not None]
        dense = [(n, side.dense) for n, side in enumerate(sides) if side.dense is not None]
        bias = [(n, side.bias) for n, side in enumerate(sides) if side.bias is not None]
        self._dtype, self.device = dtype, device
        kernel = self._shape[2:]
        ones = (1,) * len(kernel)
        into = self._shape[1]

        def place(tensors: Sequence[Tensor], dim: int, *shape: int) -> Tensor:
            joined = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)
            return upload(joined.to(dtype).reshape(shape), device)

        # with groups, each group of channels has the whole branch
        g = self._groups
        self._outer = self._inside = self._bias = None
        if outer:
            up = place([u for _, u, _ in outer], 1, self._shape[0], -1, *ones)
            down = place([d for _, _, d in outer], 0, -1, into, *kernel)
            self._outer = (up, _repeated(down, g))
        if inner:
            back = place([e for _, e, _ in inner], 1, into, -1, *ones)
            thin = place([f for _, _, f in inner], 0, -1, into, *ones)
            self._inside = (_repeated(back, g), _repeated(thin, g))
        self._dense = tuple(upload(c.to(dtype), device) for _, c in dense)
        if bias:
            self._bias = upload(torch.stack([b for _, b in bias]).to(dtype), device)
        columns = [n for n, _, down in outer for _ in range(down.shape[0])]
        low = len(columns)
        columns += [n for n, _, thin in inner for _ in range(thin.shape[0])]
        inside = len(columns)
        columns += [n for n, _ in dense]
        self._ends = (low, inside, len(columns))
        self.columns = (*columns, *(n for n, _ in bias))

    def install(self) -> None:
        if not self._installed:
            self._inner = self._module.forward
            self._before = self._module.__dict__.get("forward")
            self._module.forward = self.forward
            self._installed = True

    def remove(self) -> None:
        """Leave the module as it was."""
        if self._installed:
            if self._before is None:
                del self._module.forward
            else:
                self._module.forward = self._before
            self._installed = False

    def forward(self, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        """What the module gives, and beside it what the adapters add to each sample."""
        low, inside, dense = self._ends
        s = self.strengths.to(self._dtype)
        if s.shape[0] not in (1, x.shape[0]):
            raise Permanent(
                f"a layer got {x.shape[0]} samples, strengths are set for {s.shape[0]}",
                "assign strengths to every row of the batch",
            )
        thin = x.to(self._dtype)
        fed = x
        if self._inside is not None:
            back, into = self._inside
            middle = self._scaled(
                self._product(thin, into, point=True), s[:, low:inside].repeat(1, self._groups)
            )
            fed = x + self._product(middle, back, point=True).to(x.dtype)
        y = self._inner(fed, *rest, **options)
        if self._outer is not None:
            up, down = self._outer
            middle = self._scaled(self._product(thin, down), s[:, :low].repeat(1, self._groups))
            y = self._added(y, middle, up)
        for n, change in enumerate(self._dense, inside):
            y = y + self._product(self._scaled(thin, s[:, n : n + 1]), change).to(y.dtype)
        if self._bias is not None:
            y = y + self._spread(s[:, dense:] @ self._bias, y).to(y.dtype)
        return y

    def _product(self, x: Tensor, weight: Tensor, *, point: bool = False) -> Tensor:
        """x through a layer with this weight and no bias; `point` is a 1 × 1 kernel without stride or padding."""
        if self._conv is None:
            return F.linear(x, weight)
        if point:
            return _POINT[x.dim() - 3](x, weight, groups=self._groups)
        return self._conv._conv_forward(x, weight, None)  # type: ignore[no-any-return]

    def _added(self, y: Tensor, middle: Tensor, up: Tensor) -> Tensor:
        """y + U middle; for linear layers in one call, which adds before it rounds."""
        if self._conv is not None:
            return y + self._product(middle, up, point=True).to(y.dtype)
        flat = torch.addmm(y.reshape(-1, up.shape[0]).to(up.dtype), middle.flatten(0, -2), up.T)
        return flat.view(y.shape).to(y.dtype)

    def _scaled(self, x: Tensor, s: Tensor) -> Tensor:
        """x times its strengths. What overflowed for an adapter that a sample does not have is none of its business."""
        spread = self._spread(s, x)
        return torch.where(spread != 0, x * spread, 0)

    def _spread(self, rows: Tensor, like: Tensor) -> Tensor:
        """(samples, n) so that it meets `like`: n is the last axis of a linear layer's, the second of a convolution's."""
        ones = (1,) * (like.dim() - 2)
        shape = (*rows.shape, *ones) if self._conv is not None else (rows.shape[0], *ones, rows.shape[1])
        return rows.view(shape)


def _repeated(factor: Tensor, groups: int) -> Tensor:
    return factor if groups == 1 else factor.repeat(groups, *(1,) * (factor.dim() - 1))


_POINT = (F.conv1d, F.conv2d, F.conv3d)
