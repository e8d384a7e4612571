"""Words and small builders that all layouts share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farm.errors import BadRequest
from farm.lora.layout import Layer, LayerKind

#: A config as the component's config.json holds it.
Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where layers stand: component, block and index in the order of blocks."""

    component: str
    block: str
    index: int = -1

    def linear(self, path: str, into: int, out: int, *, bias: bool = True) -> Layer:
        return self._layer(path, "linear", (out, into), bias)

    def conv(
        self, path: str, into: int, out: int, size: int | Sequence[int], *, bias: bool = True, groups: int = 1
    ) -> Layer:
        """A convolution; `size` is the side of a square kernel or the kernel's shape, of three numbers for video."""
        kernel = (size, size) if isinstance(size, int) else tuple(size)
        return self._layer(path, "conv", (out, into // groups, *kernel), bias)

    def norm(self, path: str, width: int, *, bias: bool = True) -> Layer:
        """A norm with a weight; an RMSNorm has no bias."""
        return self._layer(path, "norm", (width,), bias)

    def embedding(self, path: str, rows: int, width: int) -> Layer:
        return self._layer(path, "embedding", (rows, width), False)

    def _layer(self, path: str, kind: LayerKind, shape: tuple[int, ...], bias: bool) -> Layer:
        return Layer(
            component=self.component,
            path=path,
            kind=kind,
            shape=shape,
            bias=bias,
            block=self.block,
            index=self.index,
        )


def stack(component: str, count: int) -> tuple[Place, ...]:
    """Return the places of a transformer's blocks: in order they are cut into thirds, `in`, `mid`, `out`.

    >>> [place.block for place in stack("transformer", 4)]
    ['in', 'in', 'mid', 'out']
    """
    return tuple(Place(component, ("in", "mid", "out")[index * 3 // count], index) for index in range(count))


def numbered(letter: str, count: int) -> tuple[str, ...]:
    """Return labels of blocks.

    >>> numbered("D", 3)
    ('D00', 'D01', 'D02')
    """
    return tuple(f"{letter}{number:02}" for number in range(count))


def each(value: Any, count: int) -> tuple[Any, ...]:
    """Return `value` once per block: configs give one number for all blocks or a list of one for each.

    >>> each(2, 3)
    (2, 2, 2)
    """
    if isinstance(value, list | tuple):
        if len(value) != count:
            raise BadRequest(f"unet config: {value!r} has {len(value)} entries, the model has {count} blocks")
        return tuple(value)
    return (value,) * count


def require(config: Config, component: str, wanted: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse a config with a variant that we do not lay out.

    Raises:
        BadRequest: names field, found and possible values.
    """
    for field, values in wanted.items():
        found = config.get(field, values[0])
        if found not in values:
            known = " or ".join(repr(value) for value in values)
            raise BadRequest(
                f"{component} config: {field} is {found!r}, Farm knows {known}", code="unsupported_model"
            )


def collect(layers: Iterator[Layer]) -> dict[str, Layer]:
    """Return layers by name, in order."""
    return {layer.name: layer for layer in layers}
