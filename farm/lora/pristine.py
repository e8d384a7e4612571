"""Keeps the weights as the checkpoint has them, so that a patched layer is restored bit for bit and never by arithmetic.

Three places, by memory: `device` keeps a second copy beside the weights (fastest), `host` keeps it in host memory
(pinned where there is a GPU), `file` keeps nothing and reads the mapped checkpoint again. Copies are taken layer by
layer, when a layer is changed for the first time: a job without adapters costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from farm.errors import Permanent
from farm.lora.tensors import MappedFile

Where = Literal["device", "host", "file"]


class Pristine:
    """Unchanged values of parameters by name. Not for several threads."""

    def __init__(self, where: Where, files: Mapping[str, Sequence[Path]] | None = None) -> None:
        self.where = where
        self._copies: dict[str, Tensor] = {}
        #: parameter name -> the file that has it
        self._sources: dict[str, tuple[MappedFile, str]] = {}
        self._verified: set[str] = set()
        for component, paths in (files or {}).items() if where == "file" else ():
            for path in paths:
                mapped = MappedFile(path)
                self._sources |= {f"{component}.{key}": (mapped, key) for key in mapped.header.tensors}

    @property
    def bytes(self) -> int:
        """Memory that the copies take."""
        return sum(copy.numel() * copy.element_size() for copy in self._copies.values())

    def keep(self, name: str, weight: Tensor) -> None:
        """Remember `weight`, which nobody has changed yet, as the parameter `name`. Twice does nothing."""
        if name in self._copies or name in self._verified:
            return
        if name in self._sources and self._file_has(name, weight):
            self._verified.add(name)
            return
        if self.where == "device" or weight.device.type == "cpu":
            self._copies[name] = weight.clone(memory_format=torch.preserve_format)
        else:
            self._copies[name] = torch.empty_like(weight, device="cpu", pin_memory=weight.is_cuda).copy_(
                weight
            )

    def get(self, name: str, like: Tensor) -> Tensor:
        """The remembered value on the device of `like`; not to be written to."""
        found = self._copies.get(name)
        if found is None:
            mapped, key = self._sources[name]
            found = mapped.tensor(key).to(like.dtype)
        if found.dtype != like.dtype or found.shape != like.shape:
            raise Permanent(
                f"{name} became {tuple(like.shape)} {like.dtype} after the engine took it over as "
                f"{tuple(found.shape)} {found.dtype}",
                "load the model again",
            )
        # from pinned memory the host need not wait; the stream orders it before the product that reads it
        return found.to(like.device, non_blocking=True)

    def forget(self, name: str) -> None:
        """Drop the copy of a parameter that has its pristine value now."""
        self._copies.pop(name, None)

    def _file_has(self, name: str, weight: Tensor) -> bool:
        """Whether the checkpoint has exactly these bits: a converted or fused model must not be restored from it."""
        mapped, key = self._sources[name]
        if mapped.header.tensors[key].shape != tuple(weight.shape):
            return False
        return torch.equal(mapped.tensor(key).to(weight.dtype), weight.cpu())
