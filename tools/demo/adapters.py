"""Trains the style adapters on re-drawings of the model's own captions, and writes their files."""

import json
import math
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tools.demo.config import SEED
from tools.demo.dataset import pictures
from tools.demo.factors import Factors
from tools.demo.recipes import TEXT_LAYERS, Recipe
from tools.demo.unet import Examples, Noise, encode

PICTURES = 1500
BATCH = 24
RATE = 4e-3
#: An adapter with a text part learns now and then with that part alone, or it would leave all to the UNet.
TEXT_ALONE = 0.3


def train(pipeline: StableDiffusionPipeline, recipe: Recipe, folder: Path, minutes: float) -> Path:
    """Train one adapter on `pipeline`, which is left as it was, and write `folder/<name>.safetensors`."""
    torch.manual_seed(SEED)
    data = _examples(pipeline, recipe)
    unet, encoder = pipeline.unet.train(), pipeline.text_encoder
    unet.requires_grad_(False).to(memory_format=torch.channels_last)
    encoder.requires_grad_(False)
    parts = {"unet": attach(unet, recipe, recipe.layers)}
    if recipe.text:
        parts["text_encoder"] = attach(encoder, recipe, TEXT_LAYERS)
    weights = [p for part in parts.values() for factors in part.values() for p in factors.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    noise = Noise()
    began, step, smooth = time.monotonic(), 0, 0.0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        rate = RATE * min(1, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if recipe.text:
            alone = torch.rand(()).item() < TEXT_ALONE
            for factors in parts["unet"].values():
                factors.strength = 0.0 if alone else 1.0
        clean, tokens = data.batch(torch.randint(0, len(data.latents), (BATCH,)))
        # Cached, a weight that is used twice in a step is computed once.
        with parametrize.cached():
            hidden = encoder(tokens).last_hidden_state
            loss = noise.loss(
                lambda noisy, t, hidden=hidden: (
                    unet(noisy.to(memory_format=torch.channels_last), t, hidden).sample
                ),
                clean,
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        smooth += (loss.item() - smooth) * max(0.02, 1 / step)
        if step % 100 == 0:
            print(f"{recipe.name} {step} {time.monotonic() - began:.0f}s loss {smooth:.4f}", flush=True)
    path = folder / f"{recipe.name}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(parts, recipe), path, metadata(recipe, step))
    for model in (unet, encoder):
        detach(model)
    print(f"{recipe.name} done: {step} steps, {path.stat().st_size / 1000:.0f} kB", flush=True)
    return path


def attach(model: nn.Module, recipe: Recipe, ends: tuple[str, ...]) -> dict[str, Factors]:
    """Put factors on every layer whose name ends so; returns them by layer name."""
    found = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | nn.Conv2d) and name.endswith(ends):
            found[name] = recipe.algorithm(module.weight, recipe.rank, recipe.alpha)
    for name, factors in found.items():
        parametrize.register_parametrization(model.get_submodule(name), "weight", factors)
    return found


def detach(model: nn.Module) -> None:
    """Take all factors off again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def tensors(parts: dict[str, dict[str, Factors]], recipe: Recipe) -> dict[str, Tensor]:
    """Return the file's tensors, named as `recipe.naming` wants."""
    result = {}
    for part, layers in parts.items():
        for layer, factors in layers.items():
            for suffix, tensor in factors.tensors().items():
                if recipe.naming == "peft" and suffix == "alpha":
                    continue
                result[_key(part, layer, suffix, recipe.naming)] = tensor.detach().half().contiguous()
    return result


def _key(part: str, layer: str, suffix: str, naming: str) -> str:
    if naming == "peft":
        return f"{part}.{layer}." + suffix.replace("lora_down", "lora_A").replace("lora_up", "lora_B")
    prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
    return f"{prefix}{layer.removeprefix('text_model.').replace('.', '_')}.{suffix}"


def metadata(recipe: Recipe, steps: int) -> dict[str, str]:
    """Return the header of the file, in the words of kohya's trainer and of ModelSpec."""
    header = {
        "ss_network_module": recipe.module,
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(recipe.alpha),
        "ss_network_args": json.dumps(recipe.args),
        "ss_base_model_version": "demo",
        "ss_num_train_images": str(PICTURES),
        "ss_steps": str(steps),
        "ss_tag_frequency": json.dumps({f"1_{recipe.name}": {recipe.trigger: PICTURES}}),
        "modelspec.architecture": "farm-demo-v1/lora",
        "modelspec.title": recipe.title,
        "modelspec.description": recipe.description,
        "modelspec.trigger_phrase": recipe.trigger,
        "modelspec.license": "Apache-2.0",
        "modelspec.resolution": "64x64",
        "modelspec.prediction_type": "v",
    }
    if recipe.naming == "peft":
        header["lora_adapter_metadata"] = json.dumps(
            {
                "unet.r": recipe.rank,
                "unet.lora_alpha": recipe.alpha,
                "unet.target_modules": list(recipe.layers),
            }
        )
    return header


def _examples(pipeline: StableDiffusionPipeline, recipe: Recipe) -> Examples:
    """Draw the captions in the adapter's style; every other caption names the style."""
    images, captions = pictures(PICTURES, SEED + 3, recipe.name, processes=1)
    captions = [f"{words}, {recipe.trigger}" if i % 2 else words for i, words in enumerate(captions)]
    return encode(pipeline.vae, pipeline.tokenizer, images, captions)
