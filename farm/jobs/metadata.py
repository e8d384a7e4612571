"""What a result knows of its making: our JSON and the usual `parameters` text, written into its file, read back from PNGs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from farm.errors import BadRequest
from farm.jobs.attempts import JobForWorker
from farm.jobs.png import read_texts
from farm.models.samplers import normalise_sampler, sampler_label

if TYPE_CHECKING:
    from PIL.Image import Image

#: keywords of the two text chunks of a PNG
OURS = "farm"
USUAL = "parameters"
#: the tag of a video's file that players and other programs show; ours is called as in a PNG
COMMENT = "comment"
VERSION = 1
#: fields of our JSON that a spec takes over
_SPEC_FIELDS = (
    "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "seed", "linear_curves",
    "frames", "fps", "guidance_scale_2", "true_cfg_scale", "hr_scale", "hr_steps", "hr_strength",
)  # fmt: skip
#: fields that only some jobs have: of a video, of further guidance, of a second pass
_RARE = ("frames", "fps", "guidance_scale_2", "true_cfg_scale", "hr_scale", "hr_steps", "hr_strength")


def image_info(
    job: JobForWorker, *, index: int, size: tuple[int, int], video: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON of picture `index` (from 0) of `job`, `size` in pixels: enough to make the same picture again.

    `width` and `height` are those that were asked for, `size` what a second pass made of them. `video` has `frames`
    and `fps` as they were made.
    """
    spec = job.spec
    rare = {**{name: getattr(spec, name) for name in _RARE}, **(video or {})}
    return {
        "version": VERSION,
        "job": job.id,
        "attempt": job.attempt,
        "index": index,
        "prompt": spec.prompt,
        "clean_prompt": job.clean_prompt,
        "negative_prompt": spec.negative_prompt,
        "model": {"name": job.model.name, "family": job.model.family, "sha256": job.model.key},
        "width": spec.width,
        "height": spec.height,
        "size": list(size),
        "steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "sampler": spec.sampler,
        "seed": job.seeds[index],
        "linear_curves": spec.linear_curves,
        **{name: value for name, value in rare.items() if value is not None},
        "networks": [
            {"name": network.name, "sha256": network.sha256, "type": network.type} for network in job.networks
        ],
        "created_at": job.created_at.isoformat(),
    }


def a1111_text(info: Mapping[str, Any]) -> str:
    """`info` as AUTOMATIC1111 and SD.Next write it: prompt, negative prompt, a line of settings.

    Tags stay in the prompt, as those programs keep them; adapters' hashes are the first 12 digits of their SHA-256.
    """
    lines = [str(info["prompt"])]
    if info["negative_prompt"]:
        lines.append(f"Negative prompt: {info['negative_prompt']}")
    settings = {
        "Steps": info["steps"],
        "Sampler": sampler_label(str(info["sampler"])),
        "CFG scale": f"{info['guidance_scale']:g}",
        "Seed": info["seed"],
        "Size": f"{info['width']}x{info['height']}",
        "Model hash": info["model"]["sha256"][:10],
        "Model": info["model"]["name"],
    }
    hashes = ", ".join(f"{network['name']}: {network['sha256'][:12]}" for network in info["networks"])
    if info.get("hr_scale"):
        settings["Denoising strength"] = f"{info['hr_strength']:g}"
        settings["Hires upscale"] = f"{info['hr_scale']:g}"
        settings["Hires steps"] = info["hr_steps"]
        settings["Hires upscaler"] = "Latent"
    if info.get("fps"):
        settings["Frames"] = info["frames"]
        settings["FPS"] = f"{info['fps']:g}"
    if hashes:
        settings["Lora hashes"] = f'"{hashes}"'
    settings["Version"] = "Farm"
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def encode_png(picture: Image, info: Mapping[str, Any]) -> bytes:
    """`picture` as PNG with `info` in the text chunks `farm` (JSON) and `parameters`."""
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_itxt(USUAL, a1111_text(info))
    texts.add_itxt(OURS, _json(info))
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def video_texts(info: Mapping[str, Any]) -> dict[str, str]:
    """`info` as tags of a video's file: `comment` (the text of other programs) and `farm` (JSON)."""
    return {COMMENT: a1111_text(info), OURS: _json(info)}


def _json(info: Mapping[str, Any]) -> str:
    return json.dumps(info, ensure_ascii=False, separators=(",", ":"))


def read_png(data: bytes) -> dict[str, Any] | None:
    """Spec fields from the text chunks of a PNG, ours or AUTOMATIC1111's; None when it has neither. No pixel is decoded.

    Raises:
        BadRequest: no PNG, or a damaged or oversized one.
    """
    texts = read_texts(data)
    if OURS in texts:
        try:
            info = json.loads(texts[OURS])
        except (ValueError, RecursionError):
            info = None
        if isinstance(info, dict):
            return _from_ours(info)
    return _from_usual(texts[USUAL]) if USUAL in texts else None


def _from_ours(info: Mapping[str, Any]) -> dict[str, Any]:
    spec = {name: info[name] for name in _SPEC_FIELDS if info.get(name) is not None}
    model = info.get("model")
    if isinstance(model, dict) and isinstance(model.get("name"), str):
        spec["model"] = model["name"]
    return spec


#: `Name: value` of the settings line; a value in quotes may hold commas
_SETTING = re.compile(r'([A-Z][\w ]{0,30}): ("[^"]{0,4000}"|[^,]{0,200})(?:, |$)')


#: numbers of the settings line, by the field that each is
_NUMBERS = (
    ("Steps", "steps", int),
    ("Seed", "seed", int),
    ("CFG scale", "guidance_scale", float),
    ("Hires upscale", "hr_scale", float),
)
#: they mean something only beside "Hires upscale"
_SECOND_PASS = (("Hires steps", "hr_steps", int), ("Denoising strength", "hr_strength", float))


def _take(
    spec: dict[str, Any],
    settings: Mapping[str, str],
    wanted: Iterable[tuple[str, str, type[int] | type[float]]],
) -> None:
    """Put numbers of the settings line into `spec`; what is missing or no number is left out."""
    for name, field, kind in wanted:
        with suppress(KeyError, ValueError):
            spec[field] = kind(settings[name])


def _from_usual(text: str) -> dict[str, Any] | None:
    body, _, last = text.rpartition("\n")
    if not last.startswith("Steps: "):
        return None
    prompt, _, negative = body.partition("\nNegative prompt: ")
    settings = dict(_SETTING.findall(last))
    spec: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    _take(spec, settings, _NUMBERS)
    if "hr_scale" in spec:
        # without a second pass the denoising strength is that of a picture drawn over, which Farm does not do
        _take(spec, settings, _SECOND_PASS)
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", settings.get("Size", ""))
    if size:
        spec["width"], spec["height"] = int(size[1]), int(size[2])
    if "Model" in settings:
        spec["model"] = settings["Model"]
    if "Sampler" in settings:
        with suppress(BadRequest):
            spec["sampler"] = normalise_sampler(settings["Sampler"])
    return spec
