"""A matrix of jobs: one base spec, and axes whose values are combined in every way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from farm.errors import BadRequest, Problem
from farm.jobs.spec import FIELDS

_TEXTS = ("prompt", "negative_prompt")


def expand_matrix(
    base: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], *, most: int
) -> Iterator[dict[str, Any]]:
    """Rows of the matrix, the last axis fastest.

    An axis named like a field of a job sets it. Any other axis is a placeholder `{name}` in `prompt` or
    `negative_prompt`.

    Raises:
        BadRequest: an axis without values, one that no text has a place for, or more than `most` rows; before the
            first row.
    """
    problems = tuple(_problems(base, axes))
    if problems:
        raise BadRequest.of(problems)
    rows = math.prod(len(values) for values in axes.values())
    if rows > most:
        sizes = " x ".join(str(len(values)) for values in axes.values())
        raise BadRequest(
            f"the matrix has {rows} jobs ({sizes})",
            f"at most {most} are allowed; shorten an axis",
            code="too_many_rows",
        )
    return _rows(base, axes)


def _rows(base: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        row = dict(base)
        chosen = dict(zip(axes, values, strict=True))
        row.update({name: value for name, value in chosen.items() if name in FIELDS})
        for text in _TEXTS:
            for name, value in chosen.items():
                if name not in FIELDS and isinstance(row.get(text), str):
                    row[text] = row[text].replace(f"{{{name}}}", str(value))
        yield row


def _problems(base: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Iterator[Problem]:
    texts = [base.get(text) for text in _TEXTS]
    texts += [value for text in _TEXTS for value in axes.get(text, ())]
    for name, values in axes.items():
        pointer = f"/axes/{name}"
        if not values:
            yield Problem(
                code="empty_axis",
                message=f"axis {name!r} has no values",
                hint="give at least one",
                pointer=pointer,
            )
        elif name not in FIELDS and not any(
            isinstance(text, str) and f"{{{name}}}" in text for text in texts
        ):
            yield Problem(
                code="unused_axis",
                message=f"axis {name!r} is no field of a job and no prompt holds {{{name}}}",
                hint=f"put {{{name}}} where its values belong, or name a field such as seed",
                pointer=pointer,
            )
