"""Adapters: upload a file, have it inspected, get the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farm.client.files import put
from farm.client.http import Client


def upload_adapter(client: Client, path: Path, name: str) -> dict[str, Any]:
    """Upload `path` as the adapter `name`; the farm inspects the file before it accepts it.

    The bytes go straight to the store, or through the farm where the store cannot be reached from here.

    Raises:
        BadRequest: it is no adapter, or damaged; nothing is kept.
    """
    begun = client.post("/loras", {"name": name, "file_name": path.name, "size": path.stat().st_size})
    upload = begun["upload"]
    if put(upload["url"], path, upload["headers"]):
        adapter: dict[str, Any] = client.post(f"/loras/{begun['id']}:complete")
        return adapter
    with path.open("rb") as file:
        response = client.request(
            "POST",
            "/loras",
            files=lambda: {"file": (path.name, _from_start(file), "application/octet-stream")},
            data={"name": name},
            timeout_seconds=600,
        )
    through: dict[str, Any] = response.json()
    return through


def _from_start(file: Any) -> Any:
    file.seek(0)
    return file
