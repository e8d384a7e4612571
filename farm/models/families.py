"""Says what a base model is, how it is laid out and what it is asked by default; from its configs alone, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farm.errors import BadRequest
from farm.lora.layout import Layer, Layout
from farm.models import checkpoints, folders
from farm.models.layouts import clip, known, unet
from farm.models.layouts.blocks import Config, collect
from farm.models.samplers import OF_SCHEDULER, SAMPLERS, normalise_sampler, sampler_label

__all__ = ["SAMPLERS", "ModelInfo", "describe", "layout", "normalise_sampler", "sampler_label"]

#: family by the width of the text that the UNet attends to
WIDTHS: Mapping[int, str] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
#: Words that model_index.json may put in `_farm_family`, where the configs do not tell.
MARKS = ("demo", "sd1", "sd2", "sdxl")
#: Pipelines that our step machine does the work of.
PIPELINES = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline", "StableDiffusionXLPipeline")
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
_GUIDANCE = {"sdxl": 5.0}
_STEPS = {"demo": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A base model without its weights."""

    #: name of the folder or file
    name: str
    #: a `base_model` word: `sd1`, `sd2`, `sdxl`, `demo`, `unknown`
    family: str
    #: `diffusers` for a folder, `ldm` for a single checkpoint file
    format: str
    #: class of the pipeline that would run it
    pipeline: str
    configs: Mapping[str, Config]
    #: width, height, steps, guidance_scale, sampler, negative_prompt: what is used where a job says nothing
    defaults: Mapping[str, Any]
    #: multiple_of and min_size of width and height; max_steps
    limits: Mapping[str, int]
    #: files that a worker needs, relative to the folder; the file itself for a checkpoint
    files: tuple[str, ...]
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe(path: Path) -> ModelInfo:
    """Return what the diffusers folder or single-file checkpoint at `path` is.

    Raises:
        BadRequest: it cannot be used; one sentence says why.
    """
    if path.is_dir() and not _holds_checkpoint(path):
        return _describe_folder(path)
    if path.exists():
        return _describe_checkpoint(checkpoint_in(path))
    raise BadRequest(f"there is no model at {path}", code="bad_model")


def layout(family: str, configs: Mapping[str, Config]) -> Layout:
    """Return the layout of a model of `family` with these configs.

    Raises:
        BadRequest: the configs are of a model that Farm cannot lay out.
    """
    if "unet" not in configs:
        raise BadRequest(f"a {family} model without a UNet has no layout yet", code="unsupported_model")
    encoders = tuple(name for name in ("text_encoder", "text_encoder_2") if name in configs)
    layers: dict[str, Layer] = {}
    for name in encoders:
        class_name = configs[name].get("_class_name", "CLIPTextModel")
        if class_name not in clip.CLASSES:
            raise BadRequest(
                f"{name} is a {class_name}, Farm knows {' and '.join(clip.CLASSES)}", code="unsupported_model"
            )
        layers |= collect(clip.layers(configs[name], name, projection=class_name != "CLIPTextModel"))
    layers |= collect(unet.layers(configs["unet"]))
    return Layout(
        family=family,
        denoisers=("unet",),
        text_encoders=encoders,
        blocks=unet.labels(configs["unet"]),
        layers=layers,
    )


def _describe_folder(path: Path) -> ModelInfo:
    folder = folders.read_folder(path)
    if folder.pipeline not in PIPELINES:
        raise BadRequest(
            f"{path.name} is a {folder.pipeline or 'pipeline without a name'}, which Farm does not run yet",
            f"it runs {', '.join(PIPELINES)}",
            code="unsupported_model",
        )
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        if name not in folder.configs:
            raise BadRequest(f"{path.name}: model_index.json names no {name}", code="bad_model")
        found = folder.configs[name].get("_class_name")
        if _CLASSES.get(name, found) != found:
            raise BadRequest(
                f"{path.name}: its {name} is a {found}, Farm runs {_CLASSES[name]}", code="unsupported_model"
            )
    mark = folder.index.get("_farm_family")
    if mark is not None and mark not in MARKS:
        raise BadRequest(
            f"model_index.json: _farm_family is {mark!r}, wanted {', '.join(MARKS)}", code="bad_model"
        )
    family = mark or _family(folder.configs)
    asked = folder.index.get("_farm_defaults", {})
    return _info(path, family, "diffusers", folder.pipeline, folder.configs, folder.files, asked)


