"""`farm models`: base models of the farm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farm.cli.context import client
from farm.cli.direct import open_farm
from farm.cli.output import print_json, say, size, table
from farm.cli.paths import existing
from farm.clock import SystemClock
from farm.jobs.ingest import add_model
from farm.jobs.users import ensure_single_user

app = typer.Typer(help="Base models of the farm.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ls")
def list_models(json: Json = False) -> None:
    """List base models."""
    items = client().get("/models")["items"]
    if json:
        print_json(items)
        return
    rows = [(row["name"], row["family"], size(row["bytes"]), row["sha256"][:12]) for row in items]
    table(("name", "family", "size", "sha256"), rows, empty="No models yet. Next: farm models add FOLDER")


@app.command()
def add(
    source: Annotated[
        Path, typer.Argument(help="Diffusers folder, or a single-file .safetensors checkpoint.")
    ],
    name: Annotated[str, typer.Option(help="Name; the folder's name when absent.")] = "",
    json: Json = False,
) -> None:
    """Register a base model: its files go to the store, workers fetch them from there."""
    existing(source)
    now = SystemClock().now()
    farm = open_farm()

    def told(path: str, count: int) -> None:
        if not json:
            say((f"{path}, {size(count)}", "dim"))

    with farm.sessions.begin() as session:
        owner = ensure_single_user(session, now)[0]
    model_id = add_model(farm.sessions, farm.store, owner, source, name or source.stem, now, told)
    if json:
        print_json({"id": model_id, "name": name or source.stem})
    else:
        say(f'Added {name or source.stem}. Next: farm submit "…" --model {name or source.stem}')
