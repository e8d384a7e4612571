"""`farm queue`: what waits, why and how long; pause and resume, for operators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from farm.cli.context import client
from farm.cli.output import print_json, say, table
from farm.clock import SystemClock
from farm.errors import BadRequest
from farm.jobs.rates import duration

app = typer.Typer(
    help="See what waits and why; pause and resume the queue, a model or a user.", no_args_is_help=True
)

Model = Annotated[str, typer.Option(help="Only jobs with this model.")]
User = Annotated[str, typer.Option(help="Only this user's jobs.")]


@app.command()
def top(
    mine: Annotated[bool, typer.Option("--mine", help="Only your own jobs.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what waits, in the order in which it is expected to start, and why."""
    found = client().get("/queue", {"mine": mine, "limit": limit})
    if json:
        print_json(found)
        return
    say(found["sentence"])
    rows = [
        ("" if row["position"] is None else str(row["position"] + 1), row.get("id") or "somebody's", row["priority"],
         _start(row), row["waiting_because"] or "")
        for row in found["items"]
    ]  # fmt: skip
    table(("#", "job", "priority", "starts", "why it waits"), rows, empty="Nothing waits.")


def _start(row: dict[str, Any]) -> str:
    if row["estimated_start"] is None:
        return "next" if row["state"] == "assigned" else "not known"
    now = SystemClock().now()
    first, low, high = (
        max(0.0, (datetime.fromisoformat(row[name]) - now).total_seconds())
        for name in ("estimated_start", "estimated_low", "estimated_high")
    )
    return f"in {duration(first)} ({duration(low)} to {duration(high)})"


@app.command()
def pause(model: Model = "", user: User = "") -> None:
    """Assign nothing more; what is on a worker goes on."""
    client().post("/queue:pause", _body(model, user))
    say(f"{_words(model, user)} paused. Next: farm queue resume")


@app.command()
def resume(model: Model = "", user: User = "") -> None:
    """Assign again what was paused."""
    client().post("/queue:resume", _body(model, user))
    say(f"{_words(model, user)} resumed.")


@app.command("ls")
def list_pauses(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what is paused."""
    items = client().get("/queue/pauses")["items"]
    if json:
        print_json(items)
        return
    rows = [(row["kind"], row["name"], row["by"], row["at"]) for row in items]
    table(("kind", "name", "by", "since"), rows, empty="Nothing is paused.")


def _body(model: str, user: str) -> dict[str, str]:
    if model and user:
        raise BadRequest("give --model or --user, not both", code="bad_pause")
    return {"kind": "model" if model else "user" if user else "queue", "name": model or user}


def _words(model: str, user: str) -> str:
    return f"The model {model} is" if model else f"Jobs of {user} are" if user else "The queue is"
