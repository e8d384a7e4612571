"""A prompt's tags on a model: adapters found by name, their fit checked, their strengths planned. Results are kept, since
rows of a batch differ in words more often than in tags."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy.orm import Session

from farm.errors import BadRequest, Problem
from farm.jobs import adapters
from farm.jobs.adapters import AdapterRow
from farm.jobs.models import ModelRow
from farm.lora.formats.header import DTYPES, TensorInfo
from farm.lora.formats.inspect import AdapterInfo
from farm.lora.formats.match import check, match
from farm.lora.layout import Layout
from farm.lora.schedule import StrengthPlan
from farm.models import families
from farm.prompt import resolve
from farm.prompt.passes import plans
from farm.prompt.resolve import AdapterRef
from farm.prompt.tag import Tag

#: fits that are remembered at a time: a batch may have as many as rows
_KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What the tags of one prompt come to on one model."""

    #: in the order of the tags, each adapter once
    adapters: tuple[AdapterRow, ...]
    plan: StrengthPlan
    #: of the second pass, if there is one
    second_plan: StrengthPlan | None
    warnings: tuple[str, ...]


@dataclass(slots=True)
class Fitter:
    """Adapters and fits of one transaction. It reads SQL at most once for each name."""

    session: Session
    _rows: dict[str, AdapterRow | None] = field(default_factory=dict)
    _fits: dict[tuple[str, str], tuple[str, ...] | BadRequest] = field(default_factory=dict)
    _fitted: dict[tuple[Any, ...], Fitted] = field(default_factory=dict)

    def fit(
        self,
        tags: Sequence[Tag],
        model: ModelRow,
        steps: int,
        second_steps: int | None = None,
        *,
        default_strength: float,
        linear: bool,
    ) -> Fitted:
        """Check and plan `tags` for a run of `steps` steps, and for a second pass of `second_steps`.

        Raises:
            BadRequest: unknown adapters, adapters for another model, strengths that the model cannot take.
        """
        sources = tuple(tag.source for tag in tags)
        key = (sources, model.sha256, steps, second_steps, default_strength, linear)
        if key not in self._fitted:
            if len(self._fitted) == _KEPT:
                self._fitted.clear()
            self._fitted[key] = self._fit(tags, model, steps, second_steps, default_strength, linear)
        return self._fitted[key]

    def _fit(
        self,
        tags: Sequence[Tag],
        model: ModelRow,
        steps: int,
        second_steps: int | None,
        default_strength: float,
        linear: bool,
    ) -> Fitted:
        layout = layout_of(model)
        rows = self.rows(tags)
        problems, warnings = self._check(tags, rows, model, layout)
        refs = {name: ref_of(row, default_strength) for name, row in rows.items()}
        missing = any(resolve.find(refs, tag.name) is None for tag in tags)
        try:
            resolved = plans(
                tags,
                refs,
                layout,
                steps,
                second_steps,
                default_strength=default_strength,
                linear=linear,
                known_names=adapters.names(self.session) if missing else (),
            )
        except BadRequest as error:
            raise BadRequest.of((*error.problems, *problems)) from None
        if problems:
            raise BadRequest.of(tuple(problems))
        return Fitted(
            adapters=tuple({row.id: row for row in rows.values()}.values()),
            plan=resolved.first,
            second_plan=resolved.second,
            warnings=(*warnings, *resolved.notes),
        )

    def rows(self, tags: Sequence[Tag]) -> dict[str, AdapterRow]:
        """Adapters that the tags name, by the name without case, in the order of the tags."""
        wanted = {spelling for tag in tags for spelling in _spellings(tag.name)} - self._rows.keys()
        if wanted:
            found = adapters.find(self.session, wanted)
            self._rows.update({name: found.get(name) for name in wanted})
        rows: dict[str, AdapterRow] = {}
        for tag in tags:
            for spelling in _spellings(tag.name):
                row = self._rows[spelling]
                if row is not None:
                    rows[spelling] = row
                    break
        return rows

    def _check(
        self, tags: Sequence[Tag], rows: Mapping[str, AdapterRow], model: ModelRow, layout: Layout
    ) -> tuple[list[Problem], list[str]]:
        problems: list[Problem] = []
        warnings: list[str] = []
        for name, row in rows.items():
            key = (row.sha256, model.sha256)
            if key not in self._fits:
                self._fits[key] = _fit(row, layout)
            found = self._fits[key]
            if isinstance(found, tuple):
                warnings += found
                continue
            tag = next(tag for tag in tags if name in _spellings(tag.name))
            problems.append(
                Problem(
                    code=found.code,
                    message=found.message,
                    hint=found.hint,
                    pointer="/prompt",
                    tag=tag.source,
                    item=tag.name,
                    column=tag.name_column,
                )
            )
        return problems, warnings


def layout_of(model: ModelRow) -> Layout:
    """The layers of a model.

    Raises:
        BadRequest: Farm cannot lay this model out.
    """
    return _layout(model.family, json.dumps(dict(model.configs), sort_keys=True))


def ref_of(row: AdapterRow, default_strength: float) -> AdapterRef:
    """What the tag language needs of an adapter."""
    own = default_strength if row.default_strength is None else row.default_strength
    return AdapterRef(
        name=row.name,
        sha256=row.sha256,
        file_name=row.file_name,
        default_strength=own,
        expert=row.info.get("expert", ""),
    )


def tensor_infos(tensors: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """The tensors of a version as they stood in the file's header; their places are not kept and read as 0."""
    found = {}
    for key, (dtype, shape) in tensors.items():
        size = math.prod(shape) * DTYPES[dtype]
        found[key] = TensorInfo(dtype=dtype, shape=tuple(shape), begin=0, end=size)
    return found


def _fit(row: AdapterRow, layout: Layout) -> tuple[str, ...] | BadRequest:
    info = AdapterInfo.from_dict(row.info)
    try:
        return check(info, match(tensor_infos(row.tensors), info.metadata, layout), layout, row.name)
    except BadRequest as error:
        return error


@lru_cache(maxsize=8)
def _layout(family: str, configs: str) -> Layout:
    return families.layout(family, json.loads(configs))


def _spellings(name: str) -> tuple[str, ...]:
    """What a tag's name may stand for: itself, or itself without a file's ending."""
    word = name.casefold()
    return tuple(dict.fromkeys((word, word.removesuffix(".safetensors"))))
