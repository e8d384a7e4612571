"""Says what a base model is, how it is laid out and what it is asked by default; from its configs alone, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farm.errors import BadRequest
from farm.lora.layout import Layer, Layout
from farm.models import checkpoints, defaults, folders, vaes
from farm.models.layouts import known
from farm.models.layouts.blocks import Config, collect
from farm.models.layouts.classes import DENOISERS, ENCODERS
from farm.models.registry import PIPELINES, Pipeline
from farm.models.samplers import SAMPLERS, normalise_sampler, sampler_label

__all__ = ["SAMPLERS", "ModelInfo", "describe", "layout", "normalise_sampler", "sampler_label"]

#: family by the width of the text that the UNet attends to
WIDTHS: Mapping[int, str] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
#: Words that model_index.json may put in `_farm_family`, where the configs of a UNet do not tell.
MARKS = ("demo", "sd1", "sd2", "sdxl")
#: components that denoise, and the class that they have where a config does not say
DENOISING: Mapping[str, str] = {"unet": "UNet2DConditionModel", "transformer": "", "transformer_2": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A base model without its weights."""

    #: name of the folder or file
    name: str
    #: a `base_model` word: `sd1`, `flux1`, `demo`, `unknown`, …
    family: str
    #: `diffusers` for a folder, `ldm` for a single checkpoint file
    format: str
    #: class of the pipeline that would run it
    pipeline: str
    configs: Mapping[str, Config]
    #: width, height, steps, guidance_scale, sampler, negative_prompt, of videos also frames and fps: what is used where a
    #: job says nothing
    defaults: Mapping[str, Any]
    #: multiple_of, min_size and, for some, max_size of width and height, max_pixels; max_steps; of videos frame_step: the number of
    #: frames is a multiple of it and one more
    limits: Mapping[str, int]
    #: files that a worker needs, relative to the folder; the file itself for a checkpoint
    files: tuple[str, ...]
    bytes: int
    #: components that denoise, in the order of a run
    denoisers: tuple[str, ...] = ("unet",)
    #: whether it makes videos
    video: bool = False
    #: parts that the pipeline names and Farm does not use
    unused: tuple[str, ...] = ()

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
    denoisers = denoisers_in(configs)
    if not denoisers:
        raise BadRequest(f"a {family} model without a denoiser has no layout", code="unsupported_model")
    encoders = tuple(name for name in folders.TOKENIZERS if name in configs)
    layers: dict[str, Layer] = {}
    for name in encoders:
        class_name = configs[name].get("_class_name", "CLIPTextModel")
        if class_name not in ENCODERS:
            raise BadRequest(
                f"{name} is a {class_name}, Farm knows {', '.join(ENCODERS)}", code="unsupported_model"
            )
        layers |= collect(ENCODERS[class_name](configs[name], name))
    labels: tuple[str, ...] = ()
    for name in denoisers:
        class_name = configs[name].get("_class_name", DENOISING[name])
        if class_name not in DENOISERS:
            raise BadRequest(
                f"{name} is a {class_name}, Farm knows {', '.join(DENOISERS)}", code="unsupported_model"
            )
        denoiser = DENOISERS[class_name]
        layers |= collect(denoiser.layers(configs[name], name))
        blocks = denoiser.labels(configs[name])
        if labels and blocks != labels:
            raise BadRequest(
                f"{denoisers[0]} has {len(labels)} blocks and {name} {len(blocks)}: two experts are made alike",
                code="unsupported_model",
            )
        labels = blocks
    return Layout(family=family, denoisers=denoisers, text_encoders=encoders, blocks=labels, layers=layers)


def denoisers_in(configs: Mapping[str, Config]) -> tuple[str, ...]:
    """Return the components that denoise, in the order of a run."""
    return tuple(name for name in DENOISING if name in configs)


