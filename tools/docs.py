"""Write the reference pages that are made from the code; `--check` fails when one is out of date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from farm.cli.main import app
from farm.lora.formats.detect import family_name
from farm.models.layouts import known
from farm.models.layouts.classes import DENOISERS
from farm.models.registry import PIPELINES, Pipeline
from farm.settings import Settings

ROOT = Path(__file__).parent.parent
NOTE = "<!-- made by script/docs; change the code, not this page -->\n\n"


def settings_page() -> str:
    """One table of every setting."""
    lines = [
        "# Settings\n",
        NOTE,
        "Each is an environment variable. A wrong value stops the process with a sentence that names it.\n\n",
        "| variable | default | meaning |\n| --- | --- | --- |\n",
    ]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `FARM_{name.upper()}` | {_default(field.default)} | {field.description} |\n")
    return "".join(lines)


def _default(value: Any) -> str:
    text = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    return "" if text in ("", None) else f"`{text}`"


def command_line_page() -> str:
    """Every command with its arguments and options."""
    lines = ["# Command line\n", NOTE, "Exit codes: 0 done, 1 failed, 2 bad input (one line on stderr).\n"]
    _describe(typer.main.get_command(app), "farm", lines)
    return "".join(lines)


def _describe(command: Any, path: str, lines: list[str]) -> None:
    context = command.context_class(command, info_name=path)
    children = getattr(command, "commands", None)
    if children:
        for name in sorted(children):
            _describe(children[name], f"{path} {name}", lines)
        return
    usage = " ".join(command.collect_usage_pieces(context))
    lines.append(f"\n## `{path}`\n\n{(command.help or '').strip()}\n\n```\n{path} {usage}\n```\n")
    rows = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    if rows:
        lines.append("\n| option | meaning |\n| --- | --- |\n")
        lines += [f"| `{left.replace('|', '/')}` | {right} |\n" for left, right in rows]


def model_families_page() -> str:
    """One table of the pipelines whose folders Farm takes."""
    lines = [
        "# Model families\n",
        NOTE,
        "Farm takes diffusers folders of these pipelines (`farm models add DIR`), Stable Diffusion 1.5 and XL also as one\n"
        "checkpoint file. Layers of a model are known from its configs alone, so an adapter is checked against them when a\n"
        "job is submitted. A tag reaches every layer of the denoiser and, by `te`, of the text encoders below; language\n"
        "models are laid out without their head and without the half that sees pictures, as no prompt passes them.\n\n"
        "Blocks are those of the class at its default size; a model with more layers has more. In a UNet `in`, `mid` and `out` are its own parts, in a transformer the\n"
        "first, second and last third of the blocks; `blocks=` counts them from 0 in this order. What lies outside\n"
        "(embedders, refiners, the last projection) follows `in`.\n\n"
        "What a job gets where it says nothing is the publisher's advice as far as a folder tells which model it is. Where\n"
        "it does not (Z-Image or its Turbo, distilled variants), write your own into model_index.json, such as\n"
        '`"_farm_defaults": {"steps": 50, "guidance_scale": 4.0}`, before you add the model.\n\n'
        "| family | pipeline | denoiser | text encoders | blocks | makes |\n| --- | --- | --- | --- | --- | --- |\n",
    ]
    for name, pipeline in PIPELINES.items():
        encoders = ", ".join(" or ".join(classes) for classes in pipeline.encoders.values())
        denoiser = pipeline.denoiser + (" (two experts: high, low)" if len(pipeline.denoisers) > 1 else "")
        row = (_families(name, pipeline), name, denoiser, encoders, _blocks(name, pipeline))
        lines.append(f"| {' | '.join(row)} | {'videos' if pipeline.video else 'pictures'} |\n")
    return "".join(lines)


def _families(name: str, pipeline: Pipeline) -> str:
    words = [pipeline.family] if pipeline.family else ["sdxl"] if "XL" in name else ["sd1", "sd2"]
    return ", ".join(f"{family_name(word)} (`{word}`)" for word in words)


def _blocks(name: str, pipeline: Pipeline) -> str:
    """Runs of labels: `D00-D18, S00-S37`."""
    runs: dict[str, list[str]] = {}
    for label in DENOISERS[pipeline.denoiser].labels(known.SDXL["unet"] if "XL" in name else {}):
        runs.setdefault(label.rstrip("0123456789"), []).append(label)
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs.values())


PAGES = {
    "docs/reference/settings.md": settings_page,
    "docs/reference/command-line.md": command_line_page,
    "docs/reference/model-families.md": model_families_page,
}


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for name, make in PAGES.items():
        path, text = ROOT / name, make()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in stale:
        print(f"{name} {'is out of date: run script/docs' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
