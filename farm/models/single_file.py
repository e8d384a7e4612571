"""Reads single-file checkpoints in LDM's names through diffusers' converter, offline: the configs are our own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import CLIPTokenizer

from farm.errors import Permanent
from farm.models import folders
from farm.models.families import ModelInfo

_LIBRARIES = {"unet": "diffusers", "vae": "diffusers", "scheduler": "diffusers"}
#: what an XL model's second encoder fills up its prompts with
_SECOND_PAD = "!"


def read_parts(
    path: Path, info: ModelInfo, dtype: torch.dtype
) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Return modules and tokenizers of the checkpoint, by component.

    Raises:
        Permanent: the file does not hold what its header promises.
    """
    tokenizers = _tokenizers(path, info)
    passed = {folders.TOKENIZERS[name]: tokenizer for name, tokenizer in tokenizers.items()}
    with tempfile.TemporaryDirectory(prefix="farm-config-") as name:
        folder = Path(name)
        _write_configs(folder, info)
        pipeline: Any = getattr(diffusers, info.pipeline)
        try:
            loaded = pipeline.from_single_file(
                str(path), config=str(folder), torch_dtype=dtype, local_files_only=True, **passed
            )
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            line = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise Permanent(
                f"{info.name} cannot be read: {line}", "convert it to a diffusers folder"
            ) from error
    return {part: getattr(loaded, part) for part in folders.WEIGHTS if part in info.configs}, tokenizers


def _tokenizers(path: Path, info: ModelInfo) -> dict[str, Any]:
    """Return the tokenizers: both encoders of an XL model share one vocabulary."""
    folder = path.parent / folders.TOKENIZERS["text_encoder"]
    found = {}
    for name in folders.TOKENIZERS:
        if name in info.configs:
            options: dict[str, Any] = {"pad_token": _SECOND_PAD} if name != "text_encoder" else {}
            found[name] = CLIPTokenizer.from_pretrained(folder, local_files_only=True, **options)
    return found


def _write_configs(folder: Path, info: ModelInfo) -> None:
    """Write a diffusers folder without weights."""
    index: dict[str, Any] = {"_class_name": info.pipeline, "safety_checker": [None, None]}
    for name, config in info.configs.items():
        index[name] = [_LIBRARIES.get(name, "transformers"), config["_class_name"]]
        if name in folders.TOKENIZERS:
            index[folders.TOKENIZERS[name]] = ["transformers", "CLIPTokenizer"]
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(config))
    (folder / folders.INDEX).write_text(json.dumps(index))
