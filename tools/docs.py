"""Write the reference pages that are made from the code; `--check` fails when one is out of date."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer

from farm.cli.main import app
from farm.lora.algorithms.table import READERS
from farm.lora.formats import header, shapes
from farm.lora.formats.applied import APPLIED
from farm.lora.formats.detect import family_name
from farm.lora.formats.suffixes import ALIASES
from farm.models.layouts import known
from farm.models.layouts.classes import DENOISERS
from farm.models.registry import PIPELINES, Pipeline
from farm.settings import Settings
from tools import support

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


def adapter_formats_page() -> str:
    """Every algorithm with its formula, source and tensors, and the limits for files."""
    lines = ["# Adapter formats\n", NOTE, _FORMATS_START]
    lines.append("| algorithm | formula | papers | tensors |\n| --- | --- | --- | --- |\n")
    for algorithm, read in READERS.items():
        doc = _doc_of(algorithm, read)
        papers = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in _PAPER.findall(doc))
        tensors = ", ".join(f"`{suffix}`" for suffix in sorted(APPLIED[algorithm]))
        lines.append(f"| {algorithm} | {_first_sentence(doc)} | {papers or 'LyCORIS'} | {tensors} |\n")
    lines.append("\n## The formulas in full\n")
    for module in dict.fromkeys(_module_of(name, read) for name, read in READERS.items()):
        lines.append(f"\n{sys.modules[module].__doc__.strip()}\n")  # type: ignore[union-attr]
    for name in ("peft_rotation", "residual"):
        lines.append(f"\n{sys.modules[f'farm.lora.algorithms.{name}'].__doc__.strip()}\n")  # type: ignore[union-attr]
    lines.append("\n## Spellings\n\n| ours | in files |\n| --- | --- |\n")
    lines += [f"| `{ours}` | {', '.join(f'`{t}`' for t in theirs)} |\n" for ours, theirs in ALIASES.items()]
    limits = {
        "bytes of header": header.MAX_HEADER_BYTES,
        "tensors": header.MAX_TENSORS,
        "bytes of metadata": header.MAX_METADATA_BYTES,
        "bytes of a name": header.MAX_NAME_BYTES,
        "dimensions": header.MAX_DIMENSIONS,
        "rank": shapes.MAX_RANK,
    }
    lines.append(_FORMATS_LIMITS + "| of | at most |\n| --- | --- |\n")
    lines += [f"| {what} | {limit:,} |\n" for what, limit in limits.items()]
    return "".join(lines)


_PAPER = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_FORMATS_START = """What Farm loads from safetensors files, and what it computes: `W` is the checkpoint's weight, `s` the strength, `r` a rank.
Every change is computed in float32 from the checkpoint's weight, whatever the file's type (64, 32, 16 or 8 bits; a
`scale_weight` or `weight_scale` beside an 8-bit tensor multiplies it), and rounded once. `alpha` is one number of any type; when it
is missing it counts as the rank, when it is 0 it switches the change off (in files of LyCORIS it counts as the rank), and when
it is not finite it counts as missing, with a warning. One file may mix algorithms between modules. Matrices and 1x1 kernels may
be stored as either. A tag's `dyn` uses the first ranks only, at the scale of all of them; what has no ranks ignores it. Where
trainers differ away from strength 1, strength 0 is the checkpoint and 1 what was trained.

A tensor that its module's algorithm does not use, a bias for a layer that has none, and a layer that would have to grow are
refused by name; a tensor of no known kind is a warning with a count.

"""
_FORMATS_LIMITS = """
## Limits for files

A file is judged by its header, before any of its data is read: what could expand beyond the layer that it changes is refused
without being allocated. Values that are not finite are refused by the name of the module and the tensor. Reading a header takes
3 times the file and 64 MB at most (measured, in a test, on the worst headers that are known). A loaded adapter keeps its factors
in float32, so 4 times an 8-bit file, 2 times a 16-bit one; peft's packed OFT takes 2 to 4 times that (4 for blocks of 2), sparse
residuals 4 times the file, and a LoRA with a Tucker core is kept with the kernel's positions multiplied out: 9 times as much for a 3x3 kernel. Beside that,
applying needs memory for a few float32 copies of one layer.

"""


def _module_of(algorithm: str, read: Any) -> str:
    return "farm.lora.algorithms.dora" if algorithm == "dora" else str(read.__module__)


def _doc_of(algorithm: str, read: Any) -> str:
    return str(sys.modules[_module_of(algorithm, read)].__doc__)


def _first_sentence(doc: str) -> str:
    return " ".join(doc.split("\n\n", maxsplit=1)[0].split()).replace("|", "\\|")


def readme() -> str:
    """The README with its list of what is supported made anew."""
    begin, end = "<!-- supported:begin -->\n", "<!-- supported:end -->"
    before, _, rest = (ROOT / "README.md").read_text().partition(begin)
    return f"{before}{begin}{support.short_list()}{end}{rest.partition(end)[2]}"


PAGES = {
    "docs/reference/settings.md": settings_page,
    "docs/reference/command-line.md": command_line_page,
    "docs/reference/model-families.md": model_families_page,
    "docs/reference/adapter-formats.md": adapter_formats_page,
    "docs/reference/support.md": support.page,
    "README.md": readme,
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
