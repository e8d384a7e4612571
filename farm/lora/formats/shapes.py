"""Whether a module's tensors can become a change of a layer: shapes and dtypes from the header alone, nothing is read.

A few kilobytes of Kronecker or Hadamard factors can describe a change of any size; what is refused here is never
allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from farm.lora.formats.header import TensorInfo

MAX_RANK = 4096
#: factors may have this many times the elements of the layer that they change …
_MAX_FACTORS = 4
#: … or this many, for layers that are tiny
_FREE_FACTORS = 2**20
_FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
_ANY_DTYPE = ("alpha", "on_input", "bias_indices", "bias_size", "scale", "reshape_weight")

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class Unfit(ValueError):
    """The tensors do not fit together; the text says how."""


def ranks_of(algorithm: str, shapes: Shapes) -> int | None:
    """Rank of a module's factors; None for what has no rank."""
    place = {
        "lora": ("lora_down", 0), "locon": ("lora_down", 0), "dora": ("lora_down", 0), "loha": ("hada_w1_b", 0),
    }.get(algorithm)  # fmt: skip
    if place:
        return shapes[place[0]][place[1]] if shapes[place[0]] else None
    if algorithm == "lokr":
        if shapes.get("lokr_w2_b"):
            return shapes["lokr_w2_b"][0]
        return shapes["lokr_w1_b"][0] if shapes.get("lokr_w1_b") else None
    if algorithm == "glora":
        return min(shapes["a1"][:2], default=None)
    return None


def contradiction(
    algorithm: str, keys: Mapping[str, str], tensors: Mapping[str, TensorInfo], layer: Shape, bias: bool
) -> str:
    """How a module's tensors contradict a layer of this weight shape, as the end of a sentence; "" when they fit."""
    infos = {suffix: tensors[key] for suffix, key in keys.items()}
    shapes = {suffix: info.shape for suffix, info in infos.items()}
    for suffix, info in infos.items():
        if suffix not in _ANY_DTYPE and info.dtype not in _FLOATS:
            return f"its {suffix} has the dtype {info.dtype}, wanted one of {', '.join(_FLOATS)}"
    if prod(shapes.get("alpha", ())) != 1 or prod(shapes.get("scale", ())) != 1:
        return "its alpha or scale is no single number"
    try:
        rank = ranks_of(algorithm, shapes)
        if rank is not None and rank > MAX_RANK:
            raise Unfit(f"its rank is {rank}, more than {MAX_RANK}")
        if sum(info.elements for info in infos.values()) > max(_MAX_FACTORS * prod(layer), _FREE_FACTORS):
            raise Unfit("its tensors are larger than any change of this layer needs")
        found = _GIVES[algorithm](shapes, layer)
        if _plain(found) != _plain(layer):
            raise Unfit(f"it gives {_text(found)}, the model's layer has {_text(layer)}")
        _check_vectors(shapes, layer, bias)
    except Unfit as exc:
        return str(exc)
    except IndexError:
        return "one of its tensors has too few dimensions"
    return ""


def _check_vectors(shapes: Shapes, layer: Shape, bias: bool) -> None:
    for suffix in ("diff_b", "b_norm", "lora_up_bias"):
        if suffix not in shapes:
            continue
        if prod(shapes[suffix]) != layer[0]:
            raise Unfit(f"its {suffix} has {_text(shapes[suffix])}, the model's layer has {layer[0]} outputs")
        if not bias:
            raise Unfit(f"its {suffix} changes a bias, which the model's layer lacks")
    for suffix in ("dora_scale", "lora_magnitude"):
        if suffix in shapes and prod(shapes[suffix]) not in (
            layer[0],
            layer[1] if len(layer) > 1 else layer[0],
        ):
            raise Unfit(f"its {suffix} has {_text(shapes[suffix])}, the model's layer has {_text(layer)}")


def _lora(shapes: Shapes, layer: Shape) -> Shape:
    up, down = shapes["lora_up"], shapes["lora_down"]
    mid = shapes.get("lora_mid")
    if prod(up[2:]) != 1 or len(up) < 2 or len(down) < 2:
        raise Unfit(f"its up and down factors have {_text(up)} and {_text(down)}")
    if mid is None:
        _equal(up[1], down[0], "ranks of up and down")
        return (up[0], *down[1:])
    _equal(mid[0], up[1], "ranks of mid and up")
    _equal(mid[1], down[0], "ranks of mid and down")
    if prod(down[2:]) != 1:
        raise Unfit(f"it has both a mid factor and a kernel in down ({_text(down)})")
    return (up[0], down[1], *mid[2:])


