"""Whether a module's tensors can become a change of a layer: shapes and dtypes from the header alone, nothing is read.

A few kilobytes of Kronecker or Hadamard factors can describe a change of any size; what is refused here is never
allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from farm.lora.formats.header import TensorInfo
from farm.lora.formats.suffixes import SCALE, base

MAX_RANK = 4096
#: factors may have this many times the elements of the layer that they change …
_MAX_FACTORS = 4
#: … or this many, for layers that are tiny
_FREE_FACTORS = 2**20
_FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
_WHOLE = ("I8", "I16", "I32", "I64", "U8")
_ANY_DTYPE = ("alpha", "on_input", "scale")
_INDICES = ("bias_indices", "bias_size", "reshape_weight")
#: stages of a butterfly whose blocks are as wide as any layer
_MAX_STAGES = 40

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class Unfit(ValueError):
    """The tensors do not fit together; the text says how."""


def ranks_of(algorithm: str, shapes: Shapes) -> int | None:
    """Rank of a module's factors; None for what has no rank, or makes no sense."""
    if algorithm in ("lora", "locon", "dora", "loha"):
        try:
            joined = _joined(shapes)
        except Unfit:
            return None
        named = (joined[name] for name in ("lora_down", "embedding_a", "hada_w1_b") if name in joined)
        first = next(named, ())
        return first[0] if first else None
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
        wanted = _WHOLE if suffix in _INDICES else _FLOATS
        if suffix not in _ANY_DTYPE and info.dtype not in wanted:
            return f"its {suffix} has the dtype {info.dtype}, wanted one of {', '.join(wanted)}"
    if any(prod(shapes.get(suffix, ())) != 1 for suffix in ("alpha", "scale", "on_input")):
        return "its alpha, scale or on_input is no single number"
    try:
        rank = ranks_of(algorithm, shapes)
        if rank is not None and rank > MAX_RANK:
            raise Unfit(f"its rank is {rank}, more than {MAX_RANK}")
        if sum(info.elements for info in infos.values()) > max(_MAX_FACTORS * prod(layer), _FREE_FACTORS):
            raise Unfit("its tensors are larger than any change of this layer needs")
        joined = _joined(shapes)
        found = _spread(_GIVES[algorithm](joined, layer), layer)
        if _plain(found) != _plain(layer):
            larger = " and wants the layer enlarged (reshape_weight)" if "reshape_weight" in shapes else ""
            raise Unfit(f"it gives {_text(found)}{larger}, the model's layer has {_text(layer)}")
        _check_vectors(joined, layer, bias)
        _check_residual(joined, layer)
        _check_scales(shapes)
    except Unfit as exc:
        return str(exc)
    except IndexError:
        return "one of its tensors has too few dimensions"
    return ""


def _joined(shapes: Shapes) -> Shapes:
    """DyLoRA's lists as the factors that they make together; all else as it is."""
    if not any("." in suffix for suffix in shapes):
        return shapes
    found = {suffix: shape for suffix, shape in shapes.items() if "." not in suffix}
    for name, axis in (("lora_up", 1), ("lora_down", 0)):
        parts = {suffix: shape for suffix, shape in shapes.items() if "." in suffix and base(suffix) == name}
        ordered = [parts.get(f"{name}.{i}") for i in range(len(parts))]
        first = ordered[0] if ordered else None
        if name in found or first is None or len(first) < 2 or any(part != first for part in ordered):
            raise Unfit(
                f"its list of {name} has a gap, parts of different shapes, or a whole {name} beside it"
            )
        # the kernel is flat behind the inputs
        flat = (first[0], prod(first[1:]))
        found[name] = (flat[0], flat[1] * len(parts)) if axis else (flat[0] * len(parts), flat[1])
    return found


def _check_vectors(shapes: Shapes, layer: Shape, bias: bool) -> None:
    for suffix in ("diff_b", "b_norm", "lora_up_bias"):
        if suffix not in shapes:
            continue
        if prod(shapes[suffix]) != layer[0]:
            raise Unfit(f"its {suffix} has {_text(shapes[suffix])}, the model's layer has {layer[0]} outputs")
        if not bias:
            raise Unfit(f"its {suffix} changes a bias, which the model's layer lacks")
    for suffix, sides in (("dora_scale", layer[:2]), ("lora_magnitude", layer[:1])):
        if suffix in shapes and (prod(shapes[suffix]) not in sides or len(layer) < 2):
            raise Unfit(f"its {suffix} has {_text(shapes[suffix])}, the model's layer has {_text(layer)}")


