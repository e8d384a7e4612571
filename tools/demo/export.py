"""Writes the trained parts as a pipeline folder, and samples from it."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from tools.demo.config import SCHEDULER
from tools.demo.text import write_vocabulary


def export(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> StableDiffusionPipeline:
    """Write `folder` anew in half precision; returns the pipeline read back from it in single precision."""
    shutil.rmtree(folder, ignore_errors=True)
    half = [copy.deepcopy(part).half() for part in (vae, unet, encoder)]
    StableDiffusionPipeline(
        vae=half[0], unet=half[1], text_encoder=half[2], tokenizer=tokenizer, scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    write_vocabulary(folder / "tokenizer")
    _mark(folder / "model_index.json")
    for config in folder.rglob("*.json"):
        _tidy(config)
    return load(folder)


def _mark(path: Path) -> None:
    """Say in the index that this is the demo model: the farm tells it from others by this entry."""
    index = {**json.loads(path.read_text(encoding="utf-8")), "_farm_family": "demo"}
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tidy(path: Path) -> None:
    """Take the training machine's paths out of a config, and the dtype in which the weights happen to be stored.

    transformers would load the text encoder in half precision by it, where diffusers loads all else in single.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and {"_name_or_path", "dtype"} & content.keys():
        content.pop("_name_or_path", None)
        if "dtype" in content:
            content["dtype"] = "float32"
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> StableDiffusionPipeline:
    """Load a pipeline folder for the CPU."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    *,
    seed: int = 1,
    steps: int = 20,
    guidance: float = 4.5,
) -> np.ndarray:
    """Return pictures (n, 64, 64, 3) from 0 to 1; every prompt starts from its own noise, `seed`, `seed + 1`, ..."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    return pipeline(
        prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
    ).images  # fmt: skip


def grid(pictures: np.ndarray, columns: int, scale: int = 1, gap: int = 0) -> Image.Image:
    """Arrange pictures in rows, enlarged by a whole number."""
    size = pictures.shape[1] * scale
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (size + gap) - gap, rows * (size + gap) - gap), "white")
    for i, picture in enumerate(pictures):
        tile = Image.fromarray((picture * 255).round().astype(np.uint8)).resize(
            (size, size), Image.Resampling.NEAREST
        )
        sheet.paste(tile, (i % columns * (size + gap), i // columns * (size + gap)))
    return sheet
