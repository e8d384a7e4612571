"""Builds the tokenizer: CLIP's own kind, with a vocabulary in which every word of the captions is one token."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.demo.captions import words
from tools.demo.config import TEXT, TOKENS

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the vocabulary into `folder` and load a tokenizer from it.

    Words never seen in training fall apart into pieces, as in any CLIP vocabulary.
    """
    write_vocabulary(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
    for word in words():
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(
                f"{word!r} is {len(ids)} tokens, wanted 1: {tokenizer.convert_ids_to_tokens(ids)}"
            )
    return tokenizer


def write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt, the form that loaders without `tokenizer.json` read."""
    letters = sorted(ByteLevel.alphabet())
    merges = _merges(words())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = [*dict.fromkeys(tokens), START, END]  # two merges may make the same token
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(content + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Learn byte pair merges until nothing is left to merge, so that every word is whole.

    >>> _merges(["on", "one"])
    [('o', 'n'), ('on', 'e</w>'), ('o', 'n</w>')]
    """
    parts = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary]
    merges = []
    while counts := Counter(pair for word in parts for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in parts:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder for `tokenizer`."""
    start, end = tokenizer.convert_tokens_to_ids([START, END])
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), bos_token_id=start, eos_token_id=end, pad_token_id=end, **TEXT
    )  # fmt: skip
    return CLIPTextModel(config)
