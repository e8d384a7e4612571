"""Prompts become embeddings, once for every strength of the text encoders that occurs in a run.

Prompts of more than 75 tokens are encoded in chunks of 75, each between its own start and end marks, and the
embeddings are joined; the shorter one of prompt and negative prompt is filled up with empty chunks. An XL model's
pooled embedding is the first chunk's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farm.lora.schedule import StrengthPlan
from farm.models.load import LoadedModel
from farm.models.strengths import AdapterLike, PatcherLike, weights_key

#: encodings kept between jobs; one is some 200 kB
_KEPT = 64


@dataclass(frozen=True, slots=True)
class Text:
    """One encoded text: tokens (1, n, width) and, for an XL model, the pooled vector (1, width)."""

    tokens: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Prompts:
    """What one step is denoised under; no negative where there is no guidance."""

    positive: Text
    negative: Text | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.positive.tokens.shape[1:])


@dataclass(frozen=True, slots=True)
class PromptTable:
    """The prompts of a run: step n is denoised under `rows[row_of_step[n - 1]]`."""

    rows: tuple[Prompts, ...]
    row_of_step: tuple[int, ...]

    def at(self, step: int) -> Prompts:
        return self.rows[self.row_of_step[step - 1]]


class PromptEncoder:
    """Encodes the prompts of one loaded model, patching its text encoders as the plan asks."""

    def __init__(self, model: LoadedModel, patcher: PatcherLike) -> None:
        self._model = model
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
        components = self._model.layout.text_encoders
        rows: list[Prompts] = []
        row_of_key: dict[Hashable, int] = {}
        row_of_step: list[int] = []
        texts = [prompt] if negative_prompt is None else [prompt, negative_prompt]
        chunks = max(self.chunks(text) for text in texts)
        for step in range(1, plan.steps + 1):
            key = weights_key(plan, adapters, step, components)
            if key not in row_of_key:
                row_of_key[key] = len(rows)
                patched = _Once(self._patcher, plan, adapters, step, components)
                positive = self._text(prompt, chunks, key, patched)
                negative = None
                if negative_prompt == "" and self._model.zero_negative:
                    negative = _zeros(positive)
                elif negative_prompt is not None:
                    negative = self._text(negative_prompt, chunks, key, patched)
                rows.append(Prompts(positive, negative))
            row_of_step.append(row_of_key[key])
        return PromptTable(tuple(rows), tuple(row_of_step))

    def chunks(self, text: str) -> int:
        """Return how many chunks of 75 tokens the text needs, at least one."""
        return max(len(_split(tokenizer, text)) for tokenizer in self._model.tokenizers.values())

    def _text(self, text: str, chunks: int, key: Hashable, patched: _Once) -> Text:
        name = (text, chunks, key)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        patched.apply()
        self._kept[name] = found = self._encode(text, chunks)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found

    @torch.no_grad()
    def _encode(self, text: str, chunks: int) -> Text:
        tokens: list[Tensor] = []
        pooled = None
        layered = len(self._model.text_encoders) > 1
        for name, encoder in self._model.text_encoders.items():
            ids = token_ids(self._model.tokenizers[name], text, chunks).to(self._model.device)
            if layered:
                found = encoder(ids, output_hidden_states=True)
                hidden = found.hidden_states[-2]
                if found[0].ndim == 2:
                    pooled = found[0][:1]
            else:
                hidden = encoder(ids)[0]
            tokens.append(hidden.reshape(1, -1, hidden.shape[-1]))
        return Text(torch.cat(tokens, dim=-1).to(self._model.dtype), pooled)


class _Once:
    """Patches the text encoders when a text is not in the cache, and then only once."""

    def __init__(self, patcher: PatcherLike, *how: Any) -> None:
        self._patcher: PatcherLike | None = patcher
        self._how = how

    def apply(self) -> None:
        if self._patcher is not None:
            self._patcher.apply(*self._how)
            self._patcher = None


def token_ids(tokenizer: Any, text: str, chunks: int) -> Tensor:
    """Return token ids (chunks, 77), filled up with empty chunks."""
    rows = _split(tokenizer, text)
    rows += [[]] * (chunks - len(rows))
    width = tokenizer.model_max_length
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return torch.tensor([[start, *row, end] + [pad] * (width - 2 - len(row)) for row in rows])


def _split(tokenizer: Any, text: str) -> list[list[int]]:
    """Return the tokens of a text in chunks; no text is one empty chunk."""
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    size = tokenizer.model_max_length - 2
    return [ids[at : at + size] for at in range(0, max(len(ids), 1), size)]


def _zeros(text: Text) -> Text:
    return Text(torch.zeros_like(text.tokens), None if text.pooled is None else torch.zeros_like(text.pooled))