def _check_residual(shapes: Shapes, layer: Shape) -> None:
    if "bias" in shapes and prod(shapes["bias"]) != prod(layer):
        raise Unfit(f"its bias has {_text(shapes['bias'])}, wanted the weight's {_text(layer)}")
    indices, values, size = (shapes.get(f"bias_{word}") for word in ("indices", "values", "size"))
    if indices is values is size is None:
        return
    if indices is None or values is None or size is None or "bias" in shapes:
        raise Unfit(
            "its sparse residual lacks bias_indices, bias_values or bias_size, or has a whole one beside it"
        )
    if len(indices) != 2 or indices[0] != prod(size) or indices[1] != prod(values):
        raise Unfit(
            f"its bias_indices, bias_values and bias_size have {_text(indices)}, {_text(values)} and {_text(size)}"
        )


def _check_scales(shapes: Shapes) -> None:
    """Scales of 8-bit tensors are one for all, or one for each row."""
    for suffix, shape in shapes.items():
        tensor = suffix.removesuffix(SCALE)
        if suffix.endswith(SCALE) and (tensor not in shapes or prod(shape) not in (1, *shapes[tensor][:1])):
            raise Unfit(
                f"its scale of {tensor} has {_text(shape)} and belongs to no tensor of that many rows"
            )


def _lora(shapes: Shapes, layer: Shape) -> Shape:
    if "embedding_a" in shapes:
        a, b = shapes["embedding_a"], shapes["embedding_b"]
        _equal(a[0], b[1], "ranks of its factors")
        return (*a[1:], *b[:1])
    up, down = shapes["lora_up"], shapes["lora_down"]
    mid = shapes.get("lora_mid")
    if prod(up[2:]) != 1 or len(up) < 2 or len(down) < 2:
        raise Unfit(f"its up and down factors have {_text(up)} and {_text(down)}")
    if "lora_e" in shapes:
        _equal(prod(shapes["lora_e"]), down[0], "ranks of E and down")
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
            _equal(prod(a[1:]), b[0], "ranks of its factors")
            sides.append((a[0], b[1] * prod(b[2:])))
        else:
            _equal(t[0], a[0], "ranks of its factors")
            _equal(t[1], b[0], "ranks of its factors")
            sides.append((a[1], b[1] * prod(t[2:])))
            _equal(prod((*a[2:], *b[2:])), 1, "kernels of its factors beside a core")
    if sides[0] != sides[1]:
        raise Unfit(f"its two factors have {_text(sides[0])} and {_text(sides[1])}")
    return sides[0]


def _lokr(shapes: Shapes, layer: Shape) -> Shape:
    first, second = (_lokr_side(shapes, n) for n in ("1", "2"))
    return (first[0] * second[0], first[1] * second[1])


def _lokr_side(shapes: Shapes, n: str) -> Shape:
    whole = shapes.get(f"lokr_w{n}")
    if whole is not None:
        return (whole[0], whole[1] * prod(whole[2:]))
    a, b, t = shapes[f"lokr_w{n}_a"], shapes[f"lokr_w{n}_b"], shapes.get(f"lokr_t{n}")
    if t is None:
        _equal(prod(a[1:]), b[0], "ranks of its factors")
        return (a[0], b[1] * prod(b[2:]))
    _equal(t[0], a[0], "ranks of its factors")
    _equal(t[1], b[0], "ranks of its factors")
    _equal(prod((*a[2:], *b[2:])), 1, "kernels of its factors beside a core")
    return (a[1], b[1] * prod(t[2:]))