def checkpoint_in(path: Path) -> Path:
    """Return the checkpoint file that `path` is or, as its only one, holds."""
    return path if path.is_file() else next(path.glob("*.safetensors"))


def _holds_checkpoint(path: Path) -> bool:
    """Whether the folder is a checkpoint file with its tokenizer beside it, as a worker's cache lays it out."""
    beside = (path / folders.TOKENIZERS["text_encoder"]).is_dir()
    return beside and not (path / folders.INDEX).exists() and len(list(path.glob("*.safetensors"))) == 1


def _describe_checkpoint(path: Path) -> ModelInfo:
    family, scheduler = checkpoints.read_checkpoint(path)
    try:
        tokenizer = folders.tokenizer_files(path.parent, folders.TOKENIZERS["text_encoder"])
    except BadRequest:
        raise BadRequest(
            f"{path.name} needs a folder 'tokenizer' beside it",
            "a checkpoint file has no vocabulary: copy the folder from any Stable Diffusion 1.5 or XL model",
            code="bad_model",
        ) from None
    configs = {**known.BY_FAMILY[family]}
    configs["scheduler"] = {**configs["scheduler"], **scheduler}
    pipeline = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    return _info(path, family, "ldm", pipeline, configs, (path.name, *tokenizer), {})


def _info(
    path: Path,
    family: str,
    kind: str,
    pipeline: str,
    configs: Mapping[str, Config],
    files: tuple[str, ...],
    asked: Mapping[str, Any],
) -> ModelInfo:
    layout(family, configs)
    latent_channels = int(configs["vae"].get("latent_channels", 4))
    taken = int(configs["unet"].get("in_channels", 4))
    if taken != latent_channels:
        raise BadRequest(
            f"{path.name}: its UNet takes {taken} channels, its VAE makes {latent_channels}; inpainting and edit "
            "models are not run yet",
            code="unsupported_model",
        )
    root = path if path.is_dir() else path.parent
    return ModelInfo(
        name=path.stem if path.is_file() else path.name,
        family=family,
        format=kind,
        pipeline=pipeline,
        configs=configs,
        defaults={**_defaults(family, configs), **asked},
        limits=_limits(configs),
        files=files,
        bytes=sum((root / file).stat().st_size for file in files),
    )


def _family(configs: Mapping[str, Config]) -> str:
    width = configs["unet"].get("cross_attention_dim")
    family = WIDTHS.get(width, "unknown") if isinstance(width, int) else "unknown"
    two_encoders = "text_encoder_2" in configs
    return family if two_encoders == (family == "sdxl") else "unknown"


def scale_of(configs: Mapping[str, Config]) -> int:
    """Return how many pixels one latent is wide: 8 for Stable Diffusion."""
    return int(2 ** (len(configs["vae"].get("block_out_channels", (64,))) - 1))


def _defaults(family: str, configs: Mapping[str, Config]) -> dict[str, Any]:
    size = configs["unet"].get("sample_size") or 64
    high, wide = size if isinstance(size, list | tuple) else (size, size)
    scheduler = configs["scheduler"]
    sampler = OF_SCHEDULER.get(str(scheduler.get("_class_name")), "dpmpp_2m")
    if sampler == "dpmpp_2m" and scheduler.get("use_karras_sigmas"):
        sampler = "dpmpp_2m_karras"
    quick = sampler == "lcm"
    told = configs["unet"].get("time_cond_proj_dim") is not None
    return {
        "width": int(wide) * scale_of(configs),
        "height": int(high) * scale_of(configs),
        "steps": 6 if quick else _STEPS.get(family, 25),
        "guidance_scale": (8.5 if told else 1.0) if quick else _GUIDANCE.get(family, 7.5),
        "sampler": sampler,
        "negative_prompt": "",
    }


def _limits(configs: Mapping[str, Config]) -> dict[str, int]:
    scale = scale_of(configs)
    levels = len(configs["unet"].get("block_out_channels", (320, 640, 1280, 1280)))
    return {
        "multiple_of": scale,
        "min_size": scale * 2 ** (levels - 1),
        "max_steps": int(configs["scheduler"].get("num_train_timesteps", 1000)),
    }
