"""Users and API keys over HTTP: who may ask, with which share and which limits."""

from __future__ import annotations

from flask import Response, jsonify
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from farm.errors import FarmError
from farm.jobs import users
from farm.web.api.catalog_schema import KeyList, KeyMade, UserList, UserView
from farm.web.api.common import Strict, blueprint
from farm.web.auth import current_user, key_prefix, require_admin
from farm.web.services import services

api = blueprint("people", "Users and their API keys.")

LIMIT = "Jobs on workers at once"


class UserPath(BaseModel):
    user_id: str = Field(description="Id or name.")


class UserIn(Strict):
    name: str = Field(max_length=100)
    role: str = Field("artist", description="`admin`, `operator` or `artist`.")
    share_weight: float = Field(1.0, description="Weight in fair sharing; others have 1.")
    running_limit: int | None = Field(
        None, description=f"{LIMIT}; 0: no limit, null: `FARM_RUNNING_LIMIT` decides."
    )


class UserPatch(Strict):
    share_weight: float = Field(1.0, description="Weight in fair sharing; others have 1.")
    running_limit: int | None = Field(
        None, description=f"{LIMIT}; 0: no limit, null: `FARM_RUNNING_LIMIT` decides."
    )


class KeyIn(Strict):
    label: str = Field("", max_length=100, description="What it is for.")
    running_limit: int | None = Field(
        None, description=f"{LIMIT}, of those sent with this key; null: no limit of its own."
    )


class KeyPath(BaseModel):
    key_id: str


def _make_key(session: Session, owner_id: str, body: KeyIn) -> tuple[Response, int]:
    if current_user().limited_key is not None and current_user().id == owner_id:
        raise FarmError(
            "a key with a limit cannot make others", "log in with one that has none", code="forbidden"
        )
    plain = users.create_key(
        session, owner_id, body.label, services().now(), running_limit=body.running_limit
    )
    made = next(row for row in users.list_keys(session, owner_id) if row["prefix"] == key_prefix(plain))
    return jsonify({**made, "key": plain}), 201


@api.get("/users", responses={"200": UserList})
def list_users() -> Response:
    """All users. For admins."""
    require_admin()
    with services().sessions() as session:
        return jsonify({"items": users.list_users(session)})


@api.post("/users", responses={"201": UserView})
def add_user(body: UserIn) -> tuple[Response, int]:
    """Add a user; a key is made with POST /users/{id}/keys. For admins."""
    require_admin()
    with services().sessions.begin() as session:
        user_id = users.create_user(
            session, body.name, body.role, services().now(), share_weight=body.share_weight,
            running_limit=body.running_limit,
        )  # fmt: skip
        return jsonify(users.set_user(session, user_id)), 201


@api.patch("/users/<name:user_id>", responses={"200": UserView})
def change_user(path: UserPath, body: UserPatch) -> Response:
    """Change a user's share or limit; what is left out stays. For admins."""
    require_admin()
    with services().sessions.begin() as session:
        return jsonify(users.set_user(session, path.user_id, **body.model_dump(exclude_unset=True)))


@api.post("/users/<name:user_id>/keys", responses={"201": KeyMade})
def add_users_key(path: UserPath, body: KeyIn) -> tuple[Response, int]:
    """Make a key for a user; it is told only this once. For admins."""
    require_admin()
    with services().sessions.begin() as session:
        owner = users.set_user(session, path.user_id)["id"]
        return _make_key(session, owner, body)


@api.get("/keys", responses={"200": KeyList})
def list_keys() -> Response:
    """Your API keys, the revoked ones among them."""
    with services().sessions() as session:
        return jsonify({"items": users.list_keys(session, current_user().id)})


@api.post("/keys", responses={"201": KeyMade})
def add_key(body: KeyIn) -> tuple[Response, int]:
    """Make a key of your own; it is told only this once."""
    with services().sessions.begin() as session:
        return _make_key(session, current_user().id, body)


@api.delete("/keys/<id:key_id>", responses={"204": None})
def revoke_key(path: KeyPath) -> tuple[str, int]:
    """End one of your keys, and the sessions that were opened with it."""
    with services().sessions.begin() as session:
        users.revoke_key(session, current_user().id, path.key_id, services().now())
    return "", 204
