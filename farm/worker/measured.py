"""Effects whose time is measured: downloads and the parsing of adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from farm.clock import Clock
from farm.lora.layout import Layout
from farm.lora.tensors import Adapter
from farm.worker.effects import Effects
from farm.worker.rates import Rates


def measured(effects: Effects, rates: Rates, clock: Clock) -> Effects:
    """`effects`, of which `rates` learns how fast files come and adapters are parsed."""

    def fetch(sha256: str, path: Path) -> None:
        began = clock.monotonic()
        effects.fetch(sha256, path)
        rates.fetched(path.stat().st_size, clock.monotonic() - began)

    def load_adapter(path: Path, layout: Layout, sha256: str, name: str) -> Adapter:
        began = clock.monotonic()
        adapter = effects.load_adapter(path, layout, sha256, name)
        rates.adapters_parsed(1, clock.monotonic() - began)
        return adapter

    return replace(effects, fetch=fetch, load_adapter=load_adapter)
