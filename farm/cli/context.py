"""Where the farm is: an address and a key from the environment, or from the info file in the data folder."""

from __future__ import annotations

import json

from farm.client.http import Client
from farm.errors import BadRequest
from farm.settings import Settings, load_settings


def find_farm(settings: Settings | None = None) -> tuple[str, str]:
    """(address, key) of the running farm.

    Raises:
        BadRequest: none is known; the hint says how to start one.
    """
    settings = settings or load_settings()
    if settings.url:
        return settings.url, settings.api_key.get_secret_value()
    path = settings.data_dir / "farm.json"
    if not path.exists():
        raise BadRequest(
            "no running farm was found",
            f"start one with `farm up` in this folder (it writes {path}), or set FARM_URL and FARM_API_KEY",
            code="no_farm",
        )
    info = json.loads(path.read_text())
    return info["url"], info["api_key"]


def client() -> Client:
    """A client of the running farm."""
    url, key = find_farm()
    return Client(url, key)
