"""diffusers' converters as an independent judge of our naming tables: what each layer gets from a file of each scheme.

Two kinds judge: those for LoRA files, and those for whole checkpoints, which also know the families and layers that the
former lack. A converter only cuts and reorders outputs, so layers are compared by what they make of a random input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_conversion_utils as lora_files
from diffusers.loaders import single_file_utils as checkpoints
from torch import Tensor

from farm.lora.delta import Delta
from farm.lora.layout import Layout
from farm.lora.tensors import load
from tests.support.adapter_files import Checkpoint
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
    for key in state:
        module = key.removesuffix(".lora_A.weight")
        if module != key:
            down = state[key].flatten(1)
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


def dotted(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


def flat(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name.replace(".", "_")


def blocks(names: Shaped) -> Shaped:
    """Only what stands inside numbered blocks."""
    return [(name, shape) for name, shape in names if re.match(r"(\w*blocks|layers|\w+_refiner)\.", name)]


def own(family: str) -> Shaped:
    """diffusers' names of linear layers."""
    layers = families.layout(family).layers.values()
    return [(layer.path, layer.shape) for layer in layers if layer.kind == "linear"]


def xlabs() -> Shaped:
    for n in range(2):
        for i in (1, 2):
            yield f"double_blocks.{n}.processor.qkv_lora{i}", (48, 16)
            yield f"double_blocks.{n}.processor.proj_lora{i}", (16, 16)
        yield f"single_blocks.{n}.processor.qkv_lora", (48, 16)
        yield f"single_blocks.{n}.processor.proj_lora", (16, 80)


