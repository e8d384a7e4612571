"""Loads a base model from safetensors files into one device, ready to be patched and sampled.

A model with a UNet becomes loose modules, any other one the pipeline object of diffusers that holds them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from farm.errors import BadRequest, Permanent
from farm.lora.layout import Layout
from farm.models import families, folders
from farm.models.families import ModelInfo
from farm.models.layouts.blocks import Config

_ENCODERS: dict[str, Any] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
}
_UNREADABLE = (ValueError, RuntimeError, OSError, KeyError)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A base model in memory. Its weights belong to the patcher that is made over `modules`."""

    info: ModelInfo
    layout: Layout
    device: torch.device
    dtype: torch.dtype
    #: What a patcher works on, by component: module paths are those of the layout.
    modules: Mapping[str, nn.Module]
    #: None for a model that `pipeline` runs
    unet: Any
    vae: Any
    #: text encoders as they are called, by component in order
    text_encoders: Mapping[str, Any]
    #: of a model with a UNet; a pipeline has its own
    tokenizers: Mapping[str, Any]
    scheduler_config: Config
    #: An empty negative prompt of an XL model is zeros and not the encoding of "".
    zero_negative: bool = False
    #: diffusers' pipeline object of these modules; None for a model with a UNet
    pipeline: Any = None
    #: bytes of all weights
    bytes: int = field(default=0)

    @property
    def family(self) -> str:
        return self.info.family

    @property
    def scale(self) -> int:
        """Pixels that one latent of a UNet's model is wide."""
        return families.scale_of(self.info.configs)

    @property
    def latent_channels(self) -> int:
        """Channels that the UNet takes."""
        return int(self.unet.config.in_channels)

    @property
    def guidance_is_told(self) -> bool:
        """Whether the UNet takes the guidance scale as an input (consistency models) and needs no second pass."""
        return self.unet.config.time_cond_proj_dim is not None

    def key(self) -> str:
        """Return what a saved sampling must find again: a hash of configs and dtype, not of weights."""
        words = json.dumps([self.family, self.info.configs, str(self.dtype)], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:16]


def load(path: Path, *, device: str = "cpu", dtype: str = "auto") -> LoadedModel:
    """Load the diffusers folder or single-file checkpoint at `path`; reads local files only and runs none of its code.

    `dtype` is float32, float16, bfloat16 or auto: bfloat16 on CUDA, float32 on CPU.

    Raises:
        BadRequest: the model cannot be used, see `families.describe`.
        Permanent: the files do not hold what the configs promise.
    """
    info = families.describe(path)
    place = torch.device(device)
    kind = dtype_of(dtype, place)
    with _quiet():
        if info.format == "ldm":
            from farm.models import single_file

            parts, tokenizers = single_file.read_parts(families.checkpoint_in(path), info, kind)
            return _assemble(info, parts, tokenizers, place, kind, zero_negative=True)
        if "unet" not in info.configs:
            return _assemble_pipeline(info, _read_pipeline(path, info, kind), place, kind)
        index = folders.read_json(path / folders.INDEX)
        return _assemble(
            info,
            _read_parts(path, info, kind),
            _read_tokenizers(path, info),
            place,
            kind,
            zero_negative=bool(index.get("force_zeros_for_empty_prompt", True)),
        )


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a person calls `name`."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise BadRequest(f"unknown dtype {name!r}", f"one of auto, {', '.join(DTYPES)}", code="bad_setting")
    return DTYPES[name]


