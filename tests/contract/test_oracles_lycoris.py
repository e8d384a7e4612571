"""LyCORIS as an independent judge: its modules' outputs against ours, from the files that it writes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from farm.lora.merge import merge
from farm.lora.tensors import load
from tests.unit.lora.make import layout_of, write

lycoris = pytest.importorskip("lycoris.modules")

BASES = {
    "linear": (lambda: nn.Linear(12, 18), (5, 12)),
    "square": (lambda: nn.Linear(12, 12, bias=False), (5, 12)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 5, 5)),
    "strided": (lambda: nn.Conv2d(8, 8, 3, stride=2), (2, 8, 7, 7)),
    "wide": (lambda: nn.Linear(48, 64), (3, 48)),
    "wideconv": (lambda: nn.Conv2d(24, 32, 3), (1, 24, 4, 4)),
    "pointwise": (lambda: nn.Conv2d(6, 8, 1), (2, 6, 3, 3)),
    "video": (lambda: nn.Conv3d(6, 8, (1, 3, 3)), (1, 6, 2, 4, 4)),
    "sequence": (lambda: nn.Conv1d(6, 8, 3), (1, 6, 5)),
    "layernorm": (lambda: nn.LayerNorm(12), (5, 12)),
    "groupnorm": (lambda: nn.GroupNorm(2, 8), (2, 8, 3, 3)),
}
WEIGHTED = ("linear", "square", "conv", "strided", "wide", "wideconv", "pointwise", "video", "sequence")
STRENGTHS = (1.0, 0.7, -0.5, 0.0)


def cases() -> list[Any]:
    """(algorithm, base, options of LyCORIS, whether strengths other than 1 mean the same there)"""
    found: list[tuple[str, str, dict[str, Any], bool]] = []
    for base in WEIGHTED:
        for name in ("LoConModule", "LohaModule", "LokrModule"):
            found.append((name, base, {"lora_dim": 3, "alpha": 1.5}, True))
            found.append((name, base, {"lora_dim": 3, "alpha": 3, "weight_decompose": True}, False))
            found.append(
                (
                    name,
                    base,
                    {"lora_dim": 3, "alpha": 1.5, "weight_decompose": True, "wd_on_out": False},
                    False,
                )
            )
            if (
                name != "LokrModule" or base == "wide"
            ):  # whole factors do not store the rank that they were scaled by
                found.append((name, base, {"lora_dim": 3, "alpha": 2, "rs_lora": True}, True))
            if base in ("conv", "strided", "wideconv", "video"):
                found.append((name, base, {"lora_dim": 2, "alpha": 1, "use_tucker": True}, True))
        found.append(
            ("LokrModule", base, {"lora_dim": 1, "alpha": 0.5, "decompose_both": True, "factor": 4}, True)
        )
        found.append(("LokrModule", base, {"lora_dim": 9, "alpha": 4, "full_matrix": True}, True))
        found.append(("FullModule", base, {}, True))
        found.append(("GLoRAModule", base, {"lora_dim": 2, "alpha": 1}, True))
        found.append(("IA3Module", base, {}, True))
        found.append(("IA3Module", base, {"train_on_input": True}, True))
        found.append(("DiagOFTModule", base, {"lora_dim": 4}, True))
        found.append(("DiagOFTModule", base, {"lora_dim": 2, "constraint": 0.02}, True))
        found.append(("DiagOFTModule", base, {"lora_dim": 4, "rescaled": True}, True))
        if base in (
            "linear",
            "square",
        ):  # their outputs are no multiple of a power of two that is large enough
            continue
        found.append(("ButterflyOFTModule", base, {"lora_dim": 4}, True))
        found.append(
            ("ButterflyOFTModule", base, {"lora_dim": 4, "constraint": 0.02, "rescaled": True}, True)
        )
    found += [("NormModule", "layernorm", {}, True), ("NormModule", "groupnorm", {}, True)]
    return [
        pytest.param(*case, id="-".join([case[0], case[1], *(f"{k}={v}" for k, v in case[2].items())]))
        for case in found
    ]


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


def trained(algorithm: str, base: nn.Module, options: dict[str, Any]) -> Any:
    """A module of LyCORIS beside `base`, with values as after some training."""
    module = getattr(lycoris, algorithm)("m", base, 1.0, **options).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.shape and not name.startswith("org"):
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return module


@pytest.mark.parametrize(("algorithm", "base", "options", "linear"), cases())
def test_outputs_agree(
    algorithm: str, base: str, options: dict[str, Any], linear: bool, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    original = BASES[base][0]().requires_grad_(False)  # type: ignore[no-untyped-call]
    shape = BASES[base][1]
    theirs = copy.deepcopy(original)
    module = trained(algorithm, theirs, options)
    module.apply_to()
    parts = {"unet": Holder(original)}
    of = layout_of(parts, "sd1")
    tensors = {f"lora_unet_inner.{name}": t.detach() for name, t in module.state_dict().items()}
    adapter = load(write(tmp_path / "a.safetensors", tensors), of)
    x = torch.randn(shape)
    with torch.no_grad():
        start, trained_output = original(x), theirs(x)
    for strength in STRENGTHS:
        ours = copy.deepcopy(parts)
        merge(ours, of, [(adapter, strength)])
        if not strength and options.get("rescaled"):
            continue  # at 0 ours is the model itself, theirs keeps the rescale
        module.multiplier = strength
        with torch.no_grad():
            # where trainers differ away from 1, ours is the line from the model to what was trained
            expected: Tensor = theirs(x) if linear else start + strength * (trained_output - start)
            torch.testing.assert_close(ours["unet"].inner(x), expected, rtol=2e-5, atol=2e-5)
        if strength:
            assert not torch.allclose(expected, start, atol=1e-3)


@pytest.mark.parametrize("strength", STRENGTHS[:3])
def test_glora_with_a_core(strength: float, tmp_path: Path) -> None:
    """LyCORIS reads a `bm`, computes with it and has no option that writes it."""
    from lycoris.modules.glora import _glora_weight

    torch.manual_seed(5)
    base = nn.Conv2d(6, 8, 3).requires_grad_(False)
    shapes = {
        "a1": (6, 2, 1, 1),
        "a2": (2, 6, 1, 1),
        "b1": (8, 2, 1, 1),
        "b2": (2, 6, 1, 1),
        "bm": (2, 2, 3, 3),
    }
    factors = {name: torch.randn(shape) for name, shape in shapes.items()}
    parts = {"unet": Holder(copy.deepcopy(base))}
    of = layout_of(parts, "sd1")
    tensors = {f"lora_unet_inner.{name}.weight": tensor for name, tensor in factors.items()}
    merge(parts, of, [(load(write(tmp_path / "a.safetensors", tensors), of), strength)])
    expected = base.weight + strength * _glora_weight(base.weight, *factors.values(), 1.0)
    torch.testing.assert_close(parts["unet"].inner.weight, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("base", ["linear", "conv"])
@pytest.mark.parametrize("block", [1, 3])
def test_dylora_in_its_live_form(base: str, block: int, tmp_path: Path) -> None:
    """The lists that are trained are what LyCORIS makes one file of; kohya's names are `lora_A.N`, `lora_B.N`."""
    torch.manual_seed(5)
    original = BASES[base][0]().requires_grad_(False)  # type: ignore[no-untyped-call]
    module = trained("DyLoraModule", original, {"lora_dim": 6, "alpha": 3, "block_size": block})
    merged = module.custom_state_dict()
    expected = 0.5 * (merged["lora_up.weight"] @ merged["lora_down.weight"].flatten(1))
    parts = {"unet": Holder(original)}
    of = layout_of(parts, "sd1")
    for up, down in (("up_list", "down_list"), ("lora_B", "lora_A")):
        tensors = {f"lora_unet_inner.{up}.{i}": t.detach() for i, t in enumerate(module.up_list)}
        tensors |= {f"lora_unet_inner.{down}.{i}": t.detach() for i, t in enumerate(module.down_list)}
        tensors["lora_unet_inner.alpha"] = torch.tensor(3.0)
        adapter = load(write(tmp_path / "a.safetensors", tensors), of)
        ours = copy.deepcopy(parts)
        merge(ours, of, [(adapter, 0.7)])
        wanted = original.weight + 0.7 * expected.view(original.weight.shape)
        torch.testing.assert_close(ours["unet"].inner.weight, wanted.detach())
        assert adapter.info.ranks == (6,)


def test_the_cases_above_cover_every_form() -> None:
    wanted = {"lora_mid", "dora_scale", "hada_t1", "lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_b", "lokr_t2", "diff", "diff_b",
              "w_norm", "b_norm", "a1", "on_input", "oft_blocks", "rescale"}  # fmt: skip
    written = {
        name.split(".")[0]
        for algorithm, base, options, _ in (case.values for case in cases())
        for name in trained(algorithm, BASES[base][0](), options).state_dict()  # type: ignore[no-untyped-call]
    }
    assert wanted <= written
