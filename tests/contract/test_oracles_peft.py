"""peft as an independent judge: weights that it merges against ours, from the folders that it saves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.lora.merge import merge
from farm.lora.tensors import load
from tests.unit.lora.make import layout_of

peft = pytest.importorskip("peft")

# peft takes one-dimensional biases for shards of a tensor
pytestmark = pytest.mark.filterwarnings("ignore:Adapter 'default'")

NAMES = ["blocks.0.attn.to_q", "blocks.0.attn.to_k", "blocks.1.square", "conv", "pointwise"]
LINEAR = NAMES[:3]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        attention = nn.ModuleDict({"to_q": nn.Linear(10, 14), "to_k": nn.Linear(10, 14, bias=False)})
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"attn": attention}), nn.ModuleDict({"square": nn.Linear(8, 8)})]
        )
        self.conv = nn.Conv2d(4, 6, 3)
        self.pointwise = nn.Conv2d(6, 6, 1)


@pytest.mark.parametrize(
    ("config", "type_"),
    [
        (lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=LINEAR), "lora"),
        (lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=NAMES), "locon"),
        (lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=NAMES, use_rslora=True), "locon"),
        (lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=["to_q", "square"], lora_bias=True), "lora"),
        (lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=NAMES, use_dora=True), "dora"),
        (
            lambda: peft.LoraConfig(
                r=3,
                lora_alpha=5,
                target_modules=NAMES,
                rank_pattern={"to_q": 2, "blocks.1.square": 4},
                alpha_pattern={"to_k": 7, "square": 2},
            ),
            "locon",
        ),
        (lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=NAMES), "loha"),
        (lambda: peft.LoHaConfig(r=2, alpha=5, target_modules=NAMES, use_effective_conv2d=True), "loha"),
        (lambda: peft.LoKrConfig(r=3, alpha=5, target_modules=NAMES), "lokr"),
        (lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=NAMES, decompose_both=True), "lokr"),
        (lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=NAMES, use_effective_conv2d=True), "lokr"),
        (lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=NAMES, init_lora_weights="gaussian"), "locon"),
    ],
)  # fmt: skip
def test_merged_weights_agree(config: Any, type_: str, tmp_path: Path) -> None:
    base = Model().requires_grad_(False)
    wrapped = peft.get_peft_model(copy.deepcopy(base), config())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    wrapped.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    info = inspect(read_header(file), file.name)
    assert (info.type, info.scheme) == (type_, "peft")

    parts = {"unet": copy.deepcopy(base)}
    of = layout_of(parts, "sd1")
    adapter = load(file, of)
    assert not adapter.missed
    merge(parts, of, [(adapter, 1.0)])
    merged: nn.Module = wrapped.merge_and_unload()
    expected: dict[str, Tensor] = merged.state_dict()
    start = base.state_dict()
    changed = 0
    for name, tensor in parts["unet"].state_dict().items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        changed += not torch.equal(tensor, start[name])
    assert changed >= 2
