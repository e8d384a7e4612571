"""Writes W = W0 + Σ s · change into a weight's own storage: sums in float32, rounded once, no new parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from farm.lora.delta import Delta
from farm.lora.layout import Rows


@dataclass(frozen=True, slots=True)
class Term:
    """One adapter's share in a layer: its change, its strength, and how many of its ranks to use."""

    delta: Delta
    strength: float
    max_rank: int | None = None


@dataclass(slots=True)
class Joined:
    """The factors of several adapters on one layer, side by side along the rank; kept while only strengths change."""

    #: (out, Σ r), (Σ r, rest), and the ranks of the adapters in order
    up: Tensor
    down: Tensor
    ranks: Tensor


@dataclass(slots=True)
class Scratch:
    """float32 memory of the largest layer so far, one for each device, for weights of lower precision."""

    _memory: dict[torch.device, Tensor] = field(default_factory=dict)

    def like(self, weight: Tensor) -> Tensor:
        """float32 memory in the shape of `weight`, with whatever stood there before."""
        found = self._memory.get(weight.device)
        if found is None or found.numel() < weight.numel():
            found = torch.empty(weight.numel(), dtype=torch.float32, device=weight.device)
            self._memory[weight.device] = found
        return found[: weight.numel()].view(weight.shape)

    def clear(self) -> None:
        self._memory.clear()


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. To a GPU it goes through pinned memory, so that the host need not wait for it; what is
    queued on the same stream afterwards finds it there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def join(terms: Sequence[Term], device: torch.device) -> Joined | None:
    """The factors of all low-rank terms; None when there are none. No copy is made of a single adapter's."""
    factors = [pair for term in terms if (pair := term.delta.factors(term.max_rank)) is not None]
    if not factors:
        return None
    ups, downs = [upload(up, device) for up, _ in factors], [upload(down, device) for _, down in factors]
    ranks = upload(torch.tensor([up.shape[1] for up in ups]), device)
    if len(factors) == 1:
        return Joined(ups[0], downs[0], ranks)
    return Joined(torch.cat(ups, dim=1), torch.cat(downs), ranks)


def write(
    weight: Tensor,
    pristine: Tensor,
    terms: Sequence[Term],
    joined: Joined | None,
    scratch: Scratch,
    pristine_of: Callable[[str], Tensor],
) -> None:
    """Make `weight` what `terms` say, from `pristine` (same shape, dtype and device). Call it in inference mode.
    `pristine_of` gives the same of other layers, for changes that read more than their own.

    The order of `terms` decides the order of additions: callers sort them, so that equal sets give equal bits.
    """
    dense = [term for term in terms if joined is None or term.delta.factors(term.max_rank) is None]
    in_place = weight.dtype == torch.float32 and weight.is_contiguous() and pristine.is_contiguous()
    target = weight if in_place else scratch.like(weight)
    if joined is None:
        target.copy_(pristine)
    else:
        _add_low_rank(target, pristine, terms, joined)
    if dense:
        base = pristine if pristine.dtype == torch.float32 else pristine.float()
        for term in dense:
            change = dense_change(term, base, pristine_of)
            if change is not None:
                target.add_(change)
    if target is not weight:
        weight.copy_(target)


def dense_change(term: Term, base: Tensor, pristine_of: Callable[[str], Tensor]) -> Tensor | None:
    """The change of a weight, of which `base` is the pristine value in float32; None when only the bias changes."""
    seen = _gathered(term.delta.reads, pristine_of, base) if term.delta.reads else base
    return term.delta.change(seen, term.strength, term.max_rank)


def _gathered(reads: Sequence[Rows], pristine_of: Callable[[str], Tensor], like: Tensor) -> Tensor:
    """These rows of the pristine weights, one below the other, in float32 on the device of `like`."""
    return torch.cat([pristine_of(rows.layer)[rows.start : rows.stop].to(like) for rows in reads])


def write_bias(bias: Tensor, pristine: Tensor, terms: Sequence[Term], scratch: Scratch) -> None:
    """The same for a bias; terms without a bias do nothing."""
    target = scratch.like(bias).copy_(pristine)
    for term in terms:
        added, factor = term.delta.bias, term.delta.bias_factor
        if added is not None:
            target.add_(added.to(target.device), alpha=term.strength)
        if factor is not None:
            target.addcmul_(pristine.float(), factor.to(target.device), value=term.strength)
    bias.copy_(target)


@contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 products on CUDA, whatever the process chose for its models."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _add_low_rank(target: Tensor, pristine: Tensor, terms: Sequence[Term], joined: Joined) -> None:
    """target = pristine + (U · s) D, with one product for all adapters."""
    strengths = [term.strength for term in terms if term.delta.factors(term.max_rank) is not None]
    flat = target.view(target.shape[0], -1)
    if pristine.dtype != torch.float32 or not pristine.is_contiguous():
        target.copy_(pristine)
        base = flat
    else:
        base = pristine.view(flat.shape)
    if len(strengths) == 1:
        torch.addmm(base, joined.up, joined.down, alpha=strengths[0], out=flat)
        return
    scales = upload(torch.tensor(strengths, dtype=torch.float32), target.device).repeat_interleave(
        joined.ranks, output_size=joined.up.shape[1]
    )
    torch.addmm(base, joined.up * scales, joined.down, out=flat)