def _loha(shapes: Shapes, layer: Shape) -> Shape:
    sides = []
    for n in ("1", "2"):
        a, b, t = shapes[f"hada_w{n}_a"], shapes[f"hada_w{n}_b"], shapes.get(f"hada_t{n}")
        if t is None:
            _equal(a[1], b[0], "ranks of its factors")
            sides.append((a[0], b[1]))
        else:
            _equal(t[0], a[0], "ranks of its factors")
            _equal(t[1], b[0], "ranks of its factors")
            sides.append((a[1], b[1] * prod(t[2:])))
    if sides[0] != sides[1]:
        raise Unfit(f"its two factors have {_text(sides[0])} and {_text(sides[1])}")
    return _spread(sides[0], layer)


def _lokr(shapes: Shapes, layer: Shape) -> Shape:
    first, second = (_lokr_side(shapes, n) for n in ("1", "2"))
    return _spread((first[0] * second[0], first[1] * second[1]), layer)


def _lokr_side(shapes: Shapes, n: str) -> Shape:
    whole = shapes.get(f"lokr_w{n}")
    if whole is not None:
        return (whole[0], whole[1] * prod(whole[2:]))
    a, b, t = shapes[f"lokr_w{n}_a"], shapes[f"lokr_w{n}_b"], shapes.get(f"lokr_t{n}")
    if t is None:
        _equal(a[1], b[0], "ranks of its factors")
        return (a[0], b[1] * prod(b[2:]))
    _equal(t[0], a[0], "ranks of its factors")
    _equal(t[1], b[0], "ranks of its factors")
    return (a[1], b[1] * prod(t[2:]))


def _glora(shapes: Shapes, layer: Shape) -> Shape:
    a1, a2, b1, b2 = (shapes[name] for name in ("a1", "a2", "b1", "b2"))
    new = b2[0] == b1[1] == a1[1] == a2[0]
    old = b2[1] == b1[0] == a1[0] == a2[1]
    if not (new or old):
        raise Unfit("its four factors have no common rank")
    gives = (b1[0], *b2[1:]) if new else (b2[0], *b1[1:])
    inputs = {a1[0], a2[1]} if new else {a1[1], a2[0]}
    if _plain(gives) != _plain(layer) and new and old:
        gives, inputs = (b2[0], *b1[1:]), {a1[1], a2[0]}
    if inputs != {layer[1]}:
        raise Unfit(f"its input factors have {sorted(inputs)} values, the model's layer reads {layer[1]}")
    return gives


def _full(shapes: Shapes, layer: Shape) -> Shape:
    return shapes.get("diff") or shapes.get("set_weight") or layer


def _norm(shapes: Shapes, layer: Shape) -> Shape:
    return shapes.get("w_norm") or layer


def _ia3(shapes: Shapes, layer: Shape) -> Shape:
    count = prod(shapes["weight"] if "weight" in shapes else shapes["ia3_l"])
    if count not in layer[:2]:
        raise Unfit(f"it scales {count} values, the model's layer has {_text(layer)}")
    return layer


def _oft(shapes: Shapes, layer: Shape) -> Shape:
    blocks = shapes.get("oft_blocks") or shapes.get("oft_diag")
    if blocks is not None:
        count, size, other = blocks[-3], blocks[-2], blocks[-1]
        if count * size != layer[0] or size != other:
            raise Unfit(
                f"it rotates {count} blocks of {size}x{other}, the model's layer has {layer[0]} outputs"
            )
        if len(blocks) == 4 and (size % 2 or layer[0] % (size << min(blocks[0] - 1, 40))):
            raise Unfit(f"its {blocks[0]} stages of blocks of {size} do not divide {layer[0]} outputs")
    if "rescale" in shapes and prod(shapes["rescale"]) != layer[0]:
        raise Unfit(f"its rescale has {_text(shapes['rescale'])}, the model's layer has {layer[0]} outputs")
    return layer


_GIVES: Mapping[str, Callable[[Shapes, Shape], Shape]] = {
    "lora": _lora, "locon": _lora, "dora": _lora, "loha": _loha, "lokr": _lokr, "glora": _glora, "full": _full,
    "norm": _norm, "ia3": _ia3, "oft": _oft, "boft": _oft,
}  # fmt: skip


def _spread(flat: Shape, layer: Shape) -> Shape:
    """Factors of a convolution may keep the kernel inside their second dimension."""
    return layer if flat == (layer[0], prod(layer[1:])) else flat


def _equal(one: int, other: int, what: str) -> None:
    if one != other:
        raise Unfit(f"the {what} differ: {one} and {other}")


def _plain(shape: Shape) -> Shape:
    """Shape without a 1x1 kernel: linear layers and 1x1 convolutions are stored as either."""
    return shape[:2] if len(shape) > 2 and prod(shape[2:]) == 1 else shape


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one value"
