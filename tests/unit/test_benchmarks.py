"""Benchmarks can be imported and started; what they measure is nobody's test."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import benchmarks

NAMES = sorted(path.stem for path in Path(benchmarks.__file__).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_starts(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").main)
