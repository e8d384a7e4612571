"""Trains the autoencoder that turns 64x64 pictures into 16 channels of 8x8.

The posterior is not sampled: a fixed noise on the mean, kept near unit variance, trains several times faster and makes
the decoder forgive what the UNet gets slightly wrong.
"""

import copy
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from tools.demo.average import follow
from tools.demo.config import LATENT_CHANNELS, SEED, VAE
from tools.demo.dataset import as_float, pictures

BATCH = 8
RATE = 4e-4
NOISE = 0.12
AVERAGE = 0.995


def latents(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Return the means of the posterior, unscaled."""
    return vae.quant_conv(vae.encoder(images))[:, :LATENT_CHANNELS]


def train(folder: Path, minutes: float) -> AutoencoderKL:
    """Train for so many minutes, save to `folder/vae` and return the model; prints one line every 100 steps."""
    torch.manual_seed(SEED)
    data, _ = pictures(16000, SEED, style="*")
    held, _ = pictures(64, SEED + 1)
    vae = AutoencoderKL(**VAE)
    start(vae)
    vae.to(memory_format=torch.channels_last)
    average = copy.deepcopy(vae).requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    began, step = time.monotonic(), 0
    order = torch.randperm(len(data))
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        rate = RATE * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = rate
        at = step * BATCH % (len(data) - BATCH)
        images = as_float(data[order[at : at + BATCH]])
        with torch.autocast("cpu", torch.bfloat16):
            mean = latents(vae, images)
            again = vae.decoder(vae.post_quant_conv(mean + NOISE * torch.randn_like(mean)))
        loss = _distance(again.float(), images) + 0.002 * _spread(mean.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        follow(average, vae, min(AVERAGE, step / (10 + step)))
        step += 1
        if step % 100 == 0:
            print(f"vae {step} {time.monotonic() - began:.0f}s loss {loss.item():.4f} psnr {_psnr(average, held):.1f} dB "
                  f"std {mean.std():.2f}", flush=True)  # fmt: skip
        if step % 500 == 0:
            vae.save_pretrained(folder / "vae-live")
    model = average
    with torch.no_grad():
        some = latents(model, as_float(data[:1000]))
        model.register_to_config(scaling_factor=round(1 / some.std().item(), 5))
    print(
        f"vae done: {step} steps, average weights psnr {_psnr(model, held):.2f} dB, live {_psnr(vae, held):.2f} dB"
    )
    model.save_pretrained(folder / "vae")
    return model


def refine(folder: Path, minutes: float, seed: int = SEED + 4) -> AutoencoderKL:
    """Go on training the decoder alone, on frozen latents, and save to `folder/vae-fine`.

    The latents keep their meaning, so this may be done after the UNet and the adapters have been trained, again and again
    with other seeds: a run begins with what is in `folder/vae-fine`, if that exists.
    """
    torch.manual_seed(seed)
    kept = folder / "vae-fine"
    vae = AutoencoderKL.from_pretrained(kept if kept.exists() else folder / "vae").requires_grad_(False)
    data, _ = pictures(8000, seed, style="*")
    held, _ = pictures(64, SEED + 1)
    coded = torch.cat([latents(vae, as_float(part)).half() for part in data.split(100)])
    half = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).to(memory_format=torch.channels_last)
    half.requires_grad_(True)
    average = copy.deepcopy(half).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        half.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3, fused=True
    )
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        rate = RATE * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(0, len(data), (BATCH,))
        mean = coded[rows].float()
        with torch.autocast("cpu", torch.bfloat16):
            again = vae.decoder(vae.post_quant_conv(mean + NOISE * torch.randn_like(mean)))
        loss = _distance(again.float(), as_float(data[rows]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(half.parameters(), 1.0)
        optimizer.step()
        follow(average, half, min(AVERAGE, step / (10 + step)))
        step += 1
        if step % 100 == 0:
            print(f"decoder {step} {time.monotonic() - began:.0f}s loss {loss.item():.4f} psnr {_psnr(vae, held):.1f} dB",
                  flush=True)  # fmt: skip
    half.load_state_dict(average.state_dict())
    print(f"decoder done: {step} steps, psnr {_psnr(vae, held):.2f} dB", flush=True)
    vae.save_pretrained(kept)
    return vae


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 of pixels and of their differences to their neighbours: the second keeps edges crisp."""
    across = F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + F.l1_loss(a.diff(dim=-2), b.diff(dim=-2))
    return F.l1_loss(a, b) + 0.5 * across + F.mse_loss(a, b)


def _spread(mean: Tensor) -> Tensor:
    """Keep every channel near zero mean and unit variance, like the noise that the UNet starts from."""
    variance = mean.var(dim=(0, 2, 3))
    return mean.mean(dim=(0, 2, 3)).square().mean() + (variance - 1).square().mean()


@torch.no_grad()
def _psnr(vae: AutoencoderKL, images: Tensor) -> float:
    images = as_float(images)
    again = vae.decoder(vae.post_quant_conv(latents(vae, images))).clamp(-1, 1)
    return -10 * math.log10(F.mse_loss(again, images).item() / 4)


@torch.no_grad()
def start(vae: AutoencoderKL) -> None:
    """Set `vae` to pass pictures through: residual branches silent, all convolutions between them keeping energy.

    With the usual initial weights a flat colour is drowned by the normalised residual branches, and the first
    thousands of steps go into finding it again.
    """
    for name, module in vae.named_modules():
        if not isinstance(module, torch.nn.Conv2d) or "conv1" in name:
            continue
        if "conv2" in name:
            torch.nn.init.zeros_(module.weight)
        elif "upsamplers" in name:
            torch.nn.init.dirac_(module.weight)
        else:
            torch.nn.init.orthogonal_(module.weight)
        torch.nn.init.zeros_(module.bias)
