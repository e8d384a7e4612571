"""Models of all families, added as `farm models add` adds them, take jobs: defaults, limits, samplers, experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from farm.errors import BadRequest
from farm.ids import UserId
from farm.jobs import ingest, models
from farm.jobs.fitting import layout_of
from farm.jobs.limits import Limits
from farm.jobs.submit import prepare
from farm.models.families import describe
from farm.store.s3 import Store
from tests.support.jobs import NOW, OWNER
from tests.support.jobs import seed as seed_users
from tests.unit.models import hollow

Sessions = sessionmaker[Session]


@pytest.fixture
def farm(sessions: Sessions, store: Store, tmp_path: Path) -> Sessions:
    """A farm that has every hollow model."""
    seed_users(sessions, model=False)
    for name, model in hollow.MODELS.items():
        ingest.add_model(sessions, store, UserId(OWNER), hollow.write(tmp_path / name, model), name, NOW)
    return sessions


def test_every_family_takes_jobs(farm: Sessions, tmp_path: Path) -> None:
    for name in hollow.MODELS:
        info = describe(tmp_path / name)
        with farm() as session:
            row = models.find(session, name)
            found = prepare(session, OWNER, {"prompt": "a fox", "model": name}, limits=Limits())
        assert (row.family, row.configs) == (info.family, info.configs)
        assert layout_of(row).denoisers == info.denoisers
        spec = found.spec
        assert (spec.width, spec.steps, spec.sampler) == tuple(
            info.defaults[field] for field in ("width", "steps", "sampler")
        )


def test_what_a_model_cannot_do_is_told_with_what_it_can(farm: Sessions) -> None:
    def problems(**asked: Any) -> list[str]:
        with farm() as session, pytest.raises(BadRequest) as caught:
            prepare(session, OWNER, {"prompt": "a fox", **asked}, limits=Limits())
        return [f"{problem.message}: {problem.hint}" for problem in caught.value.problems]

    assert problems(model="flux.1 dev", sampler="euler a") == [
        "Euler a does not fit a flux1 model, which predicts flow: one of Flow Euler, UniPC"
    ]
    assert problems(model="flux.1 dev", width=1000) == ["width: 1000 is no multiple of 16: 992 or 1008 is"]
    assert problems(model="sd3.5 large", height=3088) == ["height: 3088 pixels: give 64 to 3072"]
    assert problems(model="ltx video", width=720) == ["width: 720 is no multiple of 32: 704 or 736 is"]
