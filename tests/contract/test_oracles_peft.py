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

LORA = {"r": 3, "lora_alpha": 5}
STRENGTHS = (1.0, 0.7, -0.5)
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
        self.video = nn.Conv3d(4, 6, (1, 3, 3))
        self.words = nn.Embedding(9, 5)


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
        (lambda: peft.LoraConfig(**LORA, target_modules=["video"]), "locon"),
        (lambda: peft.LoraConfig(**LORA, target_modules=["video"], use_dora=True), "dora"),
        (lambda: peft.LoraConfig(**LORA, target_modules=["words"]), "lora"),
        (lambda: peft.AdaLoraConfig(init_r=3, lora_alpha=5, total_step=9, tinit=1, tfinal=1, target_modules=LINEAR), "lora"),
        (lambda: peft.IA3Config(target_modules=["to_q", "conv", "pointwise", "square"], feedforward_modules=["to_q", "pointwise"]), "ia3"),
        (lambda: peft.IA3Config(target_modules=["video", "square"], feedforward_modules=[]), "ia3"),
        (lambda: peft.OFTConfig(oft_block_size=2, r=0, target_modules=NAMES), "oft"),
        (lambda: peft.OFTConfig(r=2, oft_block_size=0, target_modules=NAMES, use_cayley_neumann=False), "oft"),
        (lambda: peft.OFTConfig(oft_block_size=2, r=0, target_modules=NAMES, block_share=True), "oft"),
        (lambda: peft.OFTConfig(oft_block_size=2, r=0, target_modules=NAMES, coft=True, eps=0.2), "oft"),
        *(
            (lambda n=n: peft.OFTConfig(r=2, oft_block_size=0, target_modules=NAMES, num_cayley_neumann_terms=n), "oft")
            for n in (2, 3, 4, 7)
        ),
        (lambda: peft.BOFTConfig(boft_block_size=2, target_modules=NAMES), "boft"),
        (lambda: peft.BOFTConfig(boft_block_num=2, boft_block_size=0, target_modules=NAMES), "boft"),
    ],
)  # fmt: skip
def test_merged_weights_agree(
    config: Any, type_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: False)
    agree(Model().requires_grad_(False), config(), type_, tmp_path)


class Butterfly(nn.Module):
    """Widths that several stages of a butterfly divide."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.to_q = nn.Linear(16, 6)
        self.conv = nn.Conv2d(16, 6, 3)


class _BlockDiagonal:
    """What peft's CUDA kernel does: (stages, blocks, b, b) to a matrix for each stage."""

    @staticmethod
    def apply(blocks: Tensor) -> Tensor:
        return torch.stack([torch.block_diag(*stage) for stage in blocks])


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("size", [2, 4])
def test_boft_of_several_stages(
    stages: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without the kernel peft makes every file one of a single stage
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: True)
    monkeypatch.setattr("peft.tuners.boft.layer.FastBlockDiag", _BlockDiagonal)
    config = peft.BOFTConfig(
        boft_block_size=size, boft_n_butterfly_factor=stages, target_modules=["to_q", "conv"]
    )
    agree(Butterfly().requires_grad_(False), config, "boft", tmp_path)


def agree(base: nn.Module, config: Any, type_: str, tmp_path: Path) -> None:
    """Weights that peft merges are ours at strength 1, and ours are a line through them at other strengths."""
    wrapped = peft.get_peft_model(copy.deepcopy(base), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    wrapped.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    info = inspect(read_header(file), file.name)
    assert (info.type, info.scheme) == (type_, "peft")

    of = layout_of({"unet": base}, "sd1")
    adapter = load(file, of)
    assert not adapter.missed
    assert not adapter.warnings
    merged: nn.Module = wrapped.merge_and_unload()
    expected: dict[str, Tensor] = merged.state_dict()
    start = base.state_dict()
    for strength in STRENGTHS:
        parts = {"unet": copy.deepcopy(base)}
        merge(parts, of, [(adapter, strength)])
        changed = 0
        for name, tensor in parts["unet"].state_dict().items():
            wanted = start[name] + strength * (expected[name] - start[name])
            torch.testing.assert_close(
                tensor, wanted, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )
            changed += not torch.equal(tensor, start[name])
        assert changed >= 1
