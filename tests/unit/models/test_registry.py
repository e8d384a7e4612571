"""Folders of every family: what they are, what a job gets from them, which files a worker needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from farm.errors import BadRequest
from farm.lora.formats.detect import FAMILY_NAMES
from farm.models import vaes
from farm.models.families import ModelInfo, describe, layout
from farm.models.layouts.classes import DENOISERS, ENCODERS
from farm.models.registry import PIPELINES
from farm.models.samplers import fits
from tests.unit.models import hollow

_PICTURE = {"width": 1024, "height": 1024, "sampler": "flow_euler", "negative_prompt": ""}
#: family, latents and defaults beside those of _PICTURE, by model
EXPECTED: Mapping[str, tuple[str, Mapping[str, int], Mapping[str, Any]]] = {
    "sd3": ("sd3", {"multiple_of": 16, "max_size": 3072}, {"steps": 28, "guidance_scale": 7.0}),
    "sd3.5 large": ("sd3", {"multiple_of": 16, "max_size": 3072}, {"steps": 28, "guidance_scale": 4.5}),
    "flux.1 dev": ("flux1", {"multiple_of": 16}, {"steps": 28, "guidance_scale": 3.5}),
    "flux.1 schnell": ("flux1", {"multiple_of": 16}, {"steps": 4, "guidance_scale": 0.0}),
    "flux.2 dev": ("flux2", {"multiple_of": 16}, {"steps": 50, "guidance_scale": 4.0}),
    "flux.2 klein": ("flux2", {"multiple_of": 16}, {"steps": 4, "guidance_scale": 1.0}),
    "chroma": ("chroma", {"multiple_of": 16}, {"steps": 35, "guidance_scale": 5.0}),
    "wan 2.1": ("wan", {"multiple_of": 16, "frame_step": 4}, {"width": 832, "height": 480, "frames": 81, "fps": 16.0, "steps": 50, "guidance_scale": 5.0, "sampler": "unipc"}),
    "wan 2.2": ("wan", {"multiple_of": 16, "frame_step": 4}, {"width": 832, "height": 480, "frames": 81, "fps": 16.0, "steps": 40, "guidance_scale": 4.0, "sampler": "unipc"}),
    "wan 2.2 5B": ("wan", {"multiple_of": 32, "frame_step": 4}, {"width": 1280, "height": 704, "frames": 121, "fps": 24.0, "steps": 50, "guidance_scale": 5.0, "sampler": "unipc"}),
    "qwen-image": ("qwenimage", {"multiple_of": 16}, {"steps": 50, "guidance_scale": 4.0}),
    "z-image": ("zimage", {"multiple_of": 16}, {"steps": 9, "guidance_scale": 0.0}),
    "hunyuan video": ("hunyuanvideo", {"multiple_of": 16, "frame_step": 4}, {"width": 832, "height": 480, "frames": 61, "fps": 24.0, "steps": 50, "guidance_scale": 6.0}),
    "ltx video": ("ltxv", {"multiple_of": 32, "frame_step": 8}, {"width": 704, "height": 480, "frames": 161, "fps": 25.0, "steps": 50, "guidance_scale": 3.0}),
    "lumina image 2": ("lumina2", {"multiple_of": 16}, {"steps": 30, "guidance_scale": 4.0}),
    "hidream": ("hidream", {"multiple_of": 16, "max_pixels": 1024 * 1024}, {"steps": 50, "guidance_scale": 5.0}),
    "auraflow": ("auraflow", {"multiple_of": 16, "max_size": 1536}, {"steps": 50, "guidance_scale": 3.5}),
    "sana 1.6B": ("sana", {"multiple_of": 32}, {"steps": 20, "guidance_scale": 4.5, "sampler": "dpmpp_2m"}),
}  # fmt: skip


@pytest.mark.parametrize("name", hollow.MODELS)
def test_a_folder_says_what_it_is(name: str, tmp_path: Path) -> None:
    model = hollow.MODELS[name]
    folder = hollow.write(tmp_path / "model", model)
    info = describe(folder)
    family, limits, defaults = EXPECTED[name]
    assert (info.family, info.pipeline, info.video) == (family, model.pipeline, "frame_step" in limits)
    assert info.denoisers == ("transformer", "transformer_2")[: model.experts]
    assert info.limits == {"min_size": limits["multiple_of"], "max_steps": 1000, **limits}
    assert info.defaults == {**_PICTURE, **defaults}
    assert info.defaults["sampler"] in fits(family)
    for side in ("width", "height"):
        assert info.defaults[side] % limits["multiple_of"] == 0
    if info.video:
        assert info.defaults["frames"] % limits["frame_step"] == 1
    assert info.unused == ("feature_extractor",)
    assert json.loads(json.dumps(info.as_dict()))["configs"]["vae"]["_class_name"] == model.vae[0]


@pytest.mark.parametrize("name", hollow.MODELS)
def test_a_worker_gets_every_file_that_is_used(name: str, tmp_path: Path) -> None:
    folder = hollow.write(tmp_path / "model", hollow.MODELS[name])
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    files = describe(folder).files
    assert len(set(files)) == len(files)
    assert set(files) == there - {"feature_extractor/preprocessor_config.json"}


@pytest.mark.parametrize("name", hollow.MODELS)
def test_configs_alone_give_the_layout(name: str, tmp_path: Path) -> None:
    model = hollow.MODELS[name]
    info = describe(hollow.write(tmp_path / "model", model))
    # as SQL keeps them
    found = layout(info.family, json.loads(json.dumps(info.configs)))
    assert (found.family, found.denoisers) == (info.family, info.denoisers)
    assert len(found.text_encoders) == len(model.encoders)
    assert {layer.component for layer in found.layers.values()} == set(found.components)
    numbers = {layer.index for layer in found.layers.values() if layer.component == found.denoisers[-1]}
    assert numbers == {-1, *range(len(found.blocks))}
    experts = [
        [(layer.path, layer.shape, layer.region.block) for layer in found.layers.values() if layer.component == part]
        for part in found.denoisers
    ]  # fmt: skip
    assert all(expert == experts[0] for expert in experts)


def test_what_a_pipeline_says_fits_what_there_is() -> None:
    for pipeline in PIPELINES.values():
        assert pipeline.denoiser in DENOISERS
        assert {name for names in pipeline.encoders.values() for name in names} <= set(ENCODERS)
        assert pipeline.vae in vaes.OF_CLASS
        assert set(pipeline.optional) <= set(pipeline.parts)
        assert pipeline.family is None or pipeline.sampler in fits(pipeline.family)
    families = {pipeline.family for pipeline in PIPELINES.values()} - {None}
    assert families | {"sd1", "sd2", "sdxl", "demo", "unknown"} == set(FAMILY_NAMES)


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_has_the_pipeline_with_these_parts(name: str) -> None:
    parts = set(getattr(diffusers, name)._get_signature_types())
    pipeline = PIPELINES[name]
    tokenizers = {part.replace("text_encoder", "tokenizer") for part in pipeline.encoders}
    assert {*pipeline.parts, *tokenizers, "scheduler"} <= parts
    # what else it takes is left out
    assert parts - {*pipeline.parts, *tokenizers, "scheduler"} <= {
        "image_encoder", "feature_extractor", "safety_checker", "requires_safety_checker", "is_distilled",
        "boundary_ratio", "expand_timesteps", "force_zeros_for_empty_prompt", "add_watermarker",
    }  # fmt: skip


#: small VAEs of every class: a picture, or nine frames, goes in
VAES: Mapping[str, tuple[str, Mapping[str, Any], int]] = {
    "kl": ("AutoencoderKL", {"block_out_channels": (8, 8, 8), "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3, "latent_channels": 5, "norm_num_groups": 4}, 0),
    "kl as it is": ("AutoencoderKL", {}, 0),
    "flux.2": ("AutoencoderKLFlux2", {}, 0),
    "wan": ("AutoencoderKLWan", {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1}, 9),
    "qwen": ("AutoencoderKLQwenImage", {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1}, 1),
    "small qwen": ("AutoencoderKLQwenImage", {"base_dim": 8, "dim_mult": [1, 1, 1], "temperal_downsample": [False, True]}, 1),
    "hunyuan": ("AutoencoderKLHunyuanVideo", {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}, 9),
    "ltx": ("AutoencoderKLLTXVideo", {}, 9),
    "small ltx": ("AutoencoderKLLTXVideo", {"block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "spatio_temporal_scaling": (True, False), "decoder_spatio_temporal_scaling": (True, False), "layers_per_block": (1, 1, 1), "decoder_layers_per_block": (1, 1, 1), "down_block_types": ("LTXVideoDownBlock3D",) * 2, "patch_size": 2, "latent_channels": 6, "decoder_inject_noise": (False,) * 3, "upsample_residual": (False, False), "upsample_factor": (1, 1)}, 9),
    "dc": ("AutoencoderDC", {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", VAES)
def test_latents_measure_what_the_vae_makes_of_a_picture(name: str) -> None:
    cls, config, frames = VAES[name]
    side = 64
    with torch.device("meta"):
        module = getattr(diffusers, cls).from_config(config).eval()
        shape = (1, 3, frames, side, side) if frames else (1, 3, side, side)
        with torch.no_grad():
            encoded = module.encode(torch.empty(shape))
    latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    found = vaes.scale({**config, "_class_name": cls})
    assert (found.channels, side // found.spatial) == (latents.shape[1], latents.shape[-1])
    if frames:
        assert (frames - 1) // found.temporal + 1 == latents.shape[2]


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_parts_that_may_be_missing_may_be_missing(tmp_path: Path) -> None:
    folder = hollow.write(tmp_path / "model", hollow.MODELS["sd3"])
    change(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    info = describe(folder)
    assert layout(info.family, info.configs).text_encoders == ("text_encoder", "text_encoder_2")
    assert not any(file.startswith(("text_encoder_3/", "tokenizer_3/")) for file in info.files)
    change(folder / "model_index.json", text_encoder_2=[None, None])
    with pytest.raises(BadRequest, match=r"model_index\.json names no text_encoder_2"):
        describe(folder)


def refused(folder: Path) -> str:
    with pytest.raises(BadRequest) as caught:
        describe(folder)
    return caught.value.message


def test_bad_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = hollow.write(tmp_path / "flux", hollow.MODELS["flux.1 dev"])
    index = folder / "model_index.json"
    change(folder / "transformer" / "config.json", in_channels=384)
    assert refused(folder) == (
        "flux: its transformer takes 384 channels, its VAE makes 16 for each of 4 packed latents; inpainting and edit "
        "models are not run yet"
    )
    change(index, transformer=["diffusers", "ChromaTransformer2DModel"])
    assert (
        refused(folder)
        == "flux: its transformer is a ChromaTransformer2DModel, Farm runs FluxTransformer2DModel"
    )
    change(index, transformer=["diffusers", "FluxTransformer2DModel"], _farm_family="chroma")
    change(folder / "transformer" / "config.json", in_channels=64)
    assert refused(folder) == "model_index.json: _farm_family is 'chroma', wanted flux1"
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        '{"weight_map": []}'
    )
    assert refused(folder) == "transformer/diffusion_pytorch_model.safetensors.index.json names no files"
    shutil.rmtree(folder / "tokenizer_2")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").touch()
    assert refused(folder) == "the model folder lacks tokenizer_2/tokenizer.json"
    folder = hollow.write(tmp_path / "wan", hollow.MODELS["wan 2.2"])
    change(folder / "transformer_2" / "config.json", num_layers=30)
    assert refused(folder) == "transformer has 40 blocks and transformer_2 30: two experts are made alike"


def test_defaults_may_be_written_into_the_folder(tmp_path: Path) -> None:
    folder = hollow.write(tmp_path / "model", hollow.MODELS["z-image"])
    change(folder / "model_index.json", _farm_defaults={"steps": 50, "guidance_scale": 4.0})
    defaults = describe(folder).defaults
    assert (defaults["steps"], defaults["guidance_scale"], defaults["width"]) == (50, 4.0, 1024)


def test_older_callers_need_not_know_of_videos() -> None:
    info = ModelInfo(
        name="m", family="sd1", format="diffusers", pipeline="StableDiffusionPipeline", configs={}, defaults={},
        limits={}, files=(), bytes=0,
    )  # fmt: skip
    assert (info.denoisers, info.video, info.unused) == (("unet",), False, ())
