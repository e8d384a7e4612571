"""Forms that files store algorithms in: every one gives the change that its formula says, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from farm.errors import BadRequest
from farm.lora.merge import merge
from farm.lora.tensors import Adapter, load
from tests.unit.lora.make import layout_of, rand, write


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(6, 10)
        self.square = nn.Linear(6, 6, bias=False)
        self.pointwise = nn.Conv2d(6, 10, 1)
        self.conv = nn.Conv2d(6, 10, 3)
        self.grouped = nn.Conv2d(8, 10, 3, groups=2)
        self.video = nn.Conv3d(6, 10, (2, 3, 3))
        self.norm = nn.LayerNorm(6)


BASE = Small().requires_grad_(False)
OF = layout_of({"unet": BASE}, "sd1")


def adapter(path: Path, module: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Adapter:  # fmt: skip
    return load(write(path / "a.safetensors", {f"{module}.{n}": t for n, t in tensors.items()}, metadata), OF)


def weight(layer: str) -> Tensor:
    found = BASE.get_submodule(layer).weight
    assert isinstance(found, Tensor)
    return found


def change(
    path: Path,
    layer: str,
    tensors: dict[str, Tensor],
    *,
    strength: float = 1.0,
    max_rank: int | None = None,
    prefix: str = "lora_unet_",
) -> Tensor:
    delta = adapter(path, prefix + layer, tensors).deltas[f"unet.{layer}"]
    found = delta.change(weight(layer), strength, max_rank)
    assert found is not None
    return found


#: algorithm -> factors of a layer (out 10, in 6), whose kernel is 1x1 or absent
FACTORS: dict[str, dict[str, Tensor]] = {
    "lora": {"lora_up.weight": rand(10, 2), "lora_down.weight": rand(2, 6)},
    "tucker lora": {
        "lora_up.weight": rand(10, 2),
        "lora_mid.weight": rand(2, 2, 1, 1),
        "lora_down.weight": rand(2, 6),
    },
    "dora": {"lora_up.weight": rand(10, 2), "lora_down.weight": rand(2, 6), "dora_scale": rand(10, 1) + 1},
    "loha": {
        "hada_w1_a": rand(10, 2), "hada_w1_b": rand(2, 6), "hada_w2_a": rand(10, 2, seed=1), "hada_w2_b": rand(2, 6, seed=1),
    },
    "lokr": {"lokr_w1": rand(2, 3), "lokr_w2_a": rand(5, 2), "lokr_w2_b": rand(2, 2)},
    "whole lokr": {"lokr_w1": rand(2, 3), "lokr_w2": rand(5, 2)},
    "product lokr": {"lokr_w1_a": rand(2, 2), "lokr_w1_b": rand(2, 3), "lokr_w2": rand(5, 2)},
    "glora": {
        "a1.weight": rand(6, 2), "a2.weight": rand(2, 6), "b1.weight": rand(10, 2), "b2.weight": rand(2, 6),
    },
    "full": {"diff": rand(10, 6)},
    "set": {"set_weight": rand(10, 6)},
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_matrices_and_pointwise_kernels_are_stored_as_either(name: str, tmp_path: Path) -> None:
    """Linear layers and 1x1 convolutions with factors in two and in four dimensions give the same change."""
    flat = FACTORS[name]
    four = {n: t.reshape(*t.shape, 1, 1) if t.dim() == 2 else t for n, t in flat.items()}
    for layer in ("linear", "pointwise"):
        first, second = change(tmp_path, layer, flat), change(tmp_path, layer, four)
        assert first.shape == weight(layer).shape
        torch.testing.assert_close(first, second)


#: which axis of a factor is its rank
_RANK_AXES = {
    "lora_up.weight": 1, "lora_down.weight": 0, "hada_w1_a": 1, "hada_w1_b": 0, "hada_w2_a": 1, "hada_w2_b": 0,
    "lokr_w2_a": 1, "lokr_w2_b": 0, "lokr_w1_a": 1, "lokr_w1_b": 0,
    "a1.weight": 1, "a2.weight": 0, "b1.weight": 1, "b2.weight": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", ["lora", "dora", "loha", "lokr", "product lokr", "glora"])
def test_the_first_ranks_are_those_of_a_shorter_file_at_the_scale_of_the_whole(
    name: str, tmp_path: Path
) -> None:
    whole = {**FACTORS[name], "alpha": torch.tensor(3.0)}
    short = {n: t.narrow(_RANK_AXES[n], 0, 1) if n in _RANK_AXES else t for n, t in whole.items()}
    short["alpha"] = torch.tensor(1.5)  # alpha / rank is 1.5 in both
    found = change(tmp_path, "linear", whole, max_rank=1)
    torch.testing.assert_close(found, change(tmp_path, "linear", short))
    assert not torch.allclose(found, change(tmp_path, "linear", whole))
    torch.testing.assert_close(
        change(tmp_path, "linear", whole, max_rank=9), change(tmp_path, "linear", whole)
    )


@pytest.mark.parametrize("layer", ["grouped", "video"])
def test_kernels_of_groups_and_of_videos(layer: str, tmp_path: Path) -> None:
    shape = weight(layer).shape
    up, down = rand(10, 2), rand(2, *shape[1:])
    found = change(tmp_path, layer, {"lora_up.weight": up, "lora_down.weight": down}, strength=0.7)
    torch.testing.assert_close(found, 0.7 * torch.einsum("or,r...->o...", up, down))
    core, narrow = rand(2, 2, *shape[2:]), rand(2, shape[1], *[1] * (len(shape) - 2))
    found = change(
        tmp_path,
        layer,
        {"lora_up.weight": up, "lora_mid.weight": core, "lora_down.weight": narrow},
        strength=-0.5,
    )
    torch.testing.assert_close(found, -0.5 * torch.einsum("om,mn...,ni->oi...", up, core, narrow.flatten(1)))
    torch.testing.assert_close(change(tmp_path, layer, {"diff": rand(*shape)}), rand(*shape))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("spelling", ["scale_weight", "weight_scale"])
def test_eight_bit_factors_with_the_scale_that_they_were_divided_by(
    dtype: torch.dtype, spelling: str, tmp_path: Path
) -> None:
    up, down = rand(10, 2).to(dtype), rand(2, 6).to(dtype)
    rows = torch.tensor([2.0, 3.0])
    tensors = {
        "lora_up.weight": up, f"lora_up.{spelling}": torch.tensor(0.25),
        "lora_down.weight": down, f"lora_down.{spelling}": rows,
    }  # fmt: skip
    expected = (up.float() * 0.25) @ (down.float() * rows.view(2, 1))
    torch.testing.assert_close(change(tmp_path, "linear", tensors), expected)
    whole = {"diff": rand(10, 6).to(dtype), spelling: torch.tensor([0.5])}
    torch.testing.assert_close(change(tmp_path, "linear", whole), whole["diff"].float() * 0.5)
    with pytest.raises(BadRequest, match="scale of lora_up has 3"):
        adapter(tmp_path, "lora_unet_linear", {**tensors, f"lora_up.{spelling}": torch.ones(3)})


def test_a_scale_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"scale of lora_mid has one value and belongs to no tensor"):
        adapter(tmp_path, "lora_unet_linear", {**FACTORS["lora"], "lora_mid.scale_weight": torch.tensor(1.0)})


ALPHAS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int32]  # fmt: skip


@pytest.mark.parametrize("dtype", ALPHAS, ids=str)
def test_alpha_of_any_number_type(dtype: torch.dtype, tmp_path: Path) -> None:
    for alpha in (torch.tensor(4, dtype=dtype), torch.tensor([4]).to(dtype)):
        found = change(tmp_path, "linear", {**FACTORS["loha"], "alpha": alpha})
        torch.testing.assert_close(found, 2 * change(tmp_path, "linear", FACTORS["loha"]))


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_an_alpha_that_is_not_finite_is_one_warning_for_all_its_layers(bad: float, tmp_path: Path) -> None:
    tensors = {f"lora_unet_{layer}.{n}": t.clone() for layer in ("linear", "pointwise") for n, t in FACTORS["lora"].items()}  # fmt: skip
    tensors |= {
        f"lora_unet_{layer}.alpha": torch.tensor(bad, dtype=torch.float16)
        for layer in ("linear", "pointwise")
    }
    found = load(write(tmp_path / "a.safetensors", tensors), OF)
    assert found.warnings == (
        "lora_unet_linear (and 1 more): its alpha is not finite and is taken as equal to the rank",
    )
    product = FACTORS["lora"]["lora_up.weight"] @ FACTORS["lora"]["lora_down.weight"]
    torch.testing.assert_close(found.deltas["unet.linear"].change(weight("linear"), 1.0), product)


def test_several_algorithms_in_one_file(tmp_path: Path) -> None:
    tensors = {f"lora_unet_linear.{n}": t for n, t in FACTORS["lokr"].items()}
    tensors |= {f"lora_unet_pointwise.{n}": t for n, t in FACTORS["loha"].items()}
    tensors |= {"lora_unet_square.oft_blocks": rand(3, 2, 2), "lora_unet_norm.w_norm": rand(6)}
    tensors |= {"lora_unet_conv.diff": rand(10, 6, 3, 3).half()}
    found = load(write(tmp_path / "a.safetensors", tensors), OF)
    assert set(found.info.types) == {"lokr", "loha", "oft", "norm", "full"}
    assert len(found.deltas) == 5


def _turned(blocks: Tensor, matrix: Tensor) -> Tensor:
    """R (I + Q)(I - Q)⁻¹ written out as one large matrix, transposed, times the weight."""
    rotations = []
    for block in blocks.double():
        skew = block - block.T
        eye = torch.eye(len(block), dtype=torch.float64)
        rotations.append((eye + skew) @ torch.linalg.inv(eye - skew))
    return torch.block_diag(*rotations).T @ matrix.double()


@pytest.mark.parametrize("strength", [1.0, 0.7, -0.5])
def test_oft_of_the_first_lycoris_stores_the_rotation_itself(strength: float, tmp_path: Path) -> None:
    blocks = rand(3, 2, 2)
    skew = blocks - blocks.transpose(1, 2)
    eye = torch.eye(2)
    rotation = (eye + skew) @ torch.linalg.inv(eye - skew)
    found = change(tmp_path, "square", {"oft_diag": rotation}, strength=strength)
    expected = strength * (_turned(blocks, weight("square")) - weight("square"))
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(change(tmp_path, "square", {"oft_blocks": blocks}, strength=strength), found)


def test_kohyas_alpha_of_zero_allows_no_rotation_and_lycoris_any(tmp_path: Path) -> None:
    tensors = {"oft_blocks": rand(3, 2, 2), "alpha": torch.tensor(0.0)}
    assert not change(tmp_path, "square", tensors, prefix="oft_unet_").any()
    expected = _turned(tensors["oft_blocks"], weight("square")) - weight("square")
    torch.testing.assert_close(change(tmp_path, "square", tensors), expected.float())


@pytest.mark.parametrize("name", ["glora", "oft", "boft", "oft_r"])
@pytest.mark.parametrize("per_output", [True, False])
def test_magnitudes_stand_on_other_algorithms_too(name: str, per_output: bool, tmp_path: Path) -> None:
    forms = {
        "glora": FACTORS["glora"],
        "oft": {"oft_blocks": rand(5, 2, 2)},
        "boft": {"oft_blocks": rand(1, 5, 2, 2)},
        "oft_r": {"oft_R.weight": rand(3, 1)},
    }
    magnitude = rand(10, 1) + 1 if per_output else rand(1, 6) + 1
    inner = weight("linear") + change(tmp_path, "linear", forms[name])
    norm = inner.norm(dim=1 if per_output else 0, keepdim=True)
    found = change(tmp_path, "linear", {**forms[name], "dora_scale": magnitude}, strength=0.7)
    torch.testing.assert_close(found, 0.7 * (inner / norm * magnitude - weight("linear")))


@pytest.mark.parametrize(
    ("shape", "axis"), [((10, 1), 0), ((1, 6), 1), ((10,), 0), ((6,), 1), ((1, 10), 0), ((6, 1), 1)]
)
def test_the_number_of_magnitudes_tells_their_axis(shape: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    tensors = {**FACTORS["lora"], "dora_scale": torch.ones(shape)}
    result = weight("linear") + change(tmp_path, "linear", tensors)
    norms = result.norm(dim=1 - axis)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def _sparse(size: tuple[int, ...], places: list[tuple[int, ...]]) -> dict[str, Tensor]:
    return {
        "bias_indices": torch.tensor(places, dtype=torch.int16).T.contiguous(),
        "bias_values": torch.arange(1, len(places) + 1).half() / 8,
        "bias_size": torch.tensor(size, dtype=torch.int16),
    }


@pytest.mark.parametrize("name", ["lora", "loha", "lokr", "glora", "dora"])
def test_sparse_residuals_are_added_to_the_weight_and_scaled_with_the_factors(
    name: str, tmp_path: Path
) -> None:
    sparse = _sparse((10, 6), [(0, 0), (9, 5), (3, 2)])
    dense = torch.sparse_coo_tensor(
        sparse["bias_indices"].long(), sparse["bias_values"].float(), (10, 6), check_invariants=True
    ).to_dense()
    plain = {**FACTORS[name], "alpha": torch.tensor(4.0)}
    magnitude = plain.pop("dora_scale", None)
    extra = {} if magnitude is None else {"dora_scale": magnitude}
    expected = 0.7 * (change(tmp_path, "linear", plain) + 2 * dense)
    if magnitude is not None:
        inner = weight("linear") + expected / 0.7
        expected = 0.7 * (inner / inner.norm(dim=1, keepdim=True) * magnitude - weight("linear"))
    for residual in (sparse, {"bias": dense}):
        found = change(tmp_path, "linear", {**plain, **residual, **extra}, strength=0.7)
        torch.testing.assert_close(found, expected)


def test_sparse_residuals_of_a_kernel_may_be_flat(tmp_path: Path) -> None:
    plain = {"lora_up.weight": rand(10, 2), "lora_down.weight": rand(2, 6, 3, 3)}
    flat = {**plain, **_sparse((10, 54), [(4, 53), (1, 9)])}
    deep = {**plain, **_sparse((10, 6, 3, 3), [(4, 5, 2, 2), (1, 1, 0, 0)])}
    torch.testing.assert_close(change(tmp_path, "conv", flat), change(tmp_path, "conv", deep))


@pytest.mark.parametrize(
    ("change_", "words"),
    [
        ({"bias_indices": torch.tensor([[0, -1, 3], [0, 5, 2]], dtype=torch.int16)}, "lie outside the weight"),
        ({"bias_indices": torch.tensor([[0, 9, 3], [0, 6, 2]], dtype=torch.int16)}, "lie outside the weight"),
        ({"bias_size": torch.tensor([10, 7], dtype=torch.int16)}, "lie outside the weight"),
        ({"bias_size": torch.tensor([-10, -6], dtype=torch.int16)}, "lie outside the weight"),
        ({"bias_values": rand(2)}, "bias_indices, bias_values and bias_size have 2x3, 2 and 2"),
        ({"bias_indices": rand(2, 3)}, "its bias_indices has the dtype F32"),
        ({"bias_values": torch.tensor([1, torch.nan, 1])}, "bias_values holds values that are not finite"),
        ({"bias": rand(10, 6)}, "a whole one beside it"),
        ({"bias": rand(10)}, "its bias has 10, wanted the weight's 10x6"),
    ],
)  # fmt: skip
def test_residuals_that_make_no_sense_are_refused(
    change_: dict[str, Tensor], words: str, tmp_path: Path
) -> None:
    tensors = {**FACTORS["lora"], **_sparse((10, 6), [(0, 0), (9, 5), (3, 2)]), **change_}
    with pytest.raises(BadRequest, match=words) as caught:
        adapter(tmp_path, "lora_unet_linear", tensors)
    assert "lora_unet_linear" in caught.value.message


def test_a_replaced_weight_is_a_line_to_the_new_one(tmp_path: Path) -> None:
    new = rand(6).bfloat16()
    parts = {"unet": Small().requires_grad_(False)}
    merge(parts, OF, [(adapter(tmp_path, "lora_unet_norm", {"set_weight": new}), 1.0)])
    assert torch.equal(parts["unet"].norm.weight, new.float())  # type: ignore[union-attr]
    found = change(tmp_path, "norm", {"set_weight": new}, strength=0.25)
    torch.testing.assert_close(found, 0.25 * (new.float() - weight("norm")))


def test_a_layer_that_would_have_to_grow_is_refused_with_the_reason(tmp_path: Path) -> None:
    same = {**FACTORS["lora"], "reshape_weight": torch.tensor([10, 6])}
    torch.testing.assert_close(change(tmp_path, "linear", same), change(tmp_path, "linear", FACTORS["lora"]))
    larger = {**same, "lora_down.weight": rand(2, 12), "reshape_weight": torch.tensor([10, 12])}
    with pytest.raises(BadRequest, match=r"gives 10x12 and wants the layer enlarged \(reshape_weight\)"):
        adapter(tmp_path, "lora_unet_linear", larger)
    with pytest.raises(BadRequest, match="wants its layer made 10x12, the model's has 10x6"):
        adapter(tmp_path, "lora_unet_linear", {**same, "reshape_weight": torch.tensor([10, 12])})


def test_a_bias_that_the_model_lacks_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {"lora_up.weight": rand(6, 2), "lora_down.weight": rand(2, 6), "diff_b": rand(6)}
    with pytest.raises(BadRequest, match="lora_unet_square: its diff_b changes a bias, which the model"):
        adapter(tmp_path, "lora_unet_square", tensors)


@pytest.mark.parametrize(
    "names",
    [
        ("lora_A.0", "lora_A.2", "lora_B.0", "lora_B.1"),
        ("lora_A.0", "lora_B.0", "lora_B.1"),
        ("lora_A.1", "lora_B.1"),
        ("lora_A.0", "lora_A.weight", "lora_B.0"),
    ],
)
def test_lists_with_gaps_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    tensors = {n: rand(10, 1) if "B" in n else rand(1, 6) for n in names}
    with pytest.raises(BadRequest, match=r"lora_unet_linear.*(has a gap|ranks of up and down differ)"):
        adapter(tmp_path, "lora_unet_linear", tensors)


def test_a_rotation_too_large_for_its_transform_is_refused(tmp_path: Path) -> None:
    for tensors in (
        {"oft_blocks": torch.full((3, 2, 2), 3e38).triu()},
        {"oft_R.weight": torch.full((3, 1), 1e30)},
        {"boft_R": torch.full((1, 3, 2, 2), 3e38).triu() * 2, "boft_s": torch.ones(6, 1)},
    ):
        with pytest.raises(BadRequest, match=r"lora_unet_square: its .* not finite"):
            adapter(tmp_path, "lora_unet_square", tensors)


def test_pefts_oft_without_its_configuration_says_what_is_taken(tmp_path: Path) -> None:
    tensors = {"oft_R.weight": rand(3, 1)}
    found = adapter(tmp_path, "base_model.model.square", tensors)
    assert "a Cayley-Neumann series of 5 terms" in found.warnings[0]
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.use_cayley_neumann": False})}
    told = adapter(tmp_path, "unet.square", tensors, metadata)
    assert not told.warnings
    wide = told.deltas["unet.square"].change(weight("square"), 1.0)
    assert not torch.equal(wide, found.deltas["unet.square"].change(weight("square"), 1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("terms", [True, 0, -3, 10**9, 2.5, "7", None])
def test_a_number_of_terms_that_is_none_counts_as_unsaid(terms: object, tmp_path: Path) -> None:
    path = write(tmp_path / "adapter_model.safetensors", {"base_model.model.square.oft_R.weight": rand(3, 1)})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"num_cayley_neumann_terms": terms}))
    expected = adapter(tmp_path, "base_model.model.square", {"oft_R.weight": rand(3, 1)})
    found = load(path, OF).deltas["unet.square"].change(weight("square"), 1.0)
    torch.testing.assert_close(found, expected.deltas["unet.square"].change(weight("square"), 1.0))


def test_pefts_ia3_of_a_square_convolution_needs_the_configuration(tmp_path: Path) -> None:
    model = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3)}).requires_grad_(False)
    of = layout_of({"unet": model}, "sd1")
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(save({"base_model.model.conv.ia3_l": rand(1, 4, 1, 1) + 1}))
    found = load(path, of)
    assert "stands in adapter_config.json alone" in found.warnings[0]
    assert found.deltas["unet.conv"].bias_factor is not None
    (tmp_path / "adapter_config.json").write_text('{"feedforward_modules": ["conv"]}')
    found = load(path, of)
    assert not found.warnings
    assert found.deltas["unet.conv"].bias_factor is None
