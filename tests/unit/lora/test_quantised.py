"""Adapters beside quantised weights: what dequantised weights plus the change would give. Patching is refused."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farm.errors import BadRequest
from farm.lora.algorithms.lora import LowRank
from farm.lora.branch import Sample, SideBranch
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import Patcher
from farm.lora.quantised import is_quantised
from tests.unit.lora.make import rand
from tests.unit.lora.small import plan_of

#: where script/bootstrap puts what quantises, apart from what every process imports
sys.path.append(str(Path(__file__).parents[3] / ".venv" / "quantised"))

INTO, OUT = 64, 128
LAYERS = [
    Layer(component="unet", path=str(n), kind="linear", shape=shape, bias=True, block="in")
    for n, shape in enumerate([(OUT, INTO), (INTO, OUT)])
]
OF = Layout(
    family="sd1", denoisers=("unet",), text_encoders=(), blocks=(), layers={x.name: x for x in LAYERS}
)
ADAPTERS: Any = {
    name: SimpleNamespace(
        deltas={x.name: LowRank(rand(x.shape[0], 4, seed=n), rand(4, x.shape[1], seed=n)) for x in LAYERS}
    )
    for n, name in enumerate("ab")
}


class ByteLinear(nn.Linear):
    """int8 weights with one scale, as simple as can be."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, dtype=plain.weight.dtype)
        self.scale = float(plain.weight.abs().max()) / 127
        rounded = (plain.weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def plain_model(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(INTO, OUT), nn.Linear(OUT, INTO)).to(dtype).requires_grad_(False)


def bytes_of_ours(dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(*[ByteLinear(layer) for layer in plain_model(dtype)])  # type: ignore[arg-type]


def torchao(config: Callable[[Any], Any]) -> Callable[[torch.dtype], nn.Module]:
    def make(dtype: torch.dtype) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantization = pytest.importorskip("torchao.quantization")
            model = plain_model(dtype)
            quantization.quantize_(model, config(quantization))
        return model

    return make


def bitsandbytes(name: str, **options: Any) -> Callable[[torch.dtype], nn.Module]:
    def make(dtype: torch.dtype) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bnb = pytest.importorskip("bitsandbytes")
        layers = []
        for plain in plain_model(dtype):
            told = {"compute_dtype": dtype} if name == "Linear4bit" else {"has_fp16_weights": False}
            layer = getattr(bnb.nn, name)(plain.in_features, plain.out_features, **told, **options)
            layer.load_state_dict(plain.state_dict())
            layers.append(layer.to("cpu"))
        return nn.Sequential(*layers).requires_grad_(False)

    return make


def four_bits(q: Any) -> Any:
    from torchao.quantization.granularity import PerGroup

    return q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))


MAKERS: dict[str, Callable[[torch.dtype], nn.Module]] = {
    "plain int8": bytes_of_ours,
    "torchao int8": torchao(lambda q: q.Int8WeightOnlyConfig()),
    "torchao int4": torchao(four_bits),
    "bitsandbytes nf4": bitsandbytes("Linear4bit", quant_type="nf4"),
    "bitsandbytes fp4": bitsandbytes("Linear4bit", quant_type="fp4"),
    "bitsandbytes int8": bitsandbytes("Linear8bitLt"),
}


def dequantised(model: nn.Module, dtype: torch.dtype) -> nn.Sequential:
    """The weights that the quantised model stands for, had by sending unit vectors through its layers."""
    found = plain_model(dtype)
    for layer, quantised in zip(found, model, strict=True):  # type: ignore[arg-type]
        units = torch.eye(layer.in_features, dtype=dtype)  # type: ignore[arg-type]
        layer.weight.data = (quantised(units) - quantised(torch.zeros_like(units))).T.contiguous()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_adapters_act_beside_quantised_weights(name: str, dtype: torch.dtype) -> None:
    with torch.no_grad():
        model = MAKERS[name](dtype)
        assert all(map(is_quantised, model))  # type: ignore[arg-type]
        other = dequantised(model, dtype)
        x = rand(3, 5, INTO, scale=1.0, dtype=dtype)
        unchanged = model(x)
        branch, patcher = SideBranch({"unet": model}, OF), Patcher({"unet": other}, OF)
        plans = [plan_of(OF, ("a", 0.7)), plan_of(OF, ("a", -1.0), ("b", 0.5)), plan_of(OF)]
        branch.assign([Sample(plan=plan, adapters=ADAPTERS, step=1) for plan in plans])
        found = model(x)
        # bitsandbytes' int8 also rounds what it multiplies with
        rounding = 0.03 if name == "bitsandbytes int8" or dtype == torch.bfloat16 else 1e-5
        for n, plan in enumerate(plans):
            patcher.apply(plan, ADAPTERS, 1)
            wanted = other(x)[n]
            assert (found[n] - wanted).abs().max() <= rounding * wanted.abs().max()
        assert (found - unchanged)[:2].abs().max() > 0.2 * unchanged.abs().max()
        branch.restore()
        assert torch.equal(model(x), unchanged)


@pytest.mark.parametrize("name", MAKERS)
def test_patching_quantised_weights_is_refused(name: str) -> None:
    model = MAKERS[name](torch.float32)
    with pytest.raises(BadRequest, match=r"unet\.0 is quantised \(\w+\), its weight cannot be written: use lora_mode branch"):  # fmt: skip
        Patcher({"unet": model}, OF).apply(plan_of(OF, ("a", 1.0)), ADAPTERS, 1)
