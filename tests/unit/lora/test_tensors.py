"""Loading: what is read from a file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.tensors import load
from tests.unit.lora.make import kohya, layout, lora_tensors, rand, write

SD1 = layout("sd1")
Q = SD1.layers["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"]
CONV = SD1.layers["unet.down_blocks.0.resnets.0.conv1"]
K = kohya(Q)
PEFT = f"unet.{Q.path}"


def change(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, layer: str = Q.name
) -> Tensor:
    delta = load(write(path / "a.safetensors", tensors, metadata), SD1).deltas[layer]
    found = delta.change(torch.zeros(SD1.layers[layer].shape), 1.0)
    assert found is not None
    return found


def pair(up: str = "lora_up", down: str = "lora_down", module: str = K) -> dict[str, Tensor]:
    return {f"{module}.{up}.weight": rand(16, 2), f"{module}.{down}.weight": rand(2, 16, seed=1)}


PRODUCT = rand(16, 2) @ rand(2, 16, seed=1)


@pytest.mark.parametrize(
    ("extra", "metadata", "scale"),
    [
        ({}, {}, 1.0),
        ({"alpha": torch.tensor(1.0)}, {}, 0.5),
        ({"alpha": torch.tensor([1.0], dtype=torch.bfloat16)}, {}, 0.5),
        ({"alpha": torch.tensor(4)}, {}, 2.0),
        ({"alpha": torch.tensor(0.0)}, {}, 0.0),
        ({"alpha": torch.tensor(0.0)}, {"ss_network_module": "lycoris.kohya"}, 1.0),
        ({"alpha": torch.tensor(torch.inf)}, {}, 1.0),
        ({"alpha": torch.tensor(1.0), "scale": torch.tensor(3.0)}, {}, 3.0),
    ],
)
def test_alpha(extra: dict[str, Tensor], metadata: dict[str, str], scale: float, tmp_path: Path) -> None:
    tensors = {**pair(), **{f"{K}.{name}": tensor for name, tensor in extra.items()}}
    torch.testing.assert_close(change(tmp_path, tensors, metadata), PRODUCT * scale)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 2, "lora_alpha": 4}, 2.0),
        ({"r": 2, "lora_alpha": 4, "use_rslora": True}, 4 / 2**0.5),
        ({"r": 2, "lora_alpha": 4, "alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"r": 2, "lora_alpha": 4, "alpha_pattern": {"to_k": 1}}, 2.0),
        ({"r": True, "lora_alpha": "x"}, 1.0),
    ],
)
def test_alpha_from_the_metadata_of_peft(config: dict[str, object], scale: float, tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
    tensors = pair("lora_B", "lora_A", PEFT)
    torch.testing.assert_close(change(tmp_path, tensors, metadata), PRODUCT * scale)


def test_alpha_from_the_configuration_beside_a_peft_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "adapter_model.safetensors", pair("lora_B", "lora_A", f"base_model.model.{Q.path}")
    )
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 6}')
    found = load(path, SD1).deltas[Q.name].change(torch.zeros(16, 16), 1.0)
    torch.testing.assert_close(found, PRODUCT * 3)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(BadRequest, match="is no JSON"):
        load(path, SD1)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_factors_are_multiplied_in_float32_whatever_the_file_has(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in pair().items()}
    up, down = (tensor.float() for tensor in tensors.values())
    found = change(tmp_path, tensors)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, up @ down)


def test_tensors_that_are_not_aligned_are_read(tmp_path: Path) -> None:
    tensors = {**pair(), f"{K}.alpha": torch.tensor(2, dtype=torch.uint8)}
    path = write(tmp_path / "a.safetensors", tensors)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes((length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :])
    found = load(path, SD1).deltas[Q.name].change(torch.zeros(16, 16), 1.0)
    torch.testing.assert_close(found, PRODUCT)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_values_that_are_not_finite_are_refused_by_name(bad: float, which: int, tmp_path: Path) -> None:
    tensors = pair()
    key = list(tensors)[which]
    tensors[key][1, 1] = bad
    with pytest.raises(BadRequest, match="holds values that are not finite") as caught:
        load(write(tmp_path / "a.safetensors", tensors), SD1)
    assert key.split(".")[0] in caught.value.message
    assert key.split(".")[1] in caught.value.message


def test_an_absurd_alpha_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="its alpha is 1"):
        load(write(tmp_path / "a.safetensors", {**pair(), f"{K}.alpha": torch.tensor(1e30)}), SD1)


def test_lokr_of_two_whole_factors_ignores_alpha(tmp_path: Path) -> None:
    tensors = {
        f"{K}.lokr_w1": rand(4, 4),
        f"{K}.lokr_w2": rand(4, 4, seed=1),
        f"{K}.alpha": torch.tensor(1e10),
    }
    torch.testing.assert_close(change(tmp_path, tensors), torch.kron(rand(4, 4), rand(4, 4, seed=1)))


def test_a_file_for_another_model_is_refused_at_loading_too(tmp_path: Path) -> None:
    other = next(x for x in layout("sdxl").layers.values() if x.path.endswith("attn2.to_k"))
    path = write(tmp_path / "oil.safetensors", lora_tensors(other, f"lora_unet_{Q.path.replace('.', '_').replace('attn1_to_q', 'attn2_to_k')}"))  # fmt: skip
    with pytest.raises(
        BadRequest, match=r"oil was made for another model .*reads 80 values, this model has 32"
    ):
        load(path, SD1)


def test_an_adapter_says_what_it_is(tmp_path: Path) -> None:
    tensors = {**pair(), **lora_tensors(CONV, kohya(CONV)), "lora_unet_extra.lora_up.weight": rand(4, 2), "lora_unet_extra.lora_down.weight": rand(2, 4)}  # fmt: skip
    adapter = load(write(tmp_path / "ink.safetensors", tensors), SD1, sha256="ab")
    assert (adapter.sha256, adapter.info.type, adapter.missed) == ("ab", "locon", ("lora_unet_extra",))
    assert "ink misses 1 of its 3 layers" in adapter.warnings[-1]
    assert adapter.bytes == 4 * (16 * 2 * 2 + 16 * 3 + 3 * 16 * 9)


def test_files_are_not_kept_open(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", pair())
    adapter = load(path, SD1)
    path.write_bytes(bytes(path.stat().st_size))
    torch.testing.assert_close(adapter.deltas[Q.name].change(torch.zeros(16, 16), 1.0), PRODUCT)