def _glora(shapes: Shapes, layer: Shape) -> Shape:
    a1, a2, b1, b2 = (shapes[name] for name in ("a1", "a2", "b1", "b2"))
    core = shapes.get("bm")
    new = b2[0] == b1[1] == a1[1] == a2[0]
    old = b2[1] == b1[0] == a1[0] == a2[1]
    if not (new or old):
        raise Unfit("its four factors have no common rank")
    if core is not None:
        if not new or core[:2] != (b2[0], b2[0]) or prod(b2[2:]) != 1:
            raise Unfit(f"its core has {_text(core)}, its factors {_text(b1)} and {_text(b2)}")
        gives, inputs = (b1[0], b2[1], *core[2:]), {a1[0], a2[1]}
    else:
        gives, inputs = ((b1[0], *b2[1:]), {a1[0], a2[1]}) if new else ((b2[0], *b1[1:]), {a1[1], a2[0]})
        if new and old and (_plain(_spread(gives, layer)) != _plain(layer) or inputs != {layer[1]}):
            gives, inputs = (b2[0], *b1[1:]), {a1[1], a2[0]}
    if inputs != {layer[1]}:
        raise Unfit(f"its input factors have {sorted(inputs)} values, the model's layer reads {layer[1]}")
    kernels = (*a1[2:], *a2[2:], *(b1 if gives[0] == b1[0] else b2)[2:])
    _equal(prod(kernels), 1, "kernels of its narrow factors")
    return gives


def _full(shapes: Shapes, layer: Shape) -> Shape:
    return shapes.get("diff", shapes.get("set_weight", layer))


def _norm(shapes: Shapes, layer: Shape) -> Shape:
    return shapes.get("w_norm", layer)


def _ia3(shapes: Shapes, layer: Shape) -> Shape:
    count = prod(shapes["weight"] if "weight" in shapes else shapes["ia3_l"])
    if count not in layer[:2]:
        raise Unfit(f"it scales {count} values, the model's layer has {_text(layer)}")
    return layer


def _oft(shapes: Shapes, layer: Shape) -> Shape:
    for suffix in ("rescale", "boft_s"):
        if suffix in shapes and prod(shapes[suffix]) != layer[0]:
            raise Unfit(f"its {suffix} has {_text(shapes[suffix])}, the model's layer has {layer[0]} outputs")
    if "oft_r" in shapes:
        return _packed_oft(shapes["oft_r"], layer)
    if "boft_r" in shapes:
        return _rotation(shapes["boft_r"], prod(layer[1:]), "inputs", layer)
    blocks = shapes["oft_blocks"] if "oft_blocks" in shapes else shapes["oft_diag"]
    return _rotation(blocks, layer[0], "outputs", layer)


def _rotation(blocks: Shape, width: int, what: str, layer: Shape) -> Shape:
    stages = blocks[0] if len(blocks) == 4 else 1
    count, size, other = blocks[-3], blocks[-2], blocks[-1]
    if len(blocks) > 4 or count * size != width or size != other:
        raise Unfit(f"it rotates {count} blocks of {size}x{other}, the model's layer has {width} {what}")
    # LyCORIS' first stage pairs halves already, peft's second does
    apart = len(blocks) == 4 and (what == "outputs" or stages > 1)
    if apart and (size % 2 or width % (size << min(stages - 1, _MAX_STAGES))):
        raise Unfit(f"its {stages} stages of blocks of {size} do not divide {width} {what}")
    return layer


def _packed_oft(packed: Shape, layer: Shape) -> Shape:
    """peft's (blocks, entries above the diagonal of one)."""
    width = prod(layer[1:])
    size = round((1 + (1 + 8 * packed[1]) ** 0.5) / 2)
    if len(packed) != 2 or size * (size - 1) // 2 != packed[1] or size > width or width % size:
        raise Unfit(f"its oft_r has {_text(packed)}, which is no rotation of {width} inputs")
    if packed[0] not in (1, width // size):
        raise Unfit(f"it rotates {packed[0]} blocks of {size}x{size}, the model's layer has {width} inputs")
    return layer


_GIVES: Mapping[str, Callable[[Shapes, Shape], Shape]] = {
    "lora": _lora, "locon": _lora, "dora": _lora, "loha": _loha, "lokr": _lokr, "glora": _glora, "full": _full,
    "norm": _norm, "ia3": _ia3, "oft": _oft, "boft": _oft,
}  # fmt: skip


def _spread(flat: Shape, layer: Shape) -> Shape:
    """A convolution's tensors may keep the kernel inside their second dimension."""
    return layer if flat == (layer[0], prod(layer[1:])) else flat


def _equal(one: int, other: int, what: str) -> None:
    if one != other:
        raise Unfit(f"the {what} differ: {one} and {other}")


def _plain(shape: Shape) -> Shape:
    """Shape without a 1x1 kernel: linear layers and 1x1 convolutions are stored as either."""
    return shape[:2] if len(shape) > 2 and prod(shape[2:]) == 1 else shape


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one value"
