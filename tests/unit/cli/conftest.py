"""The command line as a person uses it: in a folder of its own, with no farm running."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farm.cli.main import run


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Farm = Callable[..., Outcome]


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Farm:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FARM_URL", "FARM_API_KEY", "FARM_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Outcome:
        capsys.readouterr()  # what fixtures printed
        code = run(list(words))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
