"""Parts that transformers have in common: embedders, attention, feed-forward networks."""

from __future__ import annotations

from collections.abc import Iterator

from farm.lora.layout import Layer
from farm.models.layouts.blocks import Place

#: sines and cosines that a timestep (or a guidance scale) is spelled in
FREQUENCIES = 256


def embedder(
    place: Place, path: str, into: int, width: int, *, bias: bool = True, names: str = "linear_{}"
) -> Iterator[Layer]:
    """Yield two linear layers with an activation between them: how timesteps and texts are taken in."""
    yield place.linear(f"{path}.{names.format(1)}", into, width, bias=bias)
    yield place.linear(f"{path}.{names.format(2)}", width, width, bias=bias)


def attention(
    place: Place,
    path: str,
    width: int,
    *,
    inner: int | None = None,
    sees: int | None = None,
    values: int | None = None,
    norm: int | None = None,
    bias: bool = True,
    out_bias: bool | None = None,
    out: bool = True,
) -> Iterator[Layer]:
    """Yield queries, keys, values and output of an attention.

    `inner` is the width of the queries of all heads, `values` that of keys and values, `sees` the width of what is
    attended to (`width` each, where left out), `norm` the width of the RMSNorms of queries and keys. Without `out` the
    output is left to a layer that the block has for it.
    """
    inner, sees = inner or width, sees or width
    yield place.linear(f"{path}.to_q", width, inner, bias=bias)
    yield place.linear(f"{path}.to_k", sees, values or inner, bias=bias)
    yield place.linear(f"{path}.to_v", sees, values or inner, bias=bias)
    if norm is not None:
        yield place.norm(f"{path}.norm_q", norm, bias=False)
        yield place.norm(f"{path}.norm_k", norm, bias=False)
    if out:
        yield place.linear(f"{path}.to_out.0", inner, width, bias=bias if out_bias is None else out_bias)


def added_attention(
    place: Place, path: str, width: int, *, norm: int | None = None, bias: bool = True, out: bool = True
) -> Iterator[Layer]:
    """Yield what a joint attention has for the text beside `attention` for the picture."""
    for name in ("add_q_proj", "add_k_proj", "add_v_proj", *(("to_add_out",) if out else ())):
        yield place.linear(f"{path}.{name}", width, width, bias=bias)
    if norm is not None:
        yield place.norm(f"{path}.norm_added_q", norm, bias=False)
        yield place.norm(f"{path}.norm_added_k", norm, bias=False)


def feed_forward(
    place: Place, path: str, width: int, inner: int, *, into: int | None = None
) -> Iterator[Layer]:
    """Yield diffusers' feed-forward network with a GELU: `into` (`width`, where left out) values in, `width` out."""
    yield place.linear(f"{path}.net.0.proj", into or width, inner)
    yield place.linear(f"{path}.net.2", inner, width)


def gated(
    place: Place, path: str, width: int, inner: int, names: tuple[str, str, str] = ("w1", "w2", "w3")
) -> Iterator[Layer]:
    """Yield a SwiGLU feed-forward network without biases; `names` are those of gate, output and values."""
    gate, out, values = names
    yield place.linear(f"{path}.{gate}", width, inner, bias=False)
    yield place.linear(f"{path}.{values}", width, inner, bias=False)
    yield place.linear(f"{path}.{out}", inner, width, bias=False)


def single_block(place: Place, path: str, width: int, inner: int, head: int) -> Iterator[Layer]:
    """Yield a single-stream block of Flux.1 and its kin, but for its modulation."""
    yield from attention(place, f"{path}.attn", width, norm=head, out=False)
    yield place.linear(f"{path}.proj_mlp", width, inner)
    yield place.linear(f"{path}.proj_out", width + inner, width)


def double_block(place: Place, path: str, width: int, inner: int, head: int) -> Iterator[Layer]:
    """Yield a double-stream block of Flux.1 and its kin, but for its modulation."""
    yield from attention(place, f"{path}.attn", width, norm=head)
    yield from added_attention(place, f"{path}.attn", width, norm=head)
    yield from feed_forward(place, f"{path}.ff", width, inner)
    yield from feed_forward(place, f"{path}.ff_context", width, inner)


def rounded_up(number: int, multiple: int) -> int:
    """Return the least multiple that is not below `number`.

    >>> rounded_up(257, 256), rounded_up(256, 256)
    (512, 256)
    """
    return -(-number // multiple) * multiple
