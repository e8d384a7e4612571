"""diffusers as an independent judge: files that it writes, and kohya files that it can read, fused against ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from farm.lora.layout import Layer
from farm.lora.merge import merge
from farm.lora.tensors import load
from tests.unit.lora.make import kohya, layout, lora_tensors, modules, write

pytestmark = pytest.mark.filterwarnings("ignore")
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def same(ours: nn.Module, theirs: nn.Module, start: nn.Module, at_least: int) -> None:
    expected = {n.replace(".base_layer", ""): t for n, t in theirs.state_dict().items() if "lora_" not in n}
    before: dict[str, Tensor] = start.state_dict()
    changed = 0
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        changed += not torch.equal(tensor, before[name])
    assert changed >= at_least


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
# peft scales inside the norm of a DoRA: only strength 1 means the same
@pytest.mark.parametrize(("dora", "strength"), [(False, 1.0), (False, 0.7), (False, -0.5), (True, 1.0)])
def test_files_that_diffusers_writes(family: str, dora: bool, strength: float, tmp_path: Path) -> None:
    start = modules(family)["unet"]
    theirs: Any = copy.deepcopy(start)
    torch.manual_seed(4)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=ATTENTION, use_dora=dora, alpha_pattern={"to_k": 2})
    theirs.add_adapter(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    pipeline = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(theirs),
        unet_lora_adapter_metadata=theirs.peft_config["default"].to_dict(),
    )
    of = layout(family)
    adapter = load(tmp_path / "pytorch_lora_weights.safetensors", of)
    assert (adapter.info.scheme, adapter.info.type) == ("diffusers", "dora" if dora else "lora")
    ours = copy.deepcopy(start)
    merge({"unet": ours}, of, [(adapter, strength)])
    theirs.fuse_lora(lora_scale=strength)
    same(ours, theirs, start, 100)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_kohya_files_that_diffusers_reads(family: str, tmp_path: Path) -> None:
    """SDXL files have LDM names there; diffusers has a map of its own for them."""
    of = layout(family)
    start = modules(family)["unet"]
    layers = [x for x in of.layers.values() if x.component == "unet" and _read_by_diffusers(x, family)]
    spell = _sgm if family == "sdxl" else kohya
    tensors = {
        k: t for i, x in enumerate(layers) for k, t in lora_tensors(x, spell(x), seed=i, alpha=2.0).items()
    }
    adapter = load(write(tmp_path / "a.safetensors", tensors), of)
    ours = copy.deepcopy(start)
    assert merge({"unet": ours}, of, [(adapter, 0.8)]) == len(layers)

    theirs: Any = copy.deepcopy(start)
    if family == "sdxl":
        found = StableDiffusionXLPipeline.lora_state_dict(dict(tensors), unet_config=theirs.config)
    else:
        found = StableDiffusionPipeline.lora_state_dict(dict(tensors))
    theirs.load_lora_adapter(found[0], prefix="unet", network_alphas=found[1])
    theirs.fuse_lora(lora_scale=0.8)
    same(ours, theirs, start, len(layers))


def _read_by_diffusers(layer: Layer, family: str) -> bool:
    if layer.kind == "linear":
        return any(part in layer.path for part in ("attn", "ff.net", "proj_in", "proj_out"))
    return layer.kind == "conv" and ("resnets" in layer.path or family == "sd1") and layer.path.count(".") > 1


def _sgm(layer: Layer) -> str:
    """kohya's name for a layer of an SDXL UNet with three levels and two resnets each, written out by hand."""
    side, *rest = layer.path.split(".")
    if side == "mid_block":
        start = (
            "middle_block." + {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}[".".join(rest[:2])]
        )
        kind, inner = rest[0], rest[2:]
    else:
        block, kind, j, *inner = rest
        at = 3 * int(block) + int(j) + (1 if side == "down_blocks" else 0)
        start = (
            f"{'input' if side == 'down_blocks' else 'output'}_blocks.{at}.{0 if kind == 'resnets' else 1}"
        )
    if kind == "resnets":
        parts = {
            "conv1": "in_layers.2",
            "time_emb_proj": "emb_layers.1",
            "conv2": "out_layers.3",
            "conv_shortcut": "skip_connection",
        }
        inner = [parts[inner[0]]]
    return "lora_unet_" + ".".join([start, *inner]).replace(".", "_")
