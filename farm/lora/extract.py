"""Makes one LoRA of many changes: exactly in factor space, by a truncated SVD where a change is no product of factors.

With U (out, R) and D (R, in) all factors side by side, U D = Q₁ (R₁ R₂ᵀ) Q₂ᵀ by the QR decompositions of U and Dᵀ, so
the SVD of the small core R₁ R₂ᵀ gives the SVD of the whole change without ever making it. What is not low-rank is
sketched: Q spans the image of random vectors after power iterations (Halko, Martinsson and Tropp, 2011, algorithm 4.4),
and the whole SVD is taken only where so many ranks are wanted that a sketch saves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.arithmetic import exact_products
from farm.lora.budget import Budget
from farm.lora.changes import Change
from farm.lora.layout import Layer

#: columns of a sketch beyond the ranks wanted, its power iterations, and the first try where an energy is wanted
_OVERSAMPLE, _ITERATIONS, _FIRST_SKETCH = 10, 3, 64
#: a sketch of more than this part of the smaller side is no cheaper than the whole SVD
_SKETCHED_PART = 4
#: singular values below this part of the largest are rounding
_ROUNDING = 1e-7
#: … and below this part of what the factors could make they are rounding in double precision
_CANCELLED = 1e-13


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What was kept of one layer's weight."""

    layer: str
    #: ranks kept; 0 for what is kept as it is
    rank: int
    #: ‖change - kept‖ / ‖change‖, Frobenius norms, before rounding to float32
    error: float
    #: ‖kept‖² / ‖change‖²
    energy: float
    #: ‖change‖
    norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One layer of the new LoRA: tensors by our suffix, and how near they are."""

    layer: Layer
    tensors: dict[str, Tensor]
    report: LayerReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was kept in all."""

    layers: tuple[LayerReport, ...]

    @property
    def error(self) -> float:
        """Relative error of all weights together."""
        return sqrt(sum((r.error * r.norm) ** 2 for r in self.layers)) / (self._norm or 1.0)

    @property
    def energy(self) -> float:
        """Share of the energy of all weights together."""
        return sum(r.energy * r.norm**2 for r in self.layers) / self._norm**2 if self._norm else 1.0

    @property
    def _norm(self) -> float:
        return sqrt(sum(r.norm**2 for r in self.layers))

    def summary(self, worst: int = 5) -> dict[str, Any]:
        """The totals and the layers with the largest errors, JSON-ready."""
        ranks = [r.rank for r in self.layers if r.rank]
        last = sorted(self.layers, key=lambda r: (-r.error, r.layer))[:worst]
        return {
            "layers": len(self.layers),
            "error": self.error,
            "energy": self.energy,
            "rank_min": min(ranks, default=0),
            "rank_max": max(ranks, default=0),
            "rank_mean": sum(ranks) / len(ranks) if ranks else 0.0,
            "worst": [{"layer": r.layer, "rank": r.rank, "error": r.error} for r in last],
        }


def extract(
    changes: Iterable[Change], budget: Budget, on_layer: Callable[[int], None] = lambda done: None
) -> tuple[list[Kept], Report]:
    """Every layer within `budget`; `on_layer` is told how many are done after each, and may raise to stop.

    Raises:
        BadRequest: the budget makes no sense, or nothing changes at all.
    """
    budget.check()
    kept = []
    with torch.inference_mode(), exact_products():
        for change in changes:
            kept.append(compress(change, budget))
            on_layer(len(kept))
    if not any(found.tensors for found in kept):
        raise BadRequest(
            "there is nothing to extract: all changes add up to nothing",
            "check the strengths, or the two models",
            code="nothing_to_extract",
        )
    return [found for found in kept if found.tensors], Report(layers=tuple(found.report for found in kept))