def _read_parts(path: Path, info: ModelInfo, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Read UNet, VAE and text encoders of a diffusers folder."""
    variants = folders.read_folder(path).variants
    parts: dict[str, nn.Module] = {}
    for name in folders.WEIGHTS:
        if name not in info.configs:
            continue
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
        options["variant"] = variants[name] or None
        try:
            if name in ("unet", "vae"):
                cls: Any = UNet2DConditionModel if name == "unet" else AutoencoderKL
                parts[name] = cls.from_pretrained(path / name, torch_dtype=dtype, **options)
            else:
                encoder = _ENCODERS[info.configs[name]["_class_name"]]
                parts[name] = encoder.from_pretrained(path / name, dtype=dtype, **options)
        except _UNREADABLE as error:
            raise _unreadable(f"{info.name}: {name}", error) from error
    return parts


def _read_pipeline(path: Path, info: ModelInfo, dtype: torch.dtype) -> Any:
    """Read a diffusers folder as the pipeline that it names, which `describe` has found in its table."""
    folder = folders.read_folder(path)
    processor = str((folder.index.get("tokenizer") or [""])[-1]).endswith("Processor")
    left_out = (*info.unused, *(("tokenizer",) if processor else ()))
    try:
        pipeline = getattr(diffusers, info.pipeline).from_pretrained(
            path,
            torch_dtype=dtype,
            variant=next(filter(None, folder.variants.values()), None),
            use_safetensors=True,
            local_files_only=True,
            **dict.fromkeys(left_out),
        )
        if processor:
            # Flux.2: its half for pictures needs torchvision, and prompts are text
            pipeline.tokenizer = AutoTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
        return pipeline
    except (*_UNREADABLE, ImportError) as error:
        raise _unreadable(info.name, error) from error


def _unreadable(what: str, error: Exception) -> Permanent:
    line = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    hint = "install that on the worker" if isinstance(error, ImportError) else "copy the model again"
    return Permanent(f"{what} cannot be read: {line}", hint)


def _read_tokenizers(path: Path, info: ModelInfo) -> dict[str, Any]:
    return {
        name: CLIPTokenizer.from_pretrained(path / folder, local_files_only=True)
        for name, folder in folders.TOKENIZERS.items()
        if name in info.configs
    }


def _assemble(
    info: ModelInfo,
    parts: Mapping[str, nn.Module],
    tokenizers: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    *,
    zero_negative: bool,
) -> LoadedModel:
    for name, part in parts.items():
        part.requires_grad_(False).eval().to(device)
        if device.type == "cuda" and name in ("unet", "vae"):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoders = {name: part for name, part in parts.items() if name in folders.TOKENIZERS}
    modules = {name: _patched_part(part) for name, part in encoders.items()} | {"unet": parts["unet"]}
    return LoadedModel(
        info=info,
        layout=families.layout(info.family, info.configs),
        device=device,
        dtype=dtype,
        modules=modules,
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=encoders,
        tokenizers=tokenizers,
        scheduler_config=info.configs["scheduler"],
        zero_negative=zero_negative and len(encoders) > 1,
        bytes=_bytes(parts),
    )


def _assemble_pipeline(
    info: ModelInfo, pipeline: Any, device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    for part in parts.values():
        part.requires_grad_(False).eval().to(device)
    layout = families.layout(info.family, info.configs)
    return LoadedModel(
        info=info,
        layout=layout,
        device=device,
        dtype=dtype,
        modules={name: _patched_part(parts[name]) for name in layout.components},
        unet=None,
        vae=pipeline.vae,
        text_encoders={name: parts[name] for name in layout.text_encoders},
        tokenizers={},
        scheduler_config=info.configs["scheduler"],
        pipeline=pipeline,
        bytes=_bytes(parts),
    )


def _bytes(parts: Mapping[str, nn.Module]) -> int:
    return sum(tensor.nbytes for part in parts.values() for tensor in (*part.parameters(), *part.buffers()))


def _patched_part(encoder: nn.Module) -> nn.Module:
    """Return the module whose paths the layout names: transformers before 5 has a level more without projection."""
    if hasattr(encoder, "text_projection"):
        return encoder
    inner = getattr(encoder, "text_model", encoder)
    return inner if isinstance(inner, nn.Module) else encoder


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and the warning of a renamed argument out of a worker's log."""
    logs: tuple[Any, ...] = (transformers_logging, diffusers_logging)
    shown = [log for log in logs if log.is_progress_bar_enabled()]
    for log in logs:
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # diffusers before 0.42 knows no other name, and ignores what it does not know
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            yield
    finally:
        for log in shown:
            log.enable_progress_bar()
