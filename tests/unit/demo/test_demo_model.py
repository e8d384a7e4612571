"""The committed weights draw what is asked: sampled with diffusers' own pipeline, so that no code of ours can hide a fault."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from farm.demo import catalog

BACKGROUNDS = {
    "red": (220, 48, 46),
    "green": (50, 163, 82),
    "blue": (44, 100, 208),
    "yellow": (247, 210, 62),
    "black": (22, 22, 28),
    "white": (247, 248, 244),
}
FIGURES = {
    "a red circle on a white background": (220, 48, 46),
    "a blue square on a yellow background": (44, 100, 208),
}
#: Colours are told apart by their nearest neighbour among these; a picture need not hit one exactly.
PALETTE = {
    **BACKGROUNDS,
    "orange": (240, 132, 36),
    "purple": (130, 66, 184),
    "teal": (36, 150, 152),
    "gray": (140, 141, 148),
}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    # two would go on waiting for one another in all later tests of this process
    torch.set_num_threads(1)
    loaded = StableDiffusionPipeline.from_pretrained(catalog.MODEL_DIR, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def sample(pipeline: StableDiffusionPipeline, prompts: list[str]) -> np.ndarray:
    """Return pictures (n, height, width, 3) from 0 to 255."""
    generators = [torch.Generator().manual_seed(11 + i) for i in range(len(prompts))]
    images = pipeline(
        prompts,
        num_inference_steps=12,
        guidance_scale=catalog.GUIDANCE,
        generator=generators,
        output_type="np",
    ).images
    return images * 255


def nearest(colour: np.ndarray) -> str:
    """Return the name of the palette's colour that is nearest to `colour`."""
    return min(PALETTE, key=lambda name: float(np.abs(colour - PALETTE[name]).sum()))


def test_background_has_the_colour_that_is_asked(pipeline: StableDiffusionPipeline) -> None:
    figures = ["a white star" if name not in ("white", "yellow") else "a purple star" for name in BACKGROUNDS]
    prompts = [f"{figure} on a {name} background" for figure, name in zip(figures, BACKGROUNDS, strict=True)]
    for image, asked in zip(sample(pipeline, prompts), BACKGROUNDS, strict=True):
        border = np.concatenate([image[:6].reshape(-1, 3), image[-6:].reshape(-1, 3)])
        assert nearest(np.median(border, axis=0)) == asked
        whole = np.abs(image - BACKGROUNDS[asked]).mean(axis=-1)
        assert (whole < 40).mean() > 0.5, f"{asked} covers too little"


def test_figure_has_the_colour_that_is_asked(pipeline: StableDiffusionPipeline) -> None:
    for image, (prompt, colour) in zip(sample(pipeline, list(FIGURES)), FIGURES.items(), strict=True):
        middle = np.median(image[28:36, 28:36].reshape(-1, 3), axis=0)
        assert np.abs(middle - colour).mean() < 40, prompt


def test_night_is_darker_than_day(pipeline: StableDiffusionPipeline) -> None:
    day, night = sample(pipeline, ["a house on a sunny day", "a house at night"])
    assert night[:20].mean() < 0.5 * day[:20].mean()


def test_same_seed_gives_the_same_picture(pipeline: StableDiffusionPipeline) -> None:
    first, second = (sample(pipeline, ["a yellow flower"]) for _ in range(2))
    assert np.array_equal(first, second)


def test_words_of_captions_are_single_tokens(pipeline: StableDiffusionPipeline) -> None:
    words = ["a", "red", "circle", "on", "a", "blue", "background"]
    assert len(pipeline.tokenizer(" ".join(words), add_special_tokens=False).input_ids) == len(words)


@pytest.mark.parametrize("adapter", catalog.ADAPTERS, ids=lambda adapter: adapter.name)
def test_adapter_says_what_it_is(adapter: catalog.DemoAdapter) -> None:
    with safe_open(adapter.path, "pt") as file:
        header = file.metadata()
        assert list(file.keys())
    assert header["ss_base_model_version"] == "demo"
    assert header["modelspec.trigger_phrase"] in adapter.trigger_words
    with Image.open(adapter.preview) as preview:
        assert preview.size == (192, 192)


def test_weights_are_small_enough_for_a_repository() -> None:
    folders = (catalog.MODEL_DIR, Path(catalog.ADAPTERS[0].path).parent)
    assert (
        sum(file.stat().st_size for folder in folders for file in folder.rglob("*.safetensors")) < 17 * 2**20
    )
