"""`farm batch`: many jobs in one request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from farm.cli.context import client
from farm.cli.errors import EXIT_FAILED
from farm.cli.output import console, print_json, say, table
from farm.cli.paths import existing
from farm.client.jobs import submit_batch, wait_for_batch
from farm.errors import BadRequest

app = typer.Typer(help="Many jobs in one request.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def submit(
    file: Annotated[
        Path, typer.Argument(help=".jsonl (a job a line), .csv (a job a row) or .json (a matrix).")
    ],
    name: Annotated[str, typer.Option(help="Name shown on the Batches page.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row; queue nothing.")] = False,
    json: Json = False,
) -> int:
    """Queue a file of jobs: all of them, or none and a list of what is wrong."""
    farm = client()
    try:
        batch = submit_batch(farm, existing(file), name=name or file.stem, dry_run=dry_run)
    except BadRequest as error:
        if not json:
            rows = [(problem.row + 1, problem.sentence()) for problem in error.problems if problem.row >= 0]
            table(("row", "what is wrong"), rows, empty="Nothing was queued.")
        raise
    if watch and not dry_run:
        batch = _watch(farm, batch["id"])
    if json:
        print_json(batch)
    elif dry_run:
        say(f"{batch['total']} jobs are right. Nothing was queued.")
    else:
        counts = "  ".join(f"{count} {state}" for state, count in batch["states"].items() if count)
        say(f"{batch['id']}: {counts}")
    return EXIT_FAILED if batch.get("states", {}).get("failed") else 0


@app.command("ls")
def list_batches(json: Json = False) -> None:
    """List batches, newest first."""
    items = client().get("/batches")["items"]
    if json:
        print_json(items)
        return
    rows = [
        (
            row["id"],
            row["name"],
            row["total"],
            row["states"].get("succeeded", 0),
            row["states"].get("failed", 0),
        )
        for row in items
    ]
    table(
        ("id", "name", "jobs", "done", "failed"),
        rows,
        empty="No batches yet. Next: farm batch submit jobs.jsonl",
    )


@app.command()
def cancel(batch: str) -> None:
    """Cancel what has not finished."""
    answer = client().post(f"/batches/{batch}:cancel", {})
    say(f"{batch}: {answer['cancelled']} jobs cancelled")


@app.command()
def retry(batch: str) -> None:
    """Queue again what has failed."""
    answer = client().post(f"/batches/{batch}:retry-failed", {})
    say(f"{batch}: {answer['retried']} jobs wait again")


def _watch(farm: Any, batch: str) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("rendering", total=None)

        def moved(now: dict[str, Any]) -> None:
            ended = sum(now["states"].get(state, 0) for state in ("succeeded", "failed", "cancelled"))
            progress.update(task, completed=ended, total=now["total"])

        return wait_for_batch(farm, batch, on_change=moved)
