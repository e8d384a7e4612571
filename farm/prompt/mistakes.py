"""What is wrong with one item of a tag, before anyone knows in which tag and column it stands."""

from __future__ import annotations

from farm.errors import Problem

_LONGEST_QUOTE = 200


class Mistake(Exception):
    """Raised by readers of items; `farm.prompt.tags` and `farm.prompt.resolve` turn it into a Problem."""

    def __init__(self, code: str, message: str, hint: str):
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def shown(text: str, most: int = 40) -> str:
    """`text` in quotes for a sentence, cut when it is long.

    >>> shown("0.5@"), shown("x" * 9, most=4)
    ("'0.5@'", "'xxxx…'")
    """
    text = " ".join(text.split())
    return repr(text if len(text) <= most else text[:most] + "…")


def problem(mistake: Mistake, tag: str, item: str, column: int) -> Problem:
    """`mistake` with its place in the prompt: the tag and the item as written, the column counted from 1."""
    return Problem(
        code=mistake.code,
        message=mistake.message,
        hint=mistake.hint,
        pointer="/prompt",
        tag=_quoted(tag),
        item=_quoted(item),
        column=column,
    )


def _quoted(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"
