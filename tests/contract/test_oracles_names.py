"""diffusers' converters as an independent judge of our naming tables: what each layer gets from a file of each scheme.

Two kinds judge: those for LoRA files, and those for whole checkpoints, which also know the families and layers that the
former lack. A converter only cuts and reorders outputs, so layers are compared by what they make of a random input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as checkpoints
from torch import Tensor

from farm.lora.delta import Delta
from farm.lora.layout import Layout
from farm.lora.tensors import load
from tests.unit.lora import families
from tests.unit.lora.make import rand, write

pytestmark = pytest.mark.filterwarnings("ignore")
Shaped = Iterable[tuple[str, tuple[int, ...]]]
STRENGTHS = (1.0, 0.7, -0.5)
#: the converters have the widths of the published models in them
FLUX = {"num_attention_heads": 24, "attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)}
HUNYUAN = {"num_attention_heads": 24, "attention_head_dim": 128, "rope_axes_dim": (16, 56, 56)}
LUMINA = {
    "hidden_size": 2304,
    "num_attention_heads": 24,
    "num_kv_heads": 8,
    "axes_dim_rope": (32, 32, 32),
    "multiple_of": 256,
}


def lora(
    names: Shaped,
    spell: Callable[[str], str],
    up: str,
    down: str,
    *,
    alpha: float | None = None,
    rank: int = 2,
) -> dict[str, Tensor]:
    """A random LoRA file with these modules."""
    found: dict[str, Tensor] = {}
    for seed, (name, shape) in enumerate(names):
        module = spell(name)
        out, *rest = shape
        found[f"{module}.{up}"] = rand(out, rank, *[1 for _ in rest[1:]], seed=seed)
        found[f"{module}.{down}"] = rand(rank, *rest, seed=seed + 1)
        if alpha is not None:
            found[f"{module}.alpha"] = torch.tensor(alpha)
    return found


def given(width: int) -> Tensor:
    """What a layer of so many inputs is fed."""
    return rand(width, 1, seed=5)


def made(delta: Delta, shape: tuple[int, ...], strength: float) -> Tensor:
    """What the change of a layer makes of its input."""
    factors = delta.factors()
    if factors is not None:
        return strength * (factors[0] @ (factors[1] @ given(factors[1].shape[1])))
    change = delta.change(torch.zeros(shape), strength)
    assert change is not None
    return change.flatten(1) @ given(change.flatten(1).shape[1])


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same from diffusers' state dict of a LoRA."""
    found = {}
    for key, down in state.items():
        module = key.removesuffix(".lora_A.weight")
        if module != key:
            down = down.flatten(1)
            up = state[f"{module}.lora_B.weight"].flatten(1)
            found[module.removeprefix("transformer.")] = up @ (down @ given(down.shape[1]))
    return found


def same(
    path: Path,
    tensors: dict[str, Tensor],
    of: Layout,
    expected: Mapping[str, Tensor],
    without: tuple[str, ...] = (),
) -> None:
    """The file's layers are the expected ones and do what is expected; those of `without`, diffusers gets wrong."""
    adapter = load(write(path / "a.safetensors", tensors), of)
    assert not adapter.missed
    ours = {of.layers[name].path: (delta, of.layers[name].shape) for name, delta in adapter.deltas.items()}
    assert ours.keys() == expected.keys()
    for name in expected:
        if not name.endswith(without or ("\\0",)):
            for strength in STRENGTHS:
                got = made(*ours[name], strength)
                torch.testing.assert_close(
                    got,
                    strength * expected[name],
                    rtol=1e-4,
                    atol=1e-4,
                    msg=lambda text, n=name: f"{n}: {text}",
                )


class Checkpoint(dict[str, Tensor]):
    """Changes of weights in place of the weights; biases and tables that converters insist on are zeros."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, torch.zeros(21504 if "linear1" in key else 12))

    def keys(self) -> Any:
        return list(super().keys())


@pytest.mark.parametrize("scheme", ["comfyui", "kohya"])
@pytest.mark.parametrize(
    ("family", "convert", "names", "size"),
    [
        ("flux1", checkpoints.convert_flux_transformer_checkpoint_to_diffusers, lambda: families.flux1(3072), FLUX),
        ("chroma", checkpoints.convert_chroma_transformer_checkpoint_to_diffusers, lambda: families.chroma(3072), FLUX),
        ("flux2", checkpoints.convert_flux2_transformer_checkpoint_to_diffusers, families.flux2, {}),
        ("sd3", checkpoints.convert_sd3_transformer_checkpoint_to_diffusers, families.sd3, {}),
        ("wan", checkpoints.convert_wan_transformer_to_diffusers, families.wan, {}),
        ("zimage", checkpoints.convert_z_image_transformer_checkpoint_to_diffusers, families.zimage, {}),
        ("hunyuanvideo", checkpoints.convert_hunyuan_video_transformer_to_diffusers, lambda: families.hunyuanvideo(3072), HUNYUAN),
        ("ltxv", checkpoints.convert_ltx_transformer_checkpoint_to_diffusers, families.ltxv, {}),
        ("lumina2", checkpoints.convert_lumina2_to_diffusers, lambda: families.lumina2(2304), LUMINA),
        ("hidream", checkpoints.convert_hidream_transformer_to_diffusers, families.hidream, {}),
        ("auraflow", checkpoints.convert_auraflow_transformer_checkpoint_to_diffusers, families.auraflow, {}),
        ("sana", checkpoints.convert_sana_transformer_to_diffusers, families.sana, {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_names_of_the_authors(
    family: str, convert: Any, names: Callable[[], Shaped], size: dict[str, Any], scheme: str, tmp_path: Path
) -> None:
    of = families.wide(family, **size)
    spell = {
        "comfyui": "diffusion_model.{}".format,
        "kohya": lambda name: "lora_unet_" + name.replace(".", "_"),
    }[scheme]
    tensors = lora(names(), spell, "lora_up.weight", "lora_down.weight", alpha=3.0)
    weights = Checkpoint()
    for name, _ in names():
        down = tensors[f"{spell(name)}.lora_down.weight"].flatten(1)
        up = tensors[f"{spell(name)}.lora_up.weight"].flatten(1)
        weights[f"{name}.weight"] = 1.5 * up @ (down @ given(down.shape[1]))
    expected = {
        key.removesuffix(".weight"): value
        for key, value in convert(weights).items()
        if key.endswith(".weight") and value is not None and value.dim() == 2
    }
    same(tmp_path, tensors, of, expected)
