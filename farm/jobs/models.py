"""Base models: registered by the hash of their files, found by name without case, shared by all users of a farm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Model, Worker
from farm.errors import BadRequest, Conflict, NotFound, Problem
from farm.ids import ModelId, new_id
from farm.jobs.spec import near, storable
from farm.models.families import ModelInfo
from farm.models.guidance import further_scales
from farm.models.hires import second_pass_exists


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """What submission needs of a model."""

    id: str
    name: str
    family: str
    sha256: str
    configs: Mapping[str, Any]
    defaults: Mapping[str, Any]
    bytes: int


def register_model(
    session: Session,
    owner_id: str,
    *,
    name: str,
    info: ModelInfo,
    manifest: Sequence[Mapping[str, Any]],
    sha256: str,
    now: datetime,
) -> ModelId:
    """Write a model whose files are in the store. A name that this owner has goes to the new files; jobs that wait keep
    the old ones.

    Raises:
        Conflict: the name is another owner's.
    """
    known = session.scalar(select(Model).where(Model.name_key == name.casefold()))
    if known is not None:
        if known.owner_id != owner_id:
            raise Conflict(
                f"there is a model {known.name!r} of another user already",
                "choose another name",
                code="name_taken",
            )
        if known.sha256 == sha256:
            return ModelId(known.id)
        _retire(known, now)
        session.flush()
    model = Model(
        id=new_id("model", now),
        owner_id=owner_id,
        name=name,
        name_key=name.casefold(),
        family=info.family,
        sha256=sha256,
        manifest=[dict(row) for row in manifest],
        configs={component: dict(config) for component, config in info.configs.items()},
        defaults={
            **info.defaults,
            "limits": dict(info.limits),
            "format": info.format,
            "pipeline": info.pipeline,
        },
        bytes=info.bytes,
        created_at=now,
        deleted_at=None,
    )
    session.add(model)
    session.flush()
    return ModelId(model.id)


def find(session: Session, name: str | None) -> ModelRow:
    """The model of this name; without a name the newest one.

    Raises:
        BadRequest: no such model; the hint names near ones.
    """
    query = select(
        Model.id, Model.name, Model.family, Model.sha256, Model.configs, Model.defaults, Model.bytes
    ).where(Model.deleted_at.is_(None))
    if name is None:
        query = query.order_by(Model.id.desc()).limit(1)
    else:
        query = query.where(Model.name_key == name.casefold())
    row = session.execute(query).one_or_none() if name is None or storable(name) else None
    if row is not None:
        return ModelRow(**row._mapping)
    known = session.scalars(select(Model.name).where(Model.deleted_at.is_(None)).order_by(Model.name)).all()
    message = "this farm has no model yet" if not known else f"unknown model {name!r}"
    hint = near(name or "", known) or (
        f"there are {', '.join(known[:10])}" if known else "add one with `farm models add`"
    )
    raise BadRequest.of((Problem(code="unknown_model", message=message, hint=hint, pointer="/model"),))


def exists(session: Session, name: str) -> bool:
    """Whether there is, or ever was, a model of this name."""
    wanted = name.casefold()
    return any(known.casefold() == wanted for known in session.scalars(select(Model.name)))


def list_models(session: Session) -> list[dict[str, Any]]:
    """All models as `model_view` has them, by name."""
    rows = session.scalars(select(Model).where(Model.deleted_at.is_(None)).order_by(Model.name_key)).all()
    hot = _hot_on(session)
    return [_view(row, hot) for row in rows]


def model_view(session: Session, model_id: str) -> dict[str, Any]:
    """One model: id, name, family, sha256, bytes, defaults, limits, further_scales, second_pass, files, created_at,
    hot_on.

    Raises:
        NotFound: no such model.
    """
    return _view(_get(session, model_id), _hot_on(session))


def delete_model(session: Session, owner_id: str, model_id: str, now: datetime) -> None:
    """Delete it by name; its files stay while jobs need them.

    Raises:
        NotFound: no such model of this owner.
    """
    model = _get(session, model_id)
    if model.owner_id != owner_id:
        raise _no_model()
    _retire(model, now)
    session.flush()


def _retire(model: Model, now: datetime) -> None:
    model.deleted_at = now
    model.name_key = f"{model.name_key}\n{model.id}"


def _get(session: Session, model_id: str) -> Model:
    model = session.scalar(select(Model).where(Model.id == model_id, Model.deleted_at.is_(None)))
    if model is None:
        raise _no_model()
    return model


def _hot_on(session: Session) -> dict[str, list[str]]:
    """Names of workers that have a model loaded, by model key."""
    found: dict[str, list[str]] = {}
    for name, report in session.execute(
        select(Worker.name, Worker.report).where(Worker.state != "gone").order_by(Worker.name)
    ):
        for key in report.get("models", ()):
            found.setdefault(key, []).append(name)
    return found


def _view(model: Model, hot: Mapping[str, list[str]]) -> dict[str, Any]:
    defaults = dict(model.defaults)
    limits = defaults.pop("limits", {})
    return {
        "id": model.id,
        "name": model.name,
        "family": model.family,
        "sha256": model.sha256,
        "bytes": model.bytes,
        "format": defaults.pop("format", ""),
        "pipeline": defaults.pop("pipeline", ""),
        "defaults": defaults,
        "limits": limits,
        "second_pass": second_pass_exists(model.configs),
        "further_scales": list(further_scales(model.family, model.configs)),
        "files": len(model.manifest),
        "owner": model.owner_id,
        "created_at": model.created_at,
        "hot_on": hot.get(model.sha256, []),
    }


def _no_model() -> NotFound:
    return NotFound("no such model", "GET /api/v1/models lists all", code="no_model")
