"""A prompt cut into text and adapter tags, for colouring; whether the tags are right is not asked here."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: as the tag language finds tags; the name ends at the first colon
_TAG = re.compile(r"<\s*(?:lora|lyco|loractl)\s*:([^<>]*)>", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a prompt."""

    text: str
    #: adapter of the tag; empty for plain text
    name: str = ""

    @property
    def tag(self) -> bool:
        return bool(self.name)


def pieces(prompt: str) -> list[Piece]:
    """All of `prompt`, in order.

    >>> [(piece.text, piece.name) for piece in pieces("a fox <lora:ink:0.8> runs")]
    [('a fox ', ''), ('<lora:ink:0.8>', 'ink'), (' runs', '')]
    """
    found, at = [], 0
    for match in _TAG.finditer(prompt):
        if match.start() > at:
            found.append(Piece(text=prompt[at : match.start()]))
        found.append(Piece(text=match.group(), name=adapter_of(match.group(1)) or "?"))
        at = match.end()
    if at < len(prompt):
        found.append(Piece(text=prompt[at:]))
    return found


def tags_of(prompt: str) -> str:
    """The adapter tags of `prompt` alone.

    >>> tags_of("a fox <lora:ink:0.8> at night <lora:gold>")
    '<lora:ink:0.8> <lora:gold>'
    """
    return " ".join(piece.text for piece in pieces(prompt) if piece.tag)


def adapter_of(inside: str) -> str:
    """The adapter's name from what follows the kind: `"ink wash":0.8` is `ink wash`."""
    return inside.split(":", 1)[0].strip().strip('"').strip()


def adapters(prompt: str) -> set[str]:
    """Names without case of the adapters that tags of `prompt` name."""
    return {piece.name.lower() for piece in pieces(prompt) if piece.tag}


def with_adapter(prompt: str, name: str, trigger_words: list[str]) -> str:
    """`prompt` with a tag for `name` and its trigger words; without them when it had one.

    >>> with_adapter("a fox", "ink", ["ink style"])
    'a fox, <lora:ink:1>, ink style'
    >>> with_adapter("a fox, <lora:ink:1>, ink style", "ink", ["ink style"])
    'a fox'
    """
    if name.lower() in adapters(prompt):
        kept = "".join(piece.text for piece in pieces(prompt) if piece.name.lower() != name.lower())
        parts = [part.strip() for part in kept.split(",")]
        gone = {word.lower() for word in trigger_words}
        return ", ".join(part for part in parts if part and part.lower() not in gone)
    new = [word for word in trigger_words if word.lower() not in prompt.lower()]
    return ", ".join([*([prompt.rstrip(" ,")] if prompt.strip() else []), f"<lora:{name}:1>", *new])
