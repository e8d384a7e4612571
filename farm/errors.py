"""Errors with a message for a person: what, where, found, wanted, next step.

No layer below `farm.web.errors` and `farm.cli.errors` knows of status or exit codes; they map these classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in an input: where it stands and what would be right."""

    code: str
    message: str
    hint: str = ""
    #: JSON pointer of the field, such as `/prompt` or `/rows/3/steps`.
    pointer: str = ""
    #: the whole tag, for mistakes inside a prompt's tag
    tag: str = ""
    #: the offending item of the tag
    item: str = ""
    #: column of the item in the prompt, counted from 1; 0 when it does not apply
    column: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def row(self) -> int:
        """The row of a batch that it is in, counted from 0; -1 when it is in none.

        >>> Problem(code="", message="", pointer="/rows/3/steps").row, Problem(code="", message="", pointer="/name").row
        (3, -1)
        """
        parts = self.pointer.split("/")
        return int(parts[2]) if len(parts) > 2 and parts[1] == "rows" and parts[2].isdigit() else -1

    def sentence(self) -> str:
        place = f" (column {self.column})" if self.column else ""
        return f"{self.message}{place}" + (f": {self.hint}" if self.hint else "")


class FarmError(Exception):
    """Base of everything that Farm raises on purpose. `code` is stable, `message` is for a person."""

    code = "error"

    def __init__(self, message: str, hint: str = "", *, code: str = "", problems: tuple[Problem, ...] = ()):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or type(self).code
        self.problems = problems

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message

    @classmethod
    def of(cls, problems: tuple[Problem, ...]) -> FarmError:
        """One error of all `problems`; its message is the first one's sentence."""
        first = problems[0]
        return cls(first.message, first.hint, code=first.code, problems=problems)


class BadRequest(FarmError):
    """The input is wrong; the same input will be refused again."""

    code = "bad_request"


class NotFound(FarmError):
    """No such thing, or not yours."""

    code = "not_found"


class Conflict(FarmError):
    """The thing is in a state that forbids this."""

    code = "conflict"


class Transient(FarmError):
    """A retry may help: a service is away, a device is busy."""

    code = "transient"


class NoRoom(Transient):
    """A disk takes no more; `needed` are the bytes that did not fit."""

    code = "disk_full"

    def __init__(self, message: str, hint: str = "", *, needed: int = 0, **other: Any):
        super().__init__(message, hint, **other)
        self.needed = needed


class Permanent(FarmError):
    """A retry will not help: the job fails with this reason."""

    code = "permanent"
