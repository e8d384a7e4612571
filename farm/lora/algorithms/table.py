"""Algorithm word -> how its tensors become a Delta; which tensors, `farm.lora.formats.applied` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from farm.lora.algorithms import boft, dora, full, glora, ia3, loha, lokr, lora, norm, oft
from farm.lora.delta import Delta, LayerTensors


def _dora(layer: LayerTensors) -> Delta:
    return dora.wrap(layer, lora.read(layer))


READERS: Mapping[str, Callable[[LayerTensors], Delta]] = {
    "lora": lora.read,
    "locon": lora.read,
    "dora": _dora,
    "loha": loha.read,
    "lokr": lokr.read,
    "glora": glora.read,
    "ia3": ia3.read,
    "oft": oft.read,
    "boft": boft.read,
    "full": full.read,
    "norm": norm.read,
}
