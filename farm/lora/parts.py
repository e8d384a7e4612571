"""Cuts the change of a weight that files keep fused (queries, keys and values in one) into the changes of our layers.

What an algorithm stores for each output is sliced, so nothing is computed twice: the rows of `up`, of a stored
difference, of magnitudes. A Kronecker product crosses the borders, so it is built and then cut. What turns outputs into
one another (OFT, BOFT) or measures whole columns (DoRA per input) needs the pristine weight of all parts: it says so in
`Delta.reads`, as does every kind that is not known here to do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from farm.lora.algorithms.dora import Dora
from farm.lora.algorithms.factors import Factored
from farm.lora.algorithms.full import Dense, Replacement
from farm.lora.algorithms.glora import GLoRA
from farm.lora.algorithms.ia3 import IA3
from farm.lora.algorithms.loha import LoHa
from farm.lora.algorithms.lokr import LoKr
from farm.lora.algorithms.lora import LowRank
from farm.lora.algorithms.peft_rotation import InputRotation
from farm.lora.delta import Delta
from farm.lora.layout import Rows

#: first and last row (excluded) in the fused weight
Span = tuple[int, int]


class Part(Delta):
    """Some outputs of another change, which is made in full and then cut."""

    __slots__ = ("fused", "inner", "spans", "wanted")

    def __init__(
        self, inner: Delta, spans: Sequence[Span], fused: tuple[int, ...], wanted: tuple[Rows, ...] = ()
    ) -> None:
        super().__init__(_cut(inner.bias, spans), _cut(inner.bias_factor, spans))
        self.inner, self.spans = inner, spans
        #: shape of the fused weight
        self.fused = fused
        #: its rows, where the change depends on the values of all of them
        self.wanted = wanted

    @property
    def reads(self) -> tuple[Rows, ...]:
        return self.wanted

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor | None:
        if not self.wanted:
            # the values do not matter, only shape and device
            pristine = pristine.new_zeros(()).expand(self.fused)
        return _cut(self.inner.change(pristine, strength, max_rank), self.spans)

    def tensors(self) -> Iterator[Tensor]:
        yield from self.inner.tensors()


def part_of(whole: Delta, layer: str, pieces: tuple[Rows, ...], shape: tuple[int, ...]) -> Delta:
    """The share of `layer` in `whole`, the change of a weight of `shape` that `pieces` make up, from top to bottom."""
    return _slice(whole, spans_of(layer, pieces), shape, pieces)


def spans_of(layer: str, pieces: tuple[Rows, ...]) -> tuple[Span, ...]:
    """Where the rows of `layer`, in its own order, stand in the fused weight.

    >>> spans_of("k", (Rows("q", 0, 4), Rows("k", 0, 2)))
    ((4, 6),)
    >>> spans_of("n", (Rows("n", 4, 8), Rows("n", 0, 4)))
    ((4, 8), (0, 4))
    """
    found: list[tuple[int, Span]] = []
    top = 0
    for piece in pieces:
        bottom = top + piece.stop - piece.start
        if piece.layer == layer:
            found.append((piece.start, (top, bottom)))
        top = bottom
    return tuple(span for _, span in sorted(found))


def _slice(whole: Delta, spans: tuple[Span, ...], shape: tuple[int, ...], pieces: tuple[Rows, ...]) -> Delta:
    """A change of the algorithm's own kind where its rows are stored one by one, else a Part."""
    if slicer := _BY_ROW.get(type(whole)):
        found = slicer(whole, lambda tensor: _cut(tensor, spans))
        found.bias, found.bias_factor = _cut(whole.bias, spans), _cut(whole.bias_factor, spans)
        return found
    if isinstance(whole, LoKr):
        return Part(whole, spans, shape)
    if isinstance(whole, Dora) and whole.per_output:
        inner = _slice(whole.inner, spans, shape, pieces)
        if not inner.reads:
            return Dora(inner, _rows(whole.magnitude, spans), per_output=True)
    return Part(whole, spans, shape, pieces)


def _cut(tensor: Tensor | None, spans: Sequence[Span]) -> Tensor | None:
    return None if tensor is None else _rows(tensor, spans)


def _rows(tensor: Tensor, spans: Sequence[Span]) -> Tensor:
    parts = [tensor[start:stop] for start, stop in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _factored(whole: Factored, cut: Callable[[Tensor | None], Any]) -> Factored:
    return replace(whole, up=cut(whole.up))


#: kinds whose change of a row depends on that row alone, and how they are made of fewer rows; biases are cut for all
_BY_ROW: Mapping[type[Delta], Callable[[Any, Callable[[Tensor | None], Any]], Delta]] = {
    LowRank: lambda d, cut: LowRank(cut(d.up), d.down),
    Dense: lambda d, cut: Dense(cut(d.difference), None),
    Replacement: lambda d, cut: Replacement(cut(d.weight), None),
    GLoRA: lambda d, cut: GLoRA(d.inputs, _factored(d.added, cut), d.scale, None),
    IA3: lambda d, cut: IA3(d.relative if d.axis else cut(d.relative), d.axis, bias_too=False),
    LoHa: lambda d, cut: LoHa((_factored(d.sides[0], cut), _factored(d.sides[1], cut)), d.scale, None),
    InputRotation: lambda d, cut: InputRotation(d.turns, cut(d.magnitude)),
}
