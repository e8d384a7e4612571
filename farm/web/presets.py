"""Presets: named parts of a job's spec that a person keeps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from farm.db.models import Preset
from farm.db.rows import changed
from farm.errors import BadRequest, NotFound
from farm.ids import new_id

MOST = 200


def as_dict(preset: Preset) -> dict[str, Any]:
    return {"id": preset.id, "name": preset.name, "spec": preset.spec, "created_at": preset.created_at}


def list_presets(session: Session, owner_id: str) -> list[dict[str, Any]]:
    """All presets of one person, by name."""
    rows = session.scalars(select(Preset).where(Preset.owner_id == owner_id).order_by(Preset.name)).all()
    return [as_dict(row) for row in rows]


def save_preset(
    session: Session, owner_id: str, name: str, spec: dict[str, Any], now: datetime
) -> dict[str, Any]:
    """Keep `spec` under `name`; a preset of that name gets the new spec.

    Raises:
        BadRequest: too many presets.
    """
    rows = session.scalars(select(Preset).where(Preset.owner_id == owner_id).limit(MOST + 1)).all()
    preset = next((row for row in rows if row.name == name), None)
    if preset is None:
        if len(rows) >= MOST:
            raise BadRequest(f"there are {MOST} presets already", "delete one first", code="too_many_presets")
        preset = Preset(id=new_id("preset", now), owner_id=owner_id, name=name, spec=spec, created_at=now)
        session.add(preset)
    else:
        preset.spec = spec
    session.flush()
    return as_dict(preset)


def delete_preset(session: Session, owner_id: str, preset_id: str) -> None:
    """Forget a preset.

    Raises:
        NotFound: no such preset of this person.
    """
    gone = session.execute(delete(Preset).where(Preset.id == preset_id, Preset.owner_id == owner_id))
    if changed(gone) != 1:
        raise NotFound("no such preset", "GET /api/v1/presets lists yours", code="no_preset")
