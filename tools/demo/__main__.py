"""Trains everything anew: `python -m tools.demo [--work DIR] [--minutes VAE UNET DECODER ADAPTER]`."""

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from farm.demo import catalog
from tools.demo import adapters, together, unet, vae
from tools.demo.config import TOKENS
from tools.demo.export import export, load
from tools.demo.proof import preview, sheet
from tools.demo.recipes import RECIPES
from tools.demo.text import build_tokenizer


def main() -> None:
    """Train what is not yet in the work folder; the results replace `farm/demo`'s files."""
    options = _options()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    for_vae, for_unet, for_decoder, for_adapter = options.minutes
    tokenizer = build_tokenizer(work / "tokenizer")
    if not (work / "vae").exists():
        vae.train(work, for_vae)
    _say(began, "autoencoder")
    unet.examples(work, AutoencoderKL.from_pretrained(work / "vae"), tokenizer)
    _say(began, "pictures drawn and encoded")
    together.run(options.threads, _train_unet, options.threads, work, for_unet)
    model, encoder = unet.averaged(work, tokenizer)
    _say(began, "model")
    coder = vae.refine(work, for_decoder)
    _say(began, "decoder refined")
    pipeline = export(catalog.MODEL_DIR, coder, model, encoder, tokenizer)
    folder = catalog.ADAPTERS[0].path.parent
    for recipe in RECIPES:
        adapters.train(pipeline, recipe, folder, for_adapter)
        pipeline = load(catalog.MODEL_DIR)
        preview(pipeline, recipe, folder)
        _say(began, recipe.name)
    sheet(pipeline, folder).save(work / "adapters.png")
    _say(began, f"all; a sheet of samples is {work / 'adapters.png'}")


def _train_unet(rank: int, workers: int, work: Path, minutes: float) -> None:
    """Run in each of the processes that train the UNet together."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer", model_max_length=TOKENS)
    data = unet.examples(work, None, tokenizer)
    unet.train(work, data, tokenizer, minutes, rank=rank, workers=workers)


def _say(began: float, what: str) -> None:
    print(f"· {(time.monotonic() - began) / 60:5.1f} min: {what}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/train-demo", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/demo"), help="checkpoints; a second run resumes"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        nargs=4,
        default=(10, 40, 8, 3),
        metavar=("VAE", "UNET", "DECODER", "ADAPTER"),
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
