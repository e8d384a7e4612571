"""`farm lora`: adapter files on this machine; needs no farm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from farm.cli.output import console, print_json, say, size, table
from farm.cli.paths import existing, file_and_strength
from farm.clock import SystemClock
from farm.errors import BadRequest
from farm.lora.budget import Budget
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
    model: Annotated[Path, typer.Option(help="Diffusers folder or checkpoint file to start from.")],
    lora: Annotated[list[str], typer.Option(help="FILE[:STRENGTH]; several may be given.")],
    out: Annotated[Path, typer.Option(help="Folder or file to write, as the model is; must not exist.")],
    json: Json = False,
) -> None:
    """Bake adapters into a model: diffusers folder in, folder out; checkpoint file in, file out."""
    from farm.cli.merging import merge_model

    wanted = [file_and_strength(text) for text in lora]
    report = merge_model(existing(model), wanted, out, SystemClock().now())
    if json:
        print_json(report)
        return
    for row in report["adapters"]:
        say(f"{row['file']} at {row['strength']:g}: {row['layers']} layers")
        _print_warnings(row["warnings"])
    say(f"Wrote {out}. Next: farm models add {out}")


@app.command()
def extract(
    model: Annotated[Path, typer.Option(help="Diffusers folder or checkpoint file that the LoRA is for.")],
    out: Annotated[Path, typer.Option(help="File to write; must not exist.")],
    lora: Annotated[list[str] | None, typer.Option(help="FILE[:STRENGTH]; several may be given.")] = None,
    other: Annotated[
        Path | None, typer.Option("--from", help="Instead: a model; the LoRA turns --model into it.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Ranks of every layer.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Share of each layer's energy to keep, such as 0.99; sets its rank.")
    ] = None,
    max_rank: Annotated[int | None, typer.Option(help="With --energy: most ranks of a layer.")] = None,
    json: Json = False,
) -> None:
    """Make one LoRA file of several adapters, or of the difference of two models, and say how near it is."""
    from farm.cli.extracting import extract_adapters, extract_difference

    if bool(lora) == (other is not None):
        raise BadRequest(
            "--lora and --from together" if lora else "neither --lora nor --from was given",
            "give adapter files, or one other model",
            code="missing_source",
        )
    budget = Budget(rank=rank, energy=energy, max_rank=max_rank)
    now = SystemClock().now()
    with _layer_bar(quiet=json) as told:
        if other is not None:
            report = extract_difference(existing(model), existing(other), budget, out, now, told)
        else:
            wanted = [file_and_strength(text) for text in lora or ()]
            report = extract_adapters(existing(model), wanted, budget, out, now, told)
    if json:
        print_json(report)
    else:
        _print_extraction(report)


@contextmanager
def _layer_bar(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    if quiet or not console.is_terminal:
        yield lambda done, count: None
        return
    with Progress(
        TextColumn("layers"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("layers", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def _print_extraction(report: dict[str, Any]) -> None:
    for row in report.get("adapters", ()):
        say(f"{row['file']} at {row['strength']:g}: {row['layers']} layers")
        _print_warnings(row["warnings"])
    total = report["total"]
    ranks = sorted({total["rank_min"], total["rank_max"]})
    say(
        f"{total['layers']} layers, rank {' to '.join(map(str, ranks))}: kept {total['energy']:.4%} of the energy, "
        f"relative error {total['error']:.2e}"
    )
    worst = [
        (row["layer"], row["rank"], f"{row['error']:.2e}") for row in total["worst"] if row["error"] > 1e-6
    ]
    if worst:
        table(("least exact layers", "rank", "error"), worst, empty="")
    say(f"Wrote {report['out']}. Next: farm loras add {report['out']}")


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        say(("note", "yellow"), f" {warning}")


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
