"""A matrix of jobs: one base spec, and axes whose values are combined in every way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


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
    raise NotImplementedError
