"""Random passwords of the embedded stack, made once and kept in the data folder, readable by its owner only."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

NAMES = ("redis_password", "s3_access_key", "s3_secret_key", "postgres_password", "session_key")


def load_or_make(folder: Path) -> dict[str, str]:
    """The secrets kept in `folder/secrets.json`; missing ones are made."""
    path = folder / "secrets.json"
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    made = {name: kept.get(name) or secrets.token_hex(24) for name in NAMES}
    if made != kept:
        write_private(path, json.dumps(made, indent=1))
    return made


def write_private(path: Path, text: str) -> None:
    """Write atomically with mode 0600: readers see the old text or the new one, others see nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
