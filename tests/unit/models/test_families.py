"""What a model is, from its folder or file; and sentences for what cannot be used."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from farm.errors import BadRequest
from farm.models.families import SAMPLERS, describe, layout, normalise_sampler, sampler_label
from farm.models.layouts.known import SDXL


@pytest.fixture
def folder(sd15: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(sd15, tmp_path / "model"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def checkpoint(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> Path:
    """Write a safetensors file of zeros with these shapes."""
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2
        for dim in shape:
            size *= dim
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))
    return path


def whole(width: int, **extra: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the names that a checkpoint is recognised by."""
    return {
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, width),
        "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (8,),
    } | extra


def test_a_marked_folder_is_the_demo_model(sd15: Path) -> None:
    info = describe(sd15)
    assert (info.family, info.format, info.pipeline) == ("demo", "diffusers", "StableDiffusionPipeline")
    assert info.defaults["width"] == info.defaults["height"] == 64
    assert info.limits == {"multiple_of": 8, "min_size": 64, "max_steps": 1000}
    assert "unet/diffusion_pytorch_model.safetensors" in info.files
    assert info.bytes == sum((sd15 / file).stat().st_size for file in info.files)
    json.dumps(info.as_dict())


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2"), (32, "unknown")])
def test_an_unmarked_folder_is_known_by_its_text_width(folder: Path, width: int, family: str) -> None:
    change(folder / "model_index.json", _farm_family=None)
    change(folder / "unet" / "config.json", cross_attention_dim=width)
    assert describe(folder).family == family


def test_an_xl_folder(sdxl: Path) -> None:
    info = describe(sdxl)
    assert (info.family, info.defaults["guidance_scale"], info.defaults["sampler"]) == ("sdxl", 5.0, "euler")
    found = layout(info.family, info.configs)
    assert found.text_encoders == ("text_encoder", "text_encoder_2")
    assert found.blocks[:2] == ("IN00", "IN01")
    assert "text_encoder_2.text_projection" in found.layers
    assert "text_encoder.encoder.layers.0.self_attn.q_proj" in found.layers


def test_defaults_may_be_written_into_the_folder(folder: Path) -> None:
    change(folder / "model_index.json", _farm_defaults={"steps": 12, "sampler": "heun"})
    defaults = describe(folder).defaults
    assert (defaults["steps"], defaults["sampler"], defaults["guidance_scale"]) == (12, "heun", 7.5)


def test_sharded_and_half_precision_weights_are_found(folder: Path) -> None:
    unet, vae = folder / "unet", folder / "vae"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "part-1.safetensors")
    index = {"weight_map": {"conv_in.weight": "part-1.safetensors"}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    files = describe(folder).files
    assert "unet/part-1.safetensors" in files
    assert "vae/diffusion_pytorch_model.fp16.safetensors" in files


def test_bad_folders_are_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        BadRequest, match=r"weights of unet are a pickle file \(diffusion_pytorch_model.bin\)"
    ):
        describe(folder)
    weights.with_suffix(".bin").unlink()
    with pytest.raises(BadRequest, match=r"lacks unet/diffusion_pytorch_model.safetensors"):
        describe(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(BadRequest, match=r"unet/config.json is no JSON"):
        describe(folder)
    change(folder / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(BadRequest, match="is a KandinskyPipeline, which Farm does not run yet"):
        describe(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(BadRequest, match=r"it has no model_index\.json"):
        describe(folder)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.ckpt").touch()
    with pytest.raises(BadRequest, match="only pickle files"):
        describe(tmp_path / "old")
    with pytest.raises(BadRequest, match="there is no model at"):
        describe(tmp_path / "nothing")


def test_a_part_of_another_class_is_refused(folder: Path) -> None:
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    with pytest.raises(BadRequest, match="its vae is a AutoencoderTiny, Farm runs AutoencoderKL"):
        describe(folder)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(BadRequest, match=r"lacks tokenizer/tokenizer\.json"):
        describe(folder)


def test_an_inpainting_model_is_refused(folder: Path) -> None:
    change(folder / "unet" / "config.json", in_channels=9)
    with pytest.raises(BadRequest, match="its unet takes 9 channels, its VAE makes 4"):
        describe(folder)


def test_checkpoint_files_are_recognised(tmp_path: Path, sd15: Path) -> None:
    path = checkpoint(tmp_path / "photo.safetensors", whole(768))
    with pytest.raises(BadRequest, match=r"photo\.safetensors needs a folder 'tokenizer' beside it"):
        describe(path)
    shutil.copytree(sd15 / "tokenizer", tmp_path / "tokenizer")
    info = describe(path)
    assert (info.name, info.family, info.format) == ("photo", "sd1", "ldm")
    assert {"photo.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt"} <= set(info.files)
    assert describe(tmp_path) == info
    path.unlink()
    extra = {"conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (8,)}
    marks: dict[str, tuple[int, ...]] = {"v_pred": (1,), "ztsnr": (1,)}
    info = describe(checkpoint(tmp_path / "xl.safetensors", whole(2048) | extra | marks))
    assert (info.family, info.defaults["width"], info.configs["unet"]) == ("sdxl", 1024, SDXL["unet"])
    assert info.configs["scheduler"]["prediction_type"] == "v_prediction"
    assert info.configs["scheduler"]["rescale_betas_zero_snr"] is True


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for tensors, sentence in (
        (whole(1024), "is a Stable Diffusion 2 checkpoint"),
        (whole(768) | {"model.diffusion_model.input_blocks.0.0.weight": (8, 9, 3, 3)}, "takes 9 channels in"),
        (
            {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (2, 2)},
            "is a transformer's checkpoint",
        ),
        ({"blocks.0.self_attn.q.weight": (2, 2)}, "is a transformer's checkpoint"),
        ({"transformer_blocks.0.attn.to_q.lora_A.weight": (2, 2)}, "is an adapter, not a base model"),
        ({"lora_unet_x.lora_down.weight": (2, 2)}, "is an adapter, not a base model"),
        ({"first": (2, 2)}, "holds no UNet in LDM's names"),
        ({"model.diffusion_model.out.0.weight": (2,)}, "holds no VAE"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            describe(checkpoint(tmp_path / "file.safetensors", tensors))
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(BadRequest, match=r"is no \.safetensors file"):
        describe(tmp_path / "model.ckpt")


def test_every_spelling_of_a_sampler_gives_its_key() -> None:
    for key in SAMPLERS:
        assert normalise_sampler(key) == normalise_sampler(sampler_label(key).upper()) == key
    for name, key in (
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("Euler a", "euler_a"),
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("FlowMatchEulerDiscreteScheduler", "flow_euler"),
    ):
        assert normalise_sampler(name) == key
    with pytest.raises(BadRequest, match=r"unknown sampler 'ueler': did you mean euler"):
        normalise_sampler("ueler")


def test_describing_a_model_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['diffusers'] = sys.modules['transformers'] = None;"
        "sys.modules['safetensors'] = None; import farm.models.families"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