def _describe_folder(path: Path) -> ModelInfo:
    name = str(folders.read_index(path).get("_class_name", ""))
    pipeline = PIPELINES.get(name)
    if pipeline is None:
        raise BadRequest(
            f"{path.name} is a {name or 'pipeline without a name'}, which Farm does not run yet",
            f"it runs {', '.join(PIPELINES)}",
            code="unsupported_model",
        )
    folder = folders.read_folder(path)
    _check_parts(path.name, pipeline, folder.configs)
    return _info(
        path,
        name,
        family=_family(pipeline, folder),
        format="diffusers",
        configs=folder.configs,
        files=folder.files,
        index=folder.index,
        unused=folder.unused,
    )


def _check_parts(name: str, pipeline: Pipeline, configs: Mapping[str, Config]) -> None:
    """Refuse a folder that lacks a part, or has one of another class."""
    for part in (*pipeline.parts, "scheduler"):
        if part not in configs:
            if part in pipeline.optional:
                continue
            raise BadRequest(
                f"{name}: model_index.json names no {part}",
                "the pipeline needs it: copy the whole model",
                code="bad_model",
            )
        found = configs[part].get("_class_name")
        wanted = pipeline.parts.get(part)
        if wanted is not None and found not in wanted:
            raise BadRequest(
                f"{name}: its {part} is a {found}, Farm runs {' or '.join(wanted)}",
                code="unsupported_model",
            )


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
    name = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    return _info(
        path,
        name,
        family=family,
        format="ldm",
        configs=configs,
        files=(path.name, *tokenizer),
        index={},
        unused=(),
    )


def _info(
    path: Path,
    name: str,
    *,
    family: str,
    format: str,
    configs: Mapping[str, Config],
    files: tuple[str, ...],
    index: Config,
    unused: tuple[str, ...],
) -> ModelInfo:
    pipeline = PIPELINES[name]
    _check_channels(path.name, pipeline, configs)
    layout(family, configs)
    root = path if path.is_dir() else path.parent
    return ModelInfo(
        name=path.stem if path.is_file() else path.name,
        family=family,
        format=format,
        pipeline=name,
        configs=configs,
        defaults=defaults.defaults(family, pipeline, configs, index),
        limits=defaults.limits(pipeline, configs),
        files=files,
        bytes=sum((root / file).stat().st_size for file in files),
        denoisers=denoisers_in(configs),
        video=pipeline.video,
        unused=unused,
    )


def _check_channels(name: str, pipeline: Pipeline, configs: Mapping[str, Config]) -> None:
    """Refuse a model that takes more than the picture that becomes: an original to edit, a mask, a first frame."""
    made = vaes.scale(configs["vae"]).channels
    for part in denoisers_in(configs):
        taken = configs[part].get("in_channels", DENOISERS[pipeline.denoiser].defaults["in_channels"])
        if taken != made * pipeline.packed:
            raise BadRequest(
                f"{name}: its {part} takes {taken} channels, its VAE makes {made}"
                f"{f' for each of {pipeline.packed} packed latents' if pipeline.packed > 1 else ''}; inpainting and "
                "edit models are not run yet",
                code="unsupported_model",
            )


def _family(pipeline: Pipeline, folder: folders.Folder) -> str:
    marks = MARKS if pipeline.family is None else (pipeline.family,)
    mark = folder.index.get("_farm_family")
    if mark is not None and mark not in marks:
        raise BadRequest(
            f"model_index.json: _farm_family is {mark!r}, wanted {', '.join(marks)}", code="bad_model"
        )
    if mark or pipeline.family:
        return str(mark or pipeline.family)
    width = folder.configs["unet"].get("cross_attention_dim")
    family = WIDTHS.get(width, "unknown") if isinstance(width, int) else "unknown"
    two_encoders = "text_encoder_2" in folder.configs
    return family if two_encoders == (family == "sdxl") else "unknown"


def scale_of(configs: Mapping[str, Config]) -> int:
    """Return how many pixels one latent is wide: 8 for Stable Diffusion."""
    return vaes.scale(configs["vae"]).spatial
