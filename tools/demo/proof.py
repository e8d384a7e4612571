"""Shows that the adapters' files work: merges them by the plain formulas and paints sheets of samples.

This reads files, not the trainer's factors, and shares no code with the farm's engine, so that one can be held
against the other.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tools.demo.export import grid, sample
from tools.demo.recipes import RECIPES, Recipe

PROMPT = "a house with a red roof and a tree"
SHEET = (
    PROMPT, "a boat on the sea", "a cat face on a teal background", "a yellow flower on a blue background",
    "a red heart next to a blue star on a white background", "mountains at night",
)  # fmt: skip


def merge(
    pipeline: StableDiffusionPipeline, path: Path, strength: float, parts: tuple[str, ...] = ("unet", "te")
) -> None:
    """Add the adapter in `path` to the weights of `pipeline`."""
    modules = {}
    for part, model, prefix in (
        ("unet", pipeline.unet, "lora_unet_"),
        ("te", pipeline.text_encoder, "lora_te_"),
    ):
        for name, module in model.named_modules():
            if not isinstance(getattr(module, "weight", None), Tensor):
                continue
            flat = name.removeprefix("text_model.").replace(".", "_")
            modules[prefix + ("text_model_" if part == "te" else "") + flat] = (part, module.weight)
            modules[f"unet.{name}" if part == "unet" else f"text_encoder.{name}"] = (part, module.weight)
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in load_file(path).items():
        end = key.find(".") if key.startswith("lora_") else key.find(".lora_")
        layers[key[:end]][key[end + 1 :]] = tensor.float()
    for name, factors in layers.items():
        part, weight = modules[name]
        if part in parts:
            weight.data += strength * change(weight.data, factors)


def change(weight: Tensor, f: dict[str, Tensor]) -> Tensor:
    """Return what factors `f` add to `weight` at strength 1."""
    if "hada_w1_a" in f:
        rank = f["hada_w1_b"].shape[0]
        delta = (f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"])
    elif "lokr_w1" in f:
        rank = f["lokr_w2_b"].shape[0]
        delta = torch.kron(f["lokr_w1"], f["lokr_w2_a"] @ f["lokr_w2_b"])
    else:
        down = f["lora_down.weight"] if "lora_down.weight" in f else f["lora_A.weight"]
        up = f["lora_up.weight"] if "lora_up.weight" in f else f["lora_B.weight"]
        rank = down.shape[0]
        delta = up.flatten(1) @ down.flatten(1)
    delta = delta.view(weight.shape) * (f["alpha"].item() / rank if "alpha" in f else 1)
    if "dora_scale" in f:
        turned = weight + delta
        length = turned.flatten(1).norm(dim=1).view(f["dora_scale"].shape)
        return turned * f["dora_scale"] / length - weight
    return delta


def with_adapter(
    pipeline: StableDiffusionPipeline, chosen: dict[Path, float], prompts: list[str], **options: object
) -> np.ndarray:
    """Sample with adapters merged at their strengths; the pipeline is restored afterwards."""
    kept = [
        (model, {k: v.clone() for k, v in model.state_dict().items()})
        for model in (pipeline.unet, pipeline.text_encoder)
    ]
    parts = options.pop("parts", ("unet", "te"))
    try:
        for path, strength in chosen.items():
            merge(pipeline, path, strength, parts)  # type: ignore[arg-type]
        return sample(pipeline, prompts, **options)  # type: ignore[arg-type]
    finally:
        for model, state in kept:
            model.load_state_dict(state)


def sheet(
    pipeline: StableDiffusionPipeline, folder: Path, recipes: tuple[Recipe, ...] = RECIPES
) -> Image.Image:
    """Paint a row for no adapter and one for each, at full strength."""
    rows = [sample(pipeline, list(SHEET))]
    rows += [with_adapter(pipeline, {folder / f"{r.name}.safetensors": 1.0}, list(SHEET)) for r in recipes]
    return grid(np.concatenate(rows), len(SHEET), scale=2, gap=4)


def preview(pipeline: StableDiffusionPipeline, recipe: Recipe, folder: Path) -> None:
    """Write `folder/<name>.webp`, the same picture for all adapters but for the style."""
    pictures = with_adapter(pipeline, {folder / f"{recipe.name}.safetensors": 1.0}, [PROMPT], seed=1)
    large = grid(pictures, 1).resize((192, 192), Image.Resampling.LANCZOS)
    large.save(folder / f"{recipe.name}.webp", quality=88, method=6)
