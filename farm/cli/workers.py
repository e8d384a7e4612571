"""`farm workers`: the fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from farm.cli.context import client
from farm.cli.output import print_json, say, size, table

app = typer.Typer(help="The fleet.", no_args_is_help=True)


@app.command("ls")
def list_workers(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List workers."""
    items = client().get("/workers")["items"]
    if json:
        print_json(items)
        return
    rows = [
        (row["name"], row["state"], row["device_name"] or row["device"], size(row["memory_free"] or 0),
         len(row["adapters"]), " ".join(row["tags"]), ", ".join(job["id"] for job in row["jobs"]))
        for row in items
    ]  # fmt: skip
    table(
        ("name", "state", "device", "free", "adapters hot", "tags", "renders"), rows,
        empty="No worker is up. Next: farm worker",
    )  # fmt: skip


@app.command()
def drain(name: str) -> None:
    """Let a worker finish what it has and give it nothing new."""
    client().post(f"/workers/{name}:drain", {})
    say(f"{name} drains.")


@app.command()
def resume(name: str) -> None:
    """Give work to a drained worker again."""
    client().post(f"/workers/{name}:resume", {})
    say(f"{name} takes work again.")


@app.command()
def reload(name: str) -> None:
    """Let a worker drop its models and adapters and load them afresh with its next job."""
    client().post(f"/workers/{name}:reload", {})
    say(f"{name} loads its model afresh with the next job.")
