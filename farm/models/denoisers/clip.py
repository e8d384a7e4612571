"""Texts of Stable Diffusion 1, 2 and XL: CLIP, in chunks.

Prompts of more than 75 tokens are encoded in chunks of 75, each between its own start and end marks, and the
embeddings are joined; the shorter one of prompt and negative prompt is filled up with empty chunks. An XL model's
pooled embedding is the first chunk's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from farm.models.encode import Text
from farm.models.load import LoadedModel


class ChunkedTexts:
    """Encodes with the CLIP models of one loaded model."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.zero_negative = model.zero_negative

    def size(self, texts: Sequence[str]) -> int:
        """Return how many chunks of 75 tokens the longest of the texts needs, at least one."""
        tokenizers = self.model.tokenizers.values()
        return max(len(_split(tokenizer, text)) for tokenizer in tokenizers for text in texts)

    def encode(self, text: str, size: int) -> Text:
        """Return a text of `size` chunks."""
        tokens: list[Tensor] = []
        pooled = None
        layered = len(self.model.text_encoders) > 1
        for name, encoder in self.model.text_encoders.items():
            ids = token_ids(self.model.tokenizers[name], text, size).to(self.model.device)
            if layered:
                found = encoder(ids, output_hidden_states=True)
                hidden = found.hidden_states[-2]
                if found[0].ndim == 2:
                    pooled = found[0][:1]
            else:
                hidden = encoder(ids)[0]
            tokens.append(hidden.reshape(1, -1, hidden.shape[-1]))
        return Text(torch.cat(tokens, dim=-1).to(self.model.dtype), pooled)


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
