"""Exit codes and the one line on stderr: 0 done, 1 failed, 2 bad input; never a traceback for a person's mistake."""

from __future__ import annotations

import json
import sys

from farm.errors import BadRequest, Conflict, FarmError, NotFound

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_BAD_INPUT = (BadRequest, NotFound, Conflict)


def exit_code(error: FarmError) -> int:
    return EXIT_BAD_INPUT if isinstance(error, _BAD_INPUT) else EXIT_FAILED


def report(error: FarmError, *, as_json: bool = False) -> int:
    """Tell `error` and return the exit code. As JSON: `{"errors": [{tag, item, column, message, hint}]}` on stdout."""
    if as_json:
        problems = error.problems
        rows = (
            [problem.as_dict() for problem in problems]
            if problems
            else [
                {
                    "tag": "",
                    "item": "",
                    "column": 0,
                    "message": error.message,
                    "hint": error.hint,
                    "code": error.code,
                }
            ]
        )
        print(json.dumps({"errors": rows}, indent=1))  # noqa: T201 - the answer
    print(_line(error), file=sys.stderr)  # noqa: T201 - the answer
    return exit_code(error)


def _line(error: FarmError) -> str:
    if not error.problems:
        return f"farm: {error}"
    more = len(error.problems) - 1
    rest = f" (and {more} more)" if more else ""
    first = error.problems[0]
    row = f"row {first.row + 1}: " if first.row >= 0 else ""
    return f"farm: {row}{first.sentence()}{rest}"
