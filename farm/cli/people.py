"""`farm users` and `farm keys`: who may ask, with which share and which limits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from farm.cli.context import client
from farm.cli.output import print_json, say, table
from farm.errors import BadRequest

users = typer.Typer(help="Users, for admins.", no_args_is_help=True)
keys = typer.Typer(help="API keys.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[
    str, typer.Option(help="Jobs of the user on workers at once; 0: no limit, default: FARM_RUNNING_LIMIT.")
]


@users.command("ls")
def list_users(json: Json = False) -> None:
    """List users with their shares and limits."""
    items = client().get("/users")["items"]
    if json:
        print_json(items)
        return
    rows = [
        (row["name"], row["role"], f"{row['share_weight']:g}", _limit(row["running_limit"], "default"))
        for row in items
    ]
    table(("name", "role", "share", "running at once"), rows, empty="No users.")


@users.command("add")
def add_user(
    name: str,
    role: Annotated[str, typer.Option(help="admin, operator or artist.")] = "artist",
    share: Annotated[float, typer.Option(help="Weight in fair sharing; others have 1.")] = 1.0,
    running_limit: Limit = "default",
) -> None:
    """Add a user, with a first key."""
    farm = client()
    body = {"name": name, "role": role, "share_weight": share} | _read_limit(running_limit)
    user = farm.post("/users", body)
    made = farm.post(f"/users/{user['id']}/keys", {"label": "first key"})
    say(f"{user['name']} is added. The key, told only this once: {made['key']}")


@users.command("set")
def set_user(
    name: str,
    share: Annotated[float | None, typer.Option(help="Weight in fair sharing; others have 1.")] = None,
    running_limit: Limit = "",
) -> None:
    """Change a user's share or limit."""
    body = ({} if share is None else {"share_weight": share}) | _read_limit(running_limit)
    if not body:
        raise BadRequest("there is nothing to set", "give --share or --running-limit", code="nothing_to_set")
    user = client().patch(f"/users/{name}", body)
    limit = _limit(user["running_limit"], "default")
    say(f"{user['name']}: share {user['share_weight']:g}, jobs on workers at once: {limit}.")


@keys.command("ls")
def list_keys(json: Json = False) -> None:
    """List your keys."""
    items = client().get("/keys")["items"]
    if json:
        print_json(items)
        return
    rows = [
        (row["id"], row["prefix"], row["label"], _limit(row["running_limit"], ""), row["revoked_at"])
        for row in items
    ]
    table(("id", "begins with", "label", "running at once", "revoked"), rows, empty="No keys.")


@keys.command("add")
def add_key(
    label: Annotated[str, typer.Argument(help="What it is for.")] = "",
    running_limit: Annotated[
        int | None, typer.Option(help="Jobs sent with it that may be on workers at once.")
    ] = None,
    user: Annotated[str, typer.Option(help="Make it for this user; for admins.")] = "",
    json: Json = False,
) -> None:
    """Make a key; it is told only this once."""
    path = f"/users/{user}/keys" if user else "/keys"
    made = client().post(path, {"label": label, "running_limit": running_limit})
    print_json(made) if json else say(made["key"])


@keys.command("revoke")
def revoke_key(key: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """End one of your keys."""
    client().delete(f"/keys/{key}")
    say(f"{key} is revoked.")


def _limit(value: int | None, none: str) -> str:
    return none if value is None else "no limit" if value == 0 else f"{value}"


def _read_limit(text: str) -> dict[str, Any]:
    if not text:
        return {}
    if text == "default":
        return {"running_limit": None}
    if not text.isdecimal():
        raise BadRequest(
            f"{text!r} is no limit of running jobs", "give a number, 0 or 'default'", code="bad_limit"
        )
    return {"running_limit": int(text)}
