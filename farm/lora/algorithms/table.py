"""Algorithm word -> how its tensors become a Delta."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from farm.lora.algorithms import dora, full, loha, lokr, lora, norm
from farm.lora.delta import Delta, LayerTensors


def _dora(layer: LayerTensors) -> Delta:
    return dora.wrap(layer, lora.read(layer))


READERS: Mapping[str, Callable[[LayerTensors], Delta]] = {
    "lora": lora.read,
    "locon": lora.read,
    "dora": _dora,
    "loha": loha.read,
    "lokr": lokr.read,
    "full": full.read,
    "norm": norm.read,
}
#: suffixes that each algorithm uses; a file with others beside them is refused, never half applied
SUFFIXES: Mapping[str, frozenset[str]] = {
    "lora": lora.SUFFIXES,
    "locon": lora.SUFFIXES,
    "dora": lora.SUFFIXES | dora.SUFFIXES,
    "loha": loha.SUFFIXES,
    "lokr": lokr.SUFFIXES,
    "full": full.SUFFIXES,
    "norm": norm.SUFFIXES,
}
