"""`farm lora`: adapter files on this machine; needs no farm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from farm.cli.output import print_json, say, size, table
from farm.errors import BadRequest
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import AdapterInfo
from farm.lora.formats.inspect import inspect as inspect_header

app = typer.Typer(help="Adapter files on this machine.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def inspect(file: Path, json: Json = False) -> None:
    """Say what an adapter file is, from its header alone."""
    info = inspect_header(read_header(existing(file)), file.name)
    if json:
        print_json(info.as_dict())
    else:
        _print_info(file, info)


@app.command()
def merge(
    model: Annotated[Path, typer.Option(help="Diffusers folder to start from.")],
    lora: Annotated[list[str], typer.Option(help="FILE[:STRENGTH]; several may be given.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    json: Json = False,
) -> None:
    """Bake adapters into a diffusers folder: folder in, folder out."""
    from farm.cli.merging import merge_folder

    wanted = [file_and_strength(text) for text in lora]
    report = merge_folder(existing(model), wanted, out)
    if json:
        print_json(report)
        return
    for row in report["adapters"]:
        say(f"{row['file']} at {row['strength']:g}: {row['layers']} layers")
    say(f"Wrote {out}. Next: farm models add {out}")


def existing(path: Path) -> Path:
    if not path.exists():
        raise BadRequest(f"{path} does not exist", "check the path", code="no_such_file")
    return path


def file_and_strength(text: str) -> tuple[Path, float]:
    """`ink.safetensors:0.8` as path and strength; the strength is 1 when absent.

    Raises:
        BadRequest: the strength is no number, or the file does not exist.
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return existing(Path(text)), 1.0
    try:
        return existing(Path(path)), float(number)
    except ValueError:
        raise BadRequest(
            f"--lora {text}: {number!r} is no strength", "write FILE:0.8", code="bad_strength"
        ) from None


def _print_info(file: Path, info: AdapterInfo) -> None:
    rows: list[tuple[str, Any]] = [
        ("file", f"{file.name}, {size(file.stat().st_size)}"),
        (
            "type",
            info.type
            if len(info.types) < 2
            else f"{info.type} (also {', '.join(t for t in info.types if t != info.type)})",
        ),
        ("base model", info.base_model),
        ("naming", info.scheme),
        ("ranks", ", ".join(map(str, info.ranks))),
        ("layers", info.layers),
        ("components", ", ".join(info.components)),
        ("trigger words", ", ".join(info.trigger_words) or "none in the file"),
        ("title", info.title),
    ]
    rows += [("expert", info.expert)] if info.expert else []
    rows += [("problem", problem) for problem in info.problems]
    table(("", ""), rows, empty="")
