"""`farm queue`: pause and resume, for operators."""

from __future__ import annotations

from typing import Annotated

import typer

from farm.cli.context import client
from farm.cli.output import print_json, say, table
from farm.errors import BadRequest

app = typer.Typer(help="Pause and resume the queue, a model or a user.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="Only jobs with this model.")]
User = Annotated[str, typer.Option(help="Only this user's jobs.")]


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
