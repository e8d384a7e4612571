"""Norm: differences of a normalisation layer's weight and bias, W' = W + s · w_norm, b' = b + s · b_norm (LyCORIS).

Shapes: `w_norm` and `b_norm` (dim,); either may be missing. No alpha.
"""

from __future__ import annotations

from farm.lora.algorithms.full import Dense, stored
from farm.lora.delta import Delta, LayerTensors


def read(layer: LayerTensors) -> Delta:
    return Dense(stored(layer, "w_norm"), layer.bias("b_norm"))