def compress(change: Change, budget: Budget) -> Kept:
    """One layer: its weight within `budget`, changes of a norm and of a bias as they are."""
    layer = change.layer
    exact = {} if change.bias is None or not bool(change.bias.any()) else {"diff_b": change.bias}
    if len(layer.shape) < 2:
        difference = change.dense
        norm = 0.0 if difference is None else _norm(difference)
        if difference is not None and norm:
            exact["diff"] = difference
        report = LayerReport(layer=layer.name, rank=0, error=0.0, energy=1.0, norm=norm)
        return Kept(layer=layer, tensors=_stored(exact), report=report)
    parts = _decompose(change, budget)
    rank = parts.rank_within(budget)
    error = parts.error_at(rank)
    norm = sqrt(parts.energy)
    report = LayerReport(layer=layer.name, rank=rank, error=error, energy=1 - error**2, norm=norm)
    factors = _factors(parts, rank, layer) if rank else {}
    return Kept(layer=layer, tensors=_stored(factors | exact), report=report)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A singular value decomposition, perhaps of the leading part alone."""

    #: (out, k), (k,), (k, rest)
    left: Tensor
    values: Tensor
    right: Tensor
    #: squared Frobenius norm of the whole
    energy: float
    #: what was decomposed, where `values` may lack the rest or be rounded to single precision
    whole: Tensor | None = None

    def error_at(self, rank: int) -> float:
        """‖whole - leading part‖ / ‖whole‖. Not from the energies: their difference drowns in rounding."""
        if not self.energy:
            return 0.0
        if self.whole is None:
            return float(self.values[rank:].square().sum().sqrt()) / sqrt(self.energy)
        kept = (self.left[:, :rank] * self.values[:rank]) @ self.right[:rank]
        return min(1.0, _norm(self.whole - kept) / sqrt(self.energy))

    def rank_within(self, budget: Budget) -> int:
        if not self.energy:
            return 0
        rank = int((self.values > self.values[0] * _ROUNDING).sum())
        if budget.energy is not None:
            rank = min(rank, _fewest(self.values, budget.energy * self.energy))
        return rank if budget.most is None else min(rank, budget.most)


def _fewest(values: Tensor, energy: float) -> int:
    """Fewest leading singular values that hold `energy`; all of them when rounding leaves a little less."""
    held = values.double().square().cumsum(0)
    return min(int((held < energy).sum()) + 1, len(values))


def _decompose(change: Change, budget: Budget) -> _Parts:
    if change.dense is None:
        assert change.factors is not None or change.bias is not None
        return _of_factors(*change.factors) if change.factors is not None else _nothing(change.layer)
    whole = change.dense.flatten(1)
    if change.factors is not None:
        up, down = (factor.to(whole) for factor in change.factors)
        whole = torch.addmm(whole, up, down)
    return _of_matrix(whole, budget)


def _of_factors(up: Tensor, down: Tensor) -> _Parts:
    """The whole decomposition of up @ down, in double precision: the factors are small."""
    outer, first = torch.linalg.qr(up.double())
    inner, second = torch.linalg.qr(down.double().T)
    left, values, right = torch.linalg.svd(first @ second.T, full_matrices=False)
    # where factors cancel out, what rounding leaves is no change
    values[values < _CANCELLED * torch.linalg.matrix_norm(first) * torch.linalg.matrix_norm(second)] = 0
    return _Parts(outer @ left, values, right @ inner.T, float(values.square().sum()))


def _of_matrix(whole: Tensor, budget: Budget) -> _Parts:
    """The leading part that `budget` asks for, or the whole decomposition where that is no more work."""
    energy, most = _norm(whole) ** 2, budget.most or min(whole.shape)
    share = 1.0 if budget.energy is None else budget.energy
    wanted = most if share == 1 else min(most, _FIRST_SKETCH)
    while (wanted + _OVERSAMPLE) * _SKETCHED_PART <= min(whole.shape):
        parts = _sketch(whole, wanted + _OVERSAMPLE, energy)
        if wanted >= most or float(parts.values.square().sum()) >= share * energy:
            return parts
        wanted = min(2 * wanted, most)
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    return _Parts(left, values, right, energy, whole)


def _sketch(whole: Tensor, columns: int, energy: float) -> _Parts:
    # a generator of its own: the same change gives the same file, and other threads draw on undisturbed
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(whole.shape[1], columns, generator=generator).to(whole)
    basis, _ = torch.linalg.qr(whole @ start)
    for _ in range(_ITERATIONS):
        basis, _ = torch.linalg.qr(whole.T @ basis)
        basis, _ = torch.linalg.qr(whole @ basis)
    left, values, right = torch.linalg.svd(basis.T @ whole, full_matrices=False)
    return _Parts(basis @ left, values, right, energy, whole)


def _nothing(layer: Layer) -> _Parts:
    return _Parts(torch.zeros(layer.shape[0], 0), torch.zeros(0), torch.zeros(0, 1), 0.0)


def _factors(parts: _Parts, rank: int, layer: Layer) -> dict[str, Tensor]:
    """Both factors carry the root of the singular values, so that neither is out of half precision's range."""
    root = parts.values[:rank].sqrt()
    up, down = parts.left[:, :rank] * root, root[:, None] * parts.right[:rank]
    kernel = [1] * (len(layer.shape) - 2)
    return {
        "lora_up": up.reshape(layer.shape[0], rank, *kernel),
        "lora_down": down.reshape(rank, *layer.shape[1:]),
        "alpha": torch.tensor(float(rank)),
    }


def _stored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
