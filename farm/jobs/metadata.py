"""What a picture knows of its making: our JSON and the usual `parameters` text, written into PNGs and read back safely."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from farm.errors import BadRequest
from farm.jobs.attempts import JobForWorker
from farm.jobs.png import read_texts
from farm.models.samplers import normalise_sampler, sampler_label

if TYPE_CHECKING:
    from PIL.Image import Image

#: keywords of the two text chunks
OURS = "farm"
USUAL = "parameters"
VERSION = 1
#: fields of our JSON that a spec takes over
_SPEC_FIELDS = (
    "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "seed", "linear_curves",
)  # fmt: skip


def image_info(job: JobForWorker, *, index: int, width: int, height: int) -> dict[str, Any]:
    """The JSON of picture `index` (from 0) of `job`: enough to make the same picture again."""
    spec = job.spec
    return {
        "version": VERSION,
        "job": job.id,
        "attempt": job.attempt,
        "index": index,
        "prompt": spec.prompt,
        "clean_prompt": job.clean_prompt,
        "negative_prompt": spec.negative_prompt,
        "model": {"name": job.model.name, "family": job.model.family, "sha256": job.model.key},
        "width": width,
        "height": height,
        "steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "sampler": spec.sampler,
        "seed": job.seeds[index],
        "linear_curves": spec.linear_curves,
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
    texts.add_itxt(OURS, json.dumps(info, ensure_ascii=False, separators=(",", ":")))
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


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


def _from_usual(text: str) -> dict[str, Any] | None:
    body, _, last = text.rpartition("\n")
    if not last.startswith("Steps: "):
        return None
    prompt, _, negative = body.partition("\nNegative prompt: ")
    settings = dict(_SETTING.findall(last))
    spec: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    for name, field, kind in (
        ("Steps", "steps", int),
        ("Seed", "seed", int),
        ("CFG scale", "guidance_scale", float),
    ):
        try:
            spec[field] = kind(settings[name])
        except (KeyError, ValueError):
            continue
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", settings.get("Size", ""))
    if size:
        spec["width"], spec["height"] = int(size[1]), int(size[2])
    if "Model" in settings:
        spec["model"] = settings["Model"]
    if "Sampler" in settings:
        with suppress(BadRequest):
            spec["sampler"] = normalise_sampler(settings["Sampler"])
    return spec
