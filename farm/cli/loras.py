"""`farm loras`: adapters of a farm, and what a prompt's tags mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from farm.cli.context import client
from farm.cli.lora import existing
from farm.cli.output import compact, print_json, say, size, table
from farm.client.http import Client

app = typer.Typer(help="Adapters of the farm, and what a prompt's tags mean.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ls")
def list_adapters(
    query: Annotated[str, typer.Argument(help="Words to search for.")] = "", json: Json = False
) -> None:
    """List adapters."""
    items = list(client().pages("/loras", {"q": query}))
    if json:
        print_json(items)
        return
    rows = [
        (
            row["name"],
            row["type"],
            row["base_model"],
            size(row["size"]),
            ", ".join(row["trigger_words"]),
            row["uses"],
        )
        for row in items
    ]
    table(
        ("name", "type", "base", "size", "trigger words", "uses"), rows,
        empty="No adapters yet. Next: farm loras add FILE.safetensors",
    )  # fmt: skip


@app.command()
def add(
    file: Path,
    name: Annotated[str, typer.Option(help="Name in tags; the file's name when absent.")] = "",
    json: Json = False,
) -> None:
    """Upload an adapter; it is inspected before it is accepted."""
    from farm.client.adapters import upload_adapter

    adapter = upload_adapter(client(), existing(file), name or file.stem)
    if json:
        print_json(adapter)
        return
    for problem in adapter.get("problems", ()):
        say(("note", "yellow"), f" {problem}")
    say(
        f"Added {adapter['name']} ({adapter['type']}, {adapter['base_model']}). Use: <lora:{adapter['name']}:1>"
    )


@app.command()
def info(name: str, json: Json = False) -> None:
    """Show one adapter."""
    adapter = _find(client(), name)
    if json:
        print_json(adapter)
        return
    table(("", ""), [(key, value) for key, value in adapter.items() if value not in (None, "", [])], empty="")


@app.command()
def rm(name: str) -> None:
    """Remove an adapter; finished jobs keep their record of it."""
    farm = client()
    farm.delete(f"/loras/{_find(farm, name)['id']}")
    say(f"Removed {name}.")


@app.command()
def explain(
    prompt: str,
    model: Annotated[str, typer.Option(help="A model of the farm, or a diffusers folder.")] = "demo",
    steps: Annotated[int, typer.Option(help="Steps of the run.")] = 20,
    lora: Annotated[list[Path] | None, typer.Option(help="Adapter files, when no farm runs.")] = None,
    prompt_only: Annotated[
        bool, typer.Option(help="Any adapter name, a plain UNet; no model and no farm needed.")
    ] = False,
    hr: Annotated[
        bool, typer.Option("--hr", help="Of a second pass of so many steps, where hr, hrte and hrunet count.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the strength of each adapter per component, block and step."""
    from farm.cli.explaining import explain_prompt

    explained = explain_prompt(prompt, model, steps, lora or [], prompt_only=prompt_only, hires=hr)
    if json:
        print_json(explained)
        return
    say((explained["prompt"], "bold"))
    for adapter in explained["adapters"]:
        facts = [
            adapter.get("type"),
            adapter.get("base_model"),
            ", ".join(adapter.get("trigger_words") or []),
        ]
        say("\n", (adapter["name"], "bold"), "  ", (" · ".join(fact for fact in facts if fact), "dim"))
        rows = [
            (component, block, compact(strengths))
            for component, blocks in adapter["strengths"].items()
            for block, strengths in blocks.items()
        ]
        table(
            ("component", "block", f"strength (steps, of {explained['steps']})"),
            rows,
            empty="no strength anywhere",
        )
    for warning in explained["warnings"]:
        say(("note", "yellow"), f" {warning}")


def _find(farm: Client, name: str) -> dict[str, Any]:
    adapter: dict[str, Any] = farm.get(f"/loras/{name}")
    return adapter
