"""Captioned pictures in memory: drawn by several processes, the same for the same seed."""

from collections.abc import Sequence
from multiprocessing import Pool
from random import Random

import numpy as np
import torch
from torch import Tensor

from tools.demo.captions import caption, random_subject
from tools.demo.draw import paint, scene
from tools.demo.styles import STYLES

CHUNK = 250


def pictures(count: int, seed: int, style: str = "", processes: int = 2) -> tuple[Tensor, list[str]]:
    """Return `count` pictures as uint8 (count, 3, 64, 64) with their captions.

    `style` is a name of `STYLES`, "" for none, or "*" for a mixture: three in ten pictures in a random style.
    """
    chunks = [(seed * 1_000_003 + i, style) for i in range(-(-count // CHUNK))]
    with Pool(processes) as pool:
        done = pool.map(_chunk, chunks)
    images = np.concatenate([images for images, _ in done])[:count]
    return torch.from_numpy(images), [words for _, captions in done for words in captions][:count]


def _chunk(job: tuple[int, str]) -> tuple[np.ndarray, Sequence[str]]:
    seed, style = job
    rng = Random(seed)
    images, captions = [], []
    for _ in range(CHUNK):
        subject = random_subject(rng)
        marks = scene(subject, rng)
        chosen = style
        if style == "*":
            chosen = rng.choice(sorted(STYLES)) if rng.random() < 0.3 else ""
        image = STYLES[chosen](marks) if chosen else paint(marks)
        images.append(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
        captions.append(caption(subject, rng))
    return np.stack(images), captions


def as_float(images: Tensor) -> Tensor:
    """Return uint8 pictures as floats from -1 to 1, channels last in memory."""
    return images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
