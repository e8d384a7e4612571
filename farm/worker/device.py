"""The device of a worker: which one, how much memory it has, and what an out-of-memory error of it looks like."""

from __future__ import annotations

import gc
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from farm.errors import BadRequest

_UNITS = {"B": 1, "BYTES": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_TRIED = re.compile(r"(?:tried to allocate|allocate)\s+([0-9.]+)\s*([A-Za-z]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """`name` is torch's: cpu, cuda:0, mps."""

    name: str
    #: as its vendor calls it
    title: str
    #: bytes; of the host, for a CPU
    memory_total: int

    @property
    def is_cuda(self) -> bool:
        return self.name.startswith("cuda")

    def memory_free(self) -> int:
        """Bytes that a job may take: what is free, and on a GPU what torch holds in reserve."""
        if not self.is_cuda:
            return int(psutil.virtual_memory().available)
        free, _ = torch.cuda.mem_get_info(self.name)
        reserve = torch.cuda.memory_reserved(self.name) - torch.cuda.memory_allocated(self.name)
        return int(free + reserve)

    def wait(self) -> None:
        """Until the device has done what it was told, so that its seconds can be counted."""
        if self.is_cuda:
            torch.cuda.synchronize(self.name)

    def watch_memory(self) -> int:
        """Bytes that torch has on the device now, for `needed_memory`; 0 where nobody counts, as on a CPU."""
        if not self.is_cuda:
            return 0
        torch.cuda.reset_peak_memory_stats(self.name)
        return int(torch.cuda.memory_allocated(self.name))

    def needed_memory(self, before: int) -> int:
        """Most bytes that there were since, above what `watch_memory` gave."""
        return int(torch.cuda.max_memory_allocated(self.name)) - before if self.is_cuda else 0

    def give_back_memory(self) -> None:
        """Free what nothing refers to any more."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()


def pick_device(wanted: str) -> Device:
    """The device that the setting names; `auto` takes the first GPU, or the CPU.

    Raises:
        BadRequest: there is no such device here.
    """
    cuda = torch.cuda.is_available()
    name = ("cuda:0" if cuda else "cpu") if wanted == "auto" else wanted
    if name == "cuda":
        name = "cuda:0"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if cuda else 0
        number = name.removeprefix("cuda:")
        if not number.isdigit() or int(number) >= count:
            raise BadRequest(
                f"FARM_DEVICE: there is no {name} here",
                f"this machine has {count} CUDA device{'' if count == 1 else 's'}; `cpu` always works",
                code="bad_setting",
            )
        facts = torch.cuda.get_device_properties(name)
        return Device(name=name, title=facts.name, memory_total=int(facts.total_memory))
    if name == "cpu" or (name == "mps" and torch.backends.mps.is_available()):
        return Device(name=name, title=_cpu_title(), memory_total=int(psutil.virtual_memory().total))
    raise BadRequest(f"FARM_DEVICE: there is no {name} here", "auto, cpu, cuda:0, …", code="bad_setting")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller job might have worked."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "out of memory" in text or "not enough memory" in text
    )


def is_broken(error: BaseException) -> bool:
    """Whether the device is of no use to this process any more: after such errors every CUDA call fails."""
    text = str(error)
    return (
        isinstance(error, RuntimeError)
        and not is_out_of_memory(error)
        and any(word in text for word in ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS_EXECUTION_FAILED"))
    )


def needed_bytes(error: BaseException) -> int | None:
    """What the failing allocation asked for, if the error says so.

    >>> needed_bytes(RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB."))
    1610612736
    """
    match = _TRIED.search(str(error))
    unit = _UNITS.get(match.group(2).upper()) if match else None
    return int(float(match.group(1)) * unit) if match and unit else None


def in_words(size: int) -> str:
    """Bytes for people.

    >>> in_words(1_610_612_736), in_words(700_000)
    ('1.5 GB', '0.7 MB')
    """
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB"


def _cpu_title() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
