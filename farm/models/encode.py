"""Prompts become embeddings, once for every strength of the text encoders that occurs in a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from farm.lora.schedule import StrengthPlan
from farm.models.strengths import AdapterLike, PatcherLike, weights_key

#: bytes of encodings that are kept between jobs; one is 0.2 MB (Stable Diffusion) to 4 MB (Flux.1, Wan)
_KEPT = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Text:
    """One encoded text: tokens (1, n, width) and, where the denoiser takes one, the pooled vector (1, width)."""

    tokens: Tensor
    pooled: Tensor | None = None

    @property
    def bytes(self) -> int:
        return self.tokens.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What one step is denoised under; no negative where there is no guidance."""

    positive: Text
    negative: Text | None = None

    @property
    def sides(self) -> tuple[Text, ...]:
        """The texts of one joined pass, the negative first."""
        return (self.positive,) if self.negative is None else (self.negative, self.positive)


@dataclass(frozen=True, slots=True)
class PromptTable:
    """The prompts of a run: step n is denoised under `rows[row_of_step[n - 1]]`."""

    rows: tuple[Prompts, ...]
    row_of_step: tuple[int, ...]

    def at(self, step: int) -> Prompts:
        return self.rows[self.row_of_step[step - 1]]


class Texts(Protocol):
    """How the texts of a family are encoded, under the weights that the text encoders have at the moment."""

    #: an empty negative prompt is zeros and not the encoding of ""
    zero_negative: bool

    def size(self, texts: Sequence[str]) -> int:
        """Return the size that prompt and negative prompt are brought to together, where they are: a count of chunks."""

    def encode(self, text: str, size: int) -> Text:
        """Encode one text."""


class PromptEncoder:
    """Encodes the prompts of one loaded model, patching its text encoders, `components`, as the plan asks."""

    def __init__(self, texts: Texts, components: Collection[str], patcher: PatcherLike) -> None:
        self._texts = texts
        self._components = components
        self._patcher = patcher
        self._kept: OrderedDict[Hashable, Text] = OrderedDict()

    def table(
        self,
        prompt: str,
        negative_prompt: str | None,
        plan: StrengthPlan,
        adapters: Mapping[str, AdapterLike],
    ) -> PromptTable:
        """Return the prompts of every step of `plan`; `negative_prompt` None means no guidance."""
        components = self._components
        rows: list[Prompts] = []
        row_of_key: dict[Hashable, int] = {}
        row_of_step: list[int] = []
        texts = [prompt] if negative_prompt is None else [prompt, negative_prompt]
        size = self._texts.size(texts)
        for step in range(1, plan.steps + 1):
            key = weights_key(plan, adapters, step, components)
            if key not in row_of_key:
                row_of_key[key] = len(rows)
                patched = _Once(self._patcher, plan, adapters, step, components)
                positive = self._text(prompt, size, key, patched)
                negative = None
                if negative_prompt == "" and self._texts.zero_negative:
                    negative = _zeros(positive)
                elif negative_prompt is not None:
                    negative = self._text(negative_prompt, size, key, patched)
                rows.append(Prompts(positive, negative))
            row_of_step.append(row_of_key[key])
        return PromptTable(tuple(rows), tuple(row_of_step))

    def _text(self, text: str, size: int, key: Hashable, patched: _Once) -> Text:
        name = (text, size, key)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        patched.apply()
        self._kept[name] = found = self._encode(text, size)
        while len(self._kept) > 1 and sum(text.bytes for text in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)
        return found

    @torch.no_grad()
    def _encode(self, text: str, size: int) -> Text:
        return self._texts.encode(text, size)


class _Once:
    """Patches the text encoders when a text is not in the cache, and then only once."""

    def __init__(self, patcher: PatcherLike, *how: Any) -> None:
        self._patcher: PatcherLike | None = patcher
        self._how = how

    def apply(self) -> None:
        if self._patcher is not None:
            self._patcher.apply(*self._how)
            self._patcher = None


def _zeros(text: Text) -> Text:
    return Text(torch.zeros_like(text.tokens), None if text.pooled is None else torch.zeros_like(text.pooled))
