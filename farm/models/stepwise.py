"""Families whose jobs are sampled step by step by Farm's own machine, and so can be saved and gone on with elsewhere."""

from __future__ import annotations

#: the same as `farm.models.denoisers.DENOISERS` has, without torch
STEPWISE = frozenset({"sd1", "sd2", "sdxl", "demo", "sd3", "flux1", "qwenimage", "zimage", "wan"})
