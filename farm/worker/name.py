"""The name of a worker: unique on this machine, and the same after a restart, so that its id stays the same too."""

from __future__ import annotations

import fcntl
import re
import socket
from pathlib import Path
from typing import BinaryIO

from farm.errors import Conflict

_MOST = 100


def take_name(wanted: str, device: str, folder: Path) -> tuple[str, BinaryIO]:
    """A name, and the lock that keeps it this process' own as long as it is open.

    `wanted` empty: the host's name and the device, with a number where several workers share both.

    Raises:
        Conflict: another process of this machine has the wanted name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if wanted:
        lock = _lock(folder, wanted)
        if lock is None:
            raise Conflict(f"a worker named {wanted!r} runs on this machine already", "give it another name")
        return wanted, lock
    base = f"{socket.gethostname().split('.')[0]}-{device.replace(':', '')}"
    for number in range(1, _MOST):
        name = base if number == 1 else f"{base}-{number}"
        if (lock := _lock(folder, name)) is not None:
            return name, lock
    raise Conflict(f"{_MOST} workers run on this machine already", "set FARM_WORKER_NAME")


def _lock(folder: Path, name: str) -> BinaryIO | None:
    file = (folder / (re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100] + ".lock")).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
