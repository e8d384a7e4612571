"""Changes the text that a diffusers pipeline's loop is denoised under, between two of its steps.

What the loop holds is made of what `encode_prompt` returned. The pipeline's own calls of it are remembered and repeated
under other weights of the text encoders, and the result is written into the very tensors that the loop holds: so it does
not matter which of them its callback would take back (negative embeddings mostly are not among them).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

#: By pipeline: tensors of its loop, and which results of `encode_prompt` each is joined of. Results are counted through
#: all calls (some encode the negative prompt in a second one); those that a run without guidance lacks are left out.
HELD: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "StableDiffusionPipeline": {"prompt_embeds": (1, 0)},
    "StableDiffusionXLPipeline": {"prompt_embeds": (1, 0), "add_text_embeds": (3, 2)},
    "Flux2Pipeline": {"prompt_embeds": (0,)},
    "Flux2KleinPipeline": {"prompt_embeds": (0,), "negative_prompt_embeds": (2,)},
    "ChromaPipeline": {"prompt_embeds": (0,), "negative_prompt_embeds": (3,)},
    "HunyuanVideoPipeline": {
        "prompt_embeds": (0,),
        "pooled_prompt_embeds": (1,),
        "negative_prompt_embeds": (3,),
        "negative_pooled_prompt_embeds": (4,),
    },
    "LTXPipeline": {"prompt_embeds": (2, 0)},
    "Lumina2Pipeline": {"prompt_embeds": (0,), "negative_prompt_embeds": (2,)},
    "HiDreamImagePipeline": {
        "prompt_embeds_t5": (1, 0),
        "prompt_embeds_llama3": (3, 2),
        "pooled_prompt_embeds": (5, 4),
    },
    "AuraFlowPipeline": {"prompt_embeds": (2, 0)},
    "SanaPipeline": {"prompt_embeds": (2, 0)},
}


def held_by(pipeline: Any) -> Mapping[str, tuple[int, ...]] | None:
    """Return the entry of a pipeline in `HELD`; None when how it holds its text is not known."""
    names = (cls.__name__ for cls in type(pipeline).__mro__)
    return next((HELD[name] for name in names if name in HELD), None)


@contextmanager
def encoding_by(pipeline: Any, encoder: Callable[..., Any]) -> Iterator[None]:
    """Let `encoder` stand in for the pipeline's `encode_prompt`, which it is given first."""
    before = vars(pipeline).get("encode_prompt")
    pipeline.encode_prompt = partial(encoder, pipeline.encode_prompt)
    try:
        yield
    finally:
        if before is None:
            del pipeline.encode_prompt
        else:
            pipeline.encode_prompt = before


@contextmanager
def negative_prompt(pipeline: Any, text: str) -> Iterator[None]:
    """Give a negative prompt to a pipeline that encodes an empty one in its second call (Flux.2 klein)."""
    calls = 0

    def said(encode: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return encode(**(options if calls != 2 else {**options, "prompt": text}))

    with encoding_by(pipeline, said):
        yield


class LoopTexts:
    """The texts of one run, by a key of the text encoders' weights; each is encoded once."""

    def __init__(self, held: Mapping[str, tuple[int, ...]]) -> None:
        self._held = held
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._kept: dict[Hashable, dict[str, Tensor]] = {}
        self._now: Hashable = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that the loop's callback must show."""
        return tuple(self._held)

    @contextmanager
    def listening(self, pipeline: Any) -> Iterator[None]:
        """Remember how the pipeline calls its `encode_prompt`."""

        def remembered(encode: Any, *args: Any, **options: Any) -> Any:
            self._calls.append((args, options))
            return encode(*args, **options)

        with encoding_by(pipeline, remembered):
            yield

    def keep(self, key: Hashable, values: Mapping[str, Tensor | None]) -> None:
        """Remember that the loop began with the text of `key`."""
        self._kept[key] = {
            name: tensor.clone() for name in self._held if (tensor := values.get(name)) is not None
        }
        self._now = key

    def needs(self, key: Hashable) -> bool:
        """Whether the text of `key` is not encoded yet."""
        return key not in self._kept

    @torch.no_grad()
    def encode(self, key: Hashable, pipeline: Any) -> None:
        """Encode the text of `key`, whose weights the text encoders have now."""
        encode = type(pipeline).encode_prompt
        found = [result for args, options in self._calls for result in encode(pipeline, *args, **options)]
        texts = {}
        for name, parts in self._held.items():
            tensors = [found[part] for part in parts if part < len(found) and found[part] is not None]
            if tensors:
                # rows come before tokens and their width; a pooled text has no tokens
                texts[name] = torch.cat(tensors, dim=max(tensors[0].ndim - 3, 0))
        self._kept[key] = texts

    def show(self, key: Hashable, values: Mapping[str, Tensor | None]) -> None:
        """Make the loop go on under the text of `key`; `values` are the tensors that it holds."""
        if key == self._now:
            return
        for name, text in self._kept[key].items():
            held = values[name]
            if held is not None:
                held.copy_(text)
        self._now = key
