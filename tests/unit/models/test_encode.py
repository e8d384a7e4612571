"""Prompts are encoded as diffusers does, in chunks when long, and once per strength of the text encoders."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from farm.lora.schedule import StrengthPlan
from farm.models.denoisers.clip import ChunkedTexts, token_ids
from farm.models.encode import PromptEncoder
from farm.models.load import LoadedModel, load
from tests.support.patching import NoPatcher, make_plan

#: 40 letters, so 40 tokens
LETTERS = " ".join("bcdefghijk" * 4)


@dataclass
class FakeAdapter:
    deltas: dict[str, Any] = field(default_factory=dict)


TEXT = FakeAdapter({"text_encoder.encoder.layers.0.mlp.fc1": None})
PICTURE = FakeAdapter({"unet.conv_in": None})


def encoder_of(loaded: LoadedModel, patcher: NoPatcher) -> PromptEncoder:
    return PromptEncoder(ChunkedTexts(loaded), loaded.layout.text_encoders, patcher)


@pytest.fixture(scope="module")
def model(sd15: Path) -> LoadedModel:
    return load(sd15)


@pytest.fixture(scope="module")
def xl(sdxl: Path) -> LoadedModel:
    return load(sdxl)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize(("prompt", "negative"), [("a red fox", "a blue house, ink"), ("", "Ünïcode 狐")])
def test_short_prompts_are_encoded_as_diffusers_does(
    name: str, prompt: str, negative: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    loaded = load(folder)
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    theirs = pipeline.encode_prompt(
        prompt,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative,
    )
    row = encoder_of(loaded, NoPatcher()).table(prompt, negative, StrengthPlan(steps=1), {}).at(1)
    assert row.negative is not None
    assert torch.equal(row.positive.tokens, theirs[0])
    assert torch.equal(row.negative.tokens, theirs[1])
    if name == "sdxl":
        assert row.positive.pooled is not None
        assert row.negative.pooled is not None
        assert torch.equal(row.positive.pooled, theirs[2])
        assert torch.equal(row.negative.pooled, theirs[3])


def test_a_long_prompt_is_encoded_in_chunks_of_75_tokens(model: LoadedModel) -> None:
    tokenizer = model.tokenizers["text_encoder"]
    rows = token_ids(tokenizer, f"{LETTERS} {LETTERS}", 3)
    assert rows.shape == (3, 77)
    assert set(rows[:, 0].tolist()) == {tokenizer.bos_token_id}
    letters = tokenizer(LETTERS, add_special_tokens=False).input_ids
    assert [*rows[0, 1:76].tolist(), *rows[1, 1:6].tolist()] == letters * 2
    assert rows[0, 76] == rows[1, 6] == rows[2, 1] == tokenizer.eos_token_id
    assert set(rows[2, 2:].tolist()) == {tokenizer.pad_token_id}


def test_the_shorter_prompt_is_filled_up(xl: LoadedModel) -> None:
    encoder = encoder_of(xl, NoPatcher())
    long = f"{LETTERS} {LETTERS}"
    row = encoder.table("a fox", long, StrengthPlan(steps=1), {}).at(1)
    assert row.negative is not None
    assert row.positive.tokens.shape == row.negative.tokens.shape == (1, 154, 80)
    alone = encoder.table("a fox", None, StrengthPlan(steps=1), {}).at(1)
    torch.testing.assert_close(row.positive.tokens[:, :77], alone.positive.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(row.positive.pooled, alone.positive.pooled, atol=1e-5, rtol=1e-5)


def test_an_empty_negative_prompt_of_an_xl_model_is_zeros(xl: LoadedModel, model: LoadedModel) -> None:
    row = encoder_of(xl, NoPatcher()).table("a fox", "", StrengthPlan(steps=1), {}).at(1)
    assert row.negative is not None
    assert not row.negative.tokens.any()
    row = encoder_of(model, NoPatcher()).table("a fox", "", StrengthPlan(steps=1), {}).at(1)
    assert row.negative is not None
    assert row.negative.tokens.any()


def test_once_per_strength_that_occurs(model: LoadedModel) -> None:
    patcher = NoPatcher()
    encoder = encoder_of(model, patcher)
    plan = make_plan(model.layout, 6, a=(0.5, 0.5, 0.8, 0.8, 0.5, 0.0), b=1.0)
    table = encoder.table("a fox", "", plan, {"a": TEXT, "b": PICTURE})
    assert table.row_of_step == (0, 0, 1, 1, 0, 2)
    assert patcher.asked == [(step, ("text_encoder",)) for step in (1, 3, 6)]


def test_a_curve_that_only_the_denoiser_feels_encodes_once(model: LoadedModel) -> None:
    patcher = NoPatcher()
    plan = make_plan(model.layout, 4, a=(0.1, 0.2, 0.3, 0.4))
    table = encoder_of(model, patcher).table("a fox", "", plan, {"a": PICTURE})
    assert len(table.rows) == 1


def test_the_same_prompt_is_not_encoded_again(model: LoadedModel) -> None:
    patcher = NoPatcher()
    encoder = encoder_of(model, patcher)
    plan = make_plan(model.layout, 4, a=0.5)
    first = encoder.table("a fox", "", plan, {"a": TEXT}).at(1)
    again = encoder.table("a fox", "", plan, {"a": TEXT}).at(4)
    assert again.positive.tokens is first.positive.tokens
    assert patcher.asked == [(1, ("text_encoder",))]
    encoder.table("a fox", "", make_plan(model.layout, 4, a=0.6), {"a": TEXT})
    assert len(patcher.asked) == 2
