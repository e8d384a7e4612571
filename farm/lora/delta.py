"""What an adapter does to one layer: low-rank factors, or a change computed from the pristine weight and a strength."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.formats.metadata import PeftConfig
from farm.lora.formats.suffixes import SCALE
from farm.lora.layout import Rows


class Delta(ABC):
    """The change that one adapter makes to one layer. All changes refer to the pristine weight, so they add up."""

    __slots__ = ("bias", "bias_factor")

    #: (out,), change of the layer's bias at strength 1; linear in strength for every algorithm
    bias: Tensor | None
    #: (out,), the same as a share of the bias itself: b' = b + s · (bias + bias_factor ∘ b)
    bias_factor: Tensor | None

    def __init__(self, bias: Tensor | None = None, bias_factor: Tensor | None = None) -> None:
        self.bias, self.bias_factor = bias, bias_factor

    @property
    def changes_bias(self) -> bool:
        return self.bias is not None or self.bias_factor is not None

    @property
    def reads(self) -> tuple[Rows, ...]:
        """Rows of layers that `change` wants, one below the other, in place of its own layer's weight; none for most."""
        return ()

    def factors(self, max_rank: int | None = None) -> tuple[Tensor, Tensor] | None:
        """(out, r) and (r, everything else) in float32 whose product, times the strength, is the change; None when
        there are no such factors."""
        return None

    @abstractmethod
    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor | None:
        """Change of the weight in float32 and in its shape, on its device; None when only the bias changes.
        `pristine` is the float32 weight (or the rows of `reads`) and is left as it is."""

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """All tensors that this object keeps, for counting bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensors:
    """The tensors of a file for one layer, read one by one, and what their algorithm needs to know beside them."""

    #: module name as in the file, for messages
    module: str
    algorithm: str
    #: shape of the layer's weight
    shape: tuple[int, ...]
    #: whether the model's layer has a bias
    has_bias: bool
    #: our suffix -> tensor in the dtype of the file (a view of the mapped file), None when it is not there
    raw: Callable[[str], Tensor | None]
    #: path inside its component, which the patterns of a peft configuration are about
    path: str
    #: configuration of the file's component, when its metadata or its folder have one
    peft: PeftConfig | None = None
    #: a stored alpha of 0 means "as the rank" in files of LyCORIS and nothing else
    zero_alpha_is_rank: bool = False
    #: takes what a person should know, as a sentence without the module
    warn: Callable[[str], None] = lambda _: None

    def has(self, suffix: str) -> bool:
        return self.raw(suffix) is not None

    def read(self, suffix: str) -> Tensor:
        """The tensor in float32, in memory of its own. Raises BadRequest when it is absent or not finite."""
        found = self.maybe(suffix)
        if found is None:
            raise BadRequest(
                f"{self.module} lacks its {suffix}", "the file is incomplete", code="bad_tensors"
            )
        return found

    def maybe(self, suffix: str) -> Tensor | None:
        found = self.raw(suffix)
        if found is None:
            return None
        tensor = found.to(torch.float32, copy=True)
        scale = self.raw(suffix + SCALE)
        if scale is not None:
            rows = (-1, *[1] * (tensor.dim() - 1)) if scale.numel() > 1 else ()
            tensor.mul_(scale.to(torch.float32).reshape(rows))
        return self.finite(suffix, tensor)

    def finite(self, suffix: str, tensor: Tensor) -> Tensor:
        """`tensor`, which was read or made from `suffix`. Raises BadRequest when not all of it is finite."""
        # a sum is quicker than a look at each; it may overflow, so it only accuses
        if not math.isfinite(tensor.sum()) and not bool(torch.isfinite(tensor).all()):
            raise self._not_finite(suffix)
        return tensor

    def scale(self, rank: int | None) -> float:
        """Factor that the trainer left out of the tensors: alpha / rank, or a stored `scale`. A layer without a rank
        ignores a stored alpha: some files hold nonsense there."""
        stored = self._number("scale")
        if stored is not None:
            return self._sensible("scale", stored)
        alpha = self._number("alpha")
        if alpha is None or rank is None:
            told = self.peft.scale_of(self.path, rank) if self.peft else None
            return 1.0 if told is None else self._sensible("scale in the configuration", told)
        if not math.isfinite(alpha):
            # an overflowed half-precision alpha; such files are meant to be used at scale 1
            self.warn("its alpha is not finite and is taken as equal to the rank")
            return 1.0
        if alpha == 0 and self.zero_alpha_is_rank:
            return 1.0
        return self._sensible("alpha", alpha) / rank

    def constraint(self) -> float | None:
        """A stored alpha where it limits a rotation; None for no limit. Raises BadRequest for one below 0."""
        alpha = self._number("alpha")
        if alpha is not None and not math.isfinite(alpha):
            self.warn("its alpha is not finite and limits nothing")
            return None
        if alpha is not None and alpha < 0:
            raise self._not_finite("alpha", f"is {alpha}, wanted 0 or more")
        return alpha

    def bias(self, *suffixes: str) -> Tensor | None:
        """The first of these that the file has, flat."""
        found = (self.maybe(suffix) for suffix in suffixes)
        return next((tensor.reshape(-1) for tensor in found if tensor is not None), None)

    def _number(self, suffix: str) -> float | None:
        found, scale = self.raw(suffix), self.raw(suffix + SCALE)
        if found is None:
            return None
        value = float(found.to(torch.float64).reshape(()))
        return value if scale is None else value * float(scale.to(torch.float64).reshape(()))

    def _sensible(self, suffix: str, value: float) -> float:
        if not abs(value) < 1e9:
            raise self._not_finite(suffix, f"is {value}")
        return value

    def _not_finite(self, suffix: str, what: str = "holds values that are not finite") -> BadRequest:
        return BadRequest(
            f"{self.module}: its {suffix} {what}",
            "the training diverged or the file was converted badly; use another epoch or conversion",
            code="not_finite",
        )
