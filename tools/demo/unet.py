"""Trains the UNet together with the text encoder, on latents that were encoded once."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from tools.demo.average import follow
from tools.demo.config import SCHEDULER, SEED, UNET
from tools.demo.dataset import as_float, pictures
from tools.demo.text import build_encoder
from tools.demo.together import agree
from tools.demo.vae import latents

PICTURES = 20000
BATCH = 32
RATE = 1e-3
WARM_UP = 200
EMPTY = 0.1
AVERAGE = 0.999


@dataclass(slots=True)
class Examples:
    """Scaled latents (n, 16, 8, 8) in half precision and the token ids (n, 32) of their captions."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents and tokens of `rows`; the captions of some are left out, so that guidance has its opposite."""
        tokens = self.tokens[rows].clone()
        tokens[torch.rand(len(rows)) < EMPTY] = self.empty
        return self.latents[rows].float(), tokens


@torch.no_grad()
def encode(vae: AutoencoderKL, tokenizer: CLIPTokenizer, images: Tensor, captions: list[str]) -> Examples:
    """Encode pictures and captions, once for all."""
    scale = vae.config.scaling_factor
    coded = torch.cat([latents(vae, as_float(part)).mul(scale).half() for part in images.split(100)])
    return Examples(coded, tokenize(tokenizer, captions), tokenize(tokenizer, [""])[0])


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return token ids, padded to full length as pipelines do."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


class Noise:
    """The noise schedule, and the loss of a v-prediction."""

    def __init__(self) -> None:
        kept = DDIMScheduler(**SCHEDULER).alphas_cumprod
        self.signal, self.sigma = kept.sqrt(), (1 - kept).sqrt()

    def loss(self, predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor) -> Tensor:
        """Return the mean squared error of `predict(noisy, timestep)` at timesteps spread evenly over the batch."""
        count = len(clean)
        timestep = ((torch.arange(count) + torch.rand(count)) * (1000 / count)).long().clamp(max=999)
        noise = torch.randn_like(clean)
        signal, sigma = self.signal[timestep].view(-1, 1, 1, 1), self.sigma[timestep].view(-1, 1, 1, 1)
        return F.mse_loss(predict(signal * clean + sigma * noise, timestep), signal * noise - sigma * clean)


def examples(folder: Path, vae: AutoencoderKL | None, tokenizer: CLIPTokenizer) -> Examples:
    """Draw and encode the training set, or read what an earlier call left in `folder`."""
    kept = folder / "examples.pt"
    if kept.exists():
        return Examples(**torch.load(kept))
    if vae is None:
        raise FileNotFoundError(kept)
    data = encode(vae, tokenizer, *pictures(PICTURES, SEED + 2))
    torch.save({"latents": data.latents, "tokens": data.tokens, "empty": data.empty}, kept)
    return data


def train(
    folder: Path,
    data: Examples,
    tokenizer: CLIPTokenizer,
    minutes: float,
    show: Callable[..., None] | None = None,
    rank: int = 0,
    workers: int = 1,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train for so many minutes in all; resumes from `folder/unet.pt`, which is written every three minutes.

    Returns the averaged models. `show(unet, encoder, seconds)` is called with them at each checkpoint. All `workers`
    (see `tools.demo.together`) call this; the one of rank 0 writes and prints.
    """
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
    encoder = build_encoder(tokenizer)
    both = torch.nn.ModuleDict({"unet": unet, "encoder": encoder})
    average = torch.nn.ModuleDict({"unet": UNet2DConditionModel(**UNET), "encoder": build_encoder(tokenizer)})
    average.load_state_dict(both.state_dict())
    average.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        both.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    noise = Noise()
    step, spent, smooth = 0, 0.0, 1.0
    kept = folder / "unet.pt"
    if kept.exists():
        state = torch.load(kept)
        both.load_state_dict(state["both"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    torch.manual_seed(SEED + step * workers + rank)
    both.train()
    began, saved = time.monotonic() - spent, spent
    while True:
        spent = time.monotonic() - began
        if workers == 1 and spent > 60 * minutes:
            break
        rate = (
            RATE * min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * spent / 60 / minutes))
            + 1e-6
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        clean, tokens = data.batch(torch.randint(0, len(data.latents), (BATCH // workers,)))
        hidden = encoder(tokens).last_hidden_state
        loss = noise.loss(
            lambda noisy, t, hidden=hidden: (
                unet(noisy.to(memory_format=torch.channels_last), t, hidden).sample
            ),
            clean,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if workers > 1 and agree(both, spent > 60 * minutes):
            break
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        step += 1
        follow(average, both, min(AVERAGE, step / (10 + step)))
        smooth += (loss.item() - smooth) * max(0.01, 1 / step)
        if step % 100 == 0 and rank == 0:
            print(f"unet {step} {spent:.0f}s loss {smooth:.4f} rate {rate:.1e} {step * BATCH / spent:.0f} pictures/s",
                  flush=True)  # fmt: skip
        if spent - saved > 180 and rank == 0:
            saved = spent
            _save(kept, step, spent, both=both, average=average, optimizer=optimizer)
            if show:
                show(average["unet"], average["encoder"], spent)
    if rank == 0:
        _save(kept, step, spent, both=both, average=average, optimizer=optimizer)
    return average["unet"], average["encoder"]


def _save(path: Path, step: int, spent: float, **parts: torch.nn.Module | torch.optim.Optimizer) -> None:
    """Write a checkpoint; the old one stays until the new one is whole."""
    new = path.with_suffix(".new")
    torch.save(
        {**{name: part.state_dict() for name, part in parts.items()}, "step": step, "spent": spent}, new
    )
    new.replace(path)


def averaged(folder: Path, tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Return the averaged models of the last checkpoint."""
    models = torch.nn.ModuleDict({"unet": UNet2DConditionModel(**UNET), "encoder": build_encoder(tokenizer)})
    models.load_state_dict(torch.load(folder / "unet.pt")["average"])
    return models["unet"], models["encoder"]