KOHYA, PEFT, XLABS = (
    ("lora_up.weight", "lora_down.weight"),
    ("lora_B.weight", "lora_A.weight"),
    ("up.weight", "down.weight"),
)
#: layers whose factor A diffusers cuts or turns as well, or whose halves or alpha it forgets
FINAL = ("norm_out.linear",)
CASES: list[Any] = [
    # scheme, family, size, names, spelling, suffixes, alpha, converter, what it gets wrong
    ("kohya", "flux1", FLUX, lambda: families.flux1(3072), flat("lora_unet_"), KOHYA, 2.0, "_convert_kohya_flux_lora_to_diffusers", ()),
    ("comfyui", "flux1", FLUX, lambda: families.flux1(3072), dotted("diffusion_model."), KOHYA, 2.0, "_convert_kohya_flux_lora_to_diffusers", ()),
    ("onetrainer", "flux1", {}, lambda: [x for x in own("flux1") if ".attn." in x[0] or "embed" in x[0]], flat("lora_transformer_"), KOHYA, 3.0, "_convert_kohya_flux_lora_to_diffusers", ()),
    ("xlabs", "flux1", {}, xlabs, dotted(""), XLABS, None, "_convert_xlabs_flux_lora_to_diffusers", ()),
    ("fal", "flux1", {**FLUX, "num_layers": 19, "num_single_layers": 38},
     lambda: [*blocks(families.flux1(3072, 19, 38)), ("final_layer.linear", (4, 3072))], dotted("base_model.model."), PEFT, None,
     "_convert_fal_kontext_lora_to_diffusers", ()),
    ("kohya", "flux2", {}, lambda: [x for x in families.flux2() if not any(w in x[0] for w in ("guidance", "modulation", "adaLN"))],
     flat("lora_unet_"), KOHYA, 3.0, "_convert_kohya_flux2_lora_to_diffusers", ()),
    ("fal", "flux2", {}, families.flux2, dotted("diffusion_model."), PEFT, None, "_convert_non_diffusers_flux2_lora_to_diffusers", FINAL),
    ("comfyui", "wan", {}, families.wan, dotted("diffusion_model."), PEFT, None, "_convert_non_diffusers_wan_lora_to_diffusers", ()),
    ("comfyui-alpha", "wan", {}, lambda: blocks(families.wan()), dotted("diffusion_model."), KOHYA, 3.0, "_convert_non_diffusers_wan_lora_to_diffusers", ()),
    ("musubi", "wan", {}, lambda: blocks(families.wan()), flat("lora_unet_"), KOHYA, 3.0, "_convert_musubi_wan_lora_to_diffusers", ()),
    ("kohya", "qwenimage", {}, families.qwenimage, flat("lora_unet_"), KOHYA, 3.0, "_convert_non_diffusers_qwen_lora_to_diffusers", ()),
    ("comfyui", "qwenimage", {}, families.qwenimage, dotted("diffusion_model."), PEFT, 3.0, "_convert_non_diffusers_qwen_lora_to_diffusers", ()),
    ("kohya", "zimage", {}, lambda: blocks(families.zimage()), flat("lora_unet_"), KOHYA, 3.0, "_convert_non_diffusers_z_image_lora_to_diffusers", ()),
    ("comfyui", "zimage", {}, lambda: own("zimage"), dotted("diffusion_model."), PEFT, 3.0, "_convert_non_diffusers_z_image_lora_to_diffusers", ()),
    ("comfyui", "hunyuanvideo", HUNYUAN, lambda: [x for x in families.hunyuanvideo(3072) if "self_attn_qkv" not in x[0]],
     dotted("diffusion_model."), PEFT, None, "_convert_hunyuan_video_lora_to_diffusers", FINAL),
    ("comfyui", "lumina2", LUMINA, lambda: blocks(x for x in families.lumina2(2304) if "_embedder" not in x[0] and "final" not in x[0]),
     dotted("diffusion_model."), PEFT, None, "_convert_non_diffusers_lumina2_lora_to_diffusers", ()),
    ("comfyui", "hidream", {}, families.hidream, dotted("diffusion_model."), PEFT, None, "_convert_non_diffusers_hidream_lora_to_diffusers", ()),
    ("comfyui", "ltxv", {}, lambda: own("ltxv"), dotted("diffusion_model."), PEFT, None, "_convert_non_diffusers_ltxv_lora_to_diffusers", ()),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{case[1]}-{case[0]}" for case in CASES])
def test_files_of_every_scheme(case: Any, tmp_path: Path) -> None:
    _, family, size, names, spell, suffixes, alpha, convert, wrong = case
    of = families.wide(family, **size)
    tensors = lora(names(), spell, *suffixes, alpha=alpha)
    # some converters scale their input in place
    expected = converted(getattr(lora_files, convert)({key: t.clone() for key, t in tensors.items()}))
    same(tmp_path, tensors, of, expected, wrong)


@pytest.mark.parametrize(
    ("parts", "name"), [(3, "double_blocks.1.img_attn.qkv"), (4, "single_blocks.1.linear1")]
)
def test_one_rank_for_each_part(parts: int, name: str, tmp_path: Path) -> None:
    """kohya's `split_qkv` trains a small adapter for each part and stores them as one, with zeros between."""
    h, rank = 3072, 2
    sizes = [h, h, h, 4 * h][:parts]
    tensors = lora([(name, (sum(sizes), h))], flat("lora_unet_"), *KOHYA, alpha=4.0, rank=parts * rank)
    up = tensors["lora_unet_" + name.replace(".", "_") + ".lora_up.weight"]
    keep = torch.block_diag(*[torch.ones(size, rank) for size in sizes])
    up.mul_(keep)
    expected = converted(lora_files._convert_kohya_flux_lora_to_diffusers(dict(tensors)))
    assert len(expected) == parts
    same(tmp_path, tensors, families.wide("flux1", **FLUX), expected)


def test_control_files(tmp_path: Path) -> None:
    """Black Forest Labs' control adapters: biases and norms beside the factors."""
    of = families.wide("flux1", **FLUX, num_layers=19, num_single_layers=38)
    names = list(families.flux1(3072, 19, 38))
    tensors = lora(names, dotted(""), *PEFT, rank=2)
    for seed, (name, (out, *_)) in enumerate(names):
        tensors[f"{name}.lora_B.bias"] = rand(out, seed=seed)
    norms = [f"double_blocks.{n}.{side}_attn.norm" for n in range(19) for side in ("img", "txt")]
    norms += [f"single_blocks.{n}.norm" for n in range(38)]
    for seed, name in enumerate(norms):
        tensors |= {f"{name}.{side}_norm.scale": rand(128, seed=seed) for side in ("query", "key")}
    theirs = lora_files._convert_bfl_flux_control_lora_to_diffusers(dict(tensors))
    adapter = load(write(tmp_path / "a.safetensors", tensors), of)
    assert (adapter.info.scheme, adapter.info.base_model, adapter.missed, adapter.warnings) == (
        "bfl-control",
        "flux1",
        (),
        (),
    )
    factors = converted(theirs)
    found = set()
    for key, value in theirs.items():
        module, _, word = key.partition(".lora_")
        path = module.removesuffix(".weight").removeprefix("transformer.")
        delta = adapter.deltas[f"transformer.{path}"]
        found.add(f"transformer.{path}")
        if not word:
            change = delta.change(torch.ones(128), 0.7)
            assert change is not None
            torch.testing.assert_close(change, 0.7 * (value - 1))
        elif word == "B.bias":
            assert delta.bias is not None
            torch.testing.assert_close(delta.bias, value, msg=lambda text, n=path: f"{n}: {text}")
        elif word == "A.weight" and path not in FINAL:
            torch.testing.assert_close(made(delta, (), 1.0), factors[path], rtol=1e-4, atol=1e-4)
    assert found == adapter.deltas.keys()


def test_kronecker_products_of_fused_layers(tmp_path: Path) -> None:
    """diffusers fuses the model's projections for them; the parts below one another are the same."""
    of = families.layout("flux2")
    tensors: dict[str, Tensor] = {}
    for seed, (name, (out, into)) in enumerate(families.flux2()):
        module = f"diffusion_model.{name}"
        tensors |= {
            f"{module}.lokr_w1": rand(2, 2, seed=seed),
            f"{module}.lokr_w2_a": rand(out // 2, 2, seed=seed),
        }
        tensors |= {
            f"{module}.lokr_w2_b": rand(2, into // 2, seed=seed),
            f"{module}.alpha": torch.tensor(3.0),
        }
    theirs = lora_files._convert_non_diffusers_flux2_lokr_to_diffusers(dict(tensors))
    adapter = load(write(tmp_path / "a.safetensors", tensors), of)
    parts = {"to_qkv": ("to_q", "to_k", "to_v"), "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}
    seen = 0
    for key, first in theirs.items():
        path = key.removesuffix(".lokr_w1").removeprefix("transformer.")
        if not key.endswith(".lokr_w1") or path == "norm_out.linear":
            continue
        module = key.removesuffix(".lokr_w1")
        expected = torch.kron(first, theirs[f"{module}.lokr_w2_a"] @ theirs[f"{module}.lokr_w2_b"])
        head, _, last = path.rpartition(".")
        names = (
            [f"transformer.{head}.{part}" for part in parts[last]]
            if last in parts
            else [f"transformer.{path}"]
        )
        for strength in STRENGTHS:
            changes = [
                adapter.deltas[name].change(torch.zeros(of.layers[name].shape), strength) for name in names
            ]
            torch.testing.assert_close(torch.cat([c for c in changes if c is not None]), strength * expected)
        seen += len(names)
    assert seen == len(adapter.deltas) - 1
