"""What an adapter does to one layer: low-rank factors, or a change computed from the pristine weight and a strength."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.layout import Rows


class Delta(ABC):
    """The change that one adapter makes to one layer. All changes refer to the pristine weight, so they add up."""

    __slots__ = ("bias",)

    #: (out,), change of the layer's bias at strength 1; linear in strength for every algorithm
    bias: Tensor | None

    def __init__(self, bias: Tensor | None = None) -> None:
        self.bias = bias

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
    #: our suffix -> tensor in the dtype of the file (a view of the mapped file), None when it is not there
    raw: Callable[[str], Tensor | None]
    #: scale for a rank (None: the tensors have none), from the metadata of peft; None when they do not tell
    metadata_scale: Callable[[int | None], float | None]
    #: a stored alpha of 0 means "as the rank" in files of LyCORIS and nothing else
    zero_alpha_is_rank: bool = False

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
        # a sum is quicker than a look at each; it may overflow, so it only accuses
        if not math.isfinite(tensor.sum()) and not bool(torch.isfinite(tensor).all()):
            raise self._not_finite(suffix)
        return tensor

    def scale(self, rank: int | None) -> float:
        """Factor that the trainer left out of the tensors: alpha / rank, or a stored `scale`. A layer without a rank
        ignores a stored alpha: some files hold nonsense there."""
        stored, alpha = self.raw("scale"), self.raw("alpha")
        if stored is not None:
            return self._number("scale", float(stored.reshape(())))
        if alpha is None or rank is None:
            return _or_one(self.metadata_scale(rank))
        value = float(alpha.reshape(()))
        # an overflowed half-precision alpha is infinite; such files are meant to be used at scale 1
        if not math.isfinite(value) or (value == 0 and self.zero_alpha_is_rank):
            return 1.0
        return self._number("alpha", value) / rank

    def bias(self, *suffixes: str) -> Tensor | None:
        """The first of these that the file has, flat."""
        found = (self.maybe(suffix) for suffix in suffixes)
        return next((tensor.reshape(-1) for tensor in found if tensor is not None), None)

    def _number(self, suffix: str, value: float) -> float:
        if not abs(value) < 1e9:
            raise self._not_finite(suffix, f"is {value}")
        return value

    def _not_finite(self, suffix: str, what: str = "holds values that are not finite") -> BadRequest:
        return BadRequest(
            f"{self.module}: its {suffix} {what}",
            "the training diverged or the file was converted badly; use another epoch or conversion",
            code="not_finite",
        )


def _or_one(scale: float | None) -> float:
    return 1.0 if scale is None else scale
