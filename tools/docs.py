"""Write the reference pages that are made from the code; `--check` fails when one is out of date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from farm.cli.main import app
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


PAGES = {"docs/reference/settings.md": settings_page, "docs/reference/command-line.md": command_line_page}


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
