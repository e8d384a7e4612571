"""What a model looks like to an adapter: its components, blocks and layers, without weights (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LayerKind = Literal["linear", "conv", "norm", "embedding"]


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """The part of a model that a tag can address: all layers of a region have the same strength."""

    #: `unet`, `transformer`, `transformer_2`, `text_encoder`, `text_encoder_2`, …
    component: str
    #: `in`, `mid`, `out` in a denoiser; `all` in a text encoder
    block: str
    #: position in `Layout.blocks`; -1 for layers outside any block and for text encoders
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One module with a weight that an adapter may change."""

    component: str
    #: module path inside the component, as diffusers/transformers name it: `down_blocks.0.resnets.0.conv1`
    path: str
    kind: LayerKind
    #: shape of the weight: (out, in) or (out, in/groups, kh, kw); (dim,) for a norm
    shape: tuple[int, ...]
    bias: bool
    block: str
    index: int = -1

    @property
    def name(self) -> str:
        """`component.path`, unique in a layout."""
        return f"{self.component}.{self.path}"

    @property
    def region(self) -> Region:
        return Region(self.component, self.block, self.index)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some outputs of a layer: the rows `start` to `stop - 1` of its weight."""

    #: `Layer.name`
    layer: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """All layers of one model, by `Layer.name`, in the model's own order. Equal to itself alone, so what was worked out
    for one can be kept."""

    #: a `base_model` word: `sd1`, `sdxl`, `demo`, …
    family: str
    denoisers: tuple[str, ...]
    text_encoders: tuple[str, ...]
    #: labels of the denoiser's blocks in order: `IN00` … `M00` … `OUT11` for UNets
    blocks: tuple[str, ...]
    layers: Mapping[str, Layer]
    #: made once: a batch asks for them with each of its prompts
    _regions: tuple[Region, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        regions = tuple(dict.fromkeys(layer.region for layer in self.layers.values()))
        object.__setattr__(self, "_regions", regions)

    @property
    def components(self) -> tuple[str, ...]:
        return self.text_encoders + self.denoisers

    def regions(self) -> tuple[Region, ...]:
        """Every distinct region, in the order of the layers."""
        return self._regions
