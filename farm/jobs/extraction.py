"""Extractions: what may be asked, checked as a whole before anything is queued, and written as one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Adapter
from farm.errors import BadRequest, Problem
from farm.ids import JobId
from farm.jobs import models
from farm.jobs.adapter_names import adapter_name
from farm.jobs.fitting import Fitter, layout_of, tensor_infos
from farm.jobs.kinds import Extraction, Kind
from farm.jobs.limits import Limits
from farm.jobs.prepare import Prepared, prepare
from farm.jobs.spec import JobSpec, Priority, read_model, storable
from farm.jobs.submit import write_job
from farm.lora.budget import Budget
from farm.lora.formats.inspect import AdapterInfo
from farm.lora.formats.match import match
from farm.lora.schedule import StrengthPlan
from farm.prompt.numbers import format_number
from farm.prompt.tags import Tag, parse

#: fields of a job that mean nothing to an extraction
_NO_PICTURE = ("width", "height", "guidance_scale", "sampler", "seed")


class NetworkAsk(BaseModel):
    """An adapter at one strength everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(description="Name of the adapter.")
    strength: float = Field(1.0, description="Its strength.", ge=-100, le=100)


class ExtractSpec(BaseModel):
    """An extraction as asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(description="Name of the adapter to make; one of yours gets a new version.")
    prompt: str = Field("", description="Adapter tags, such as `<lora:ink:0.8>`; other words do not matter.")
    networks: list[NetworkAsk] = Field(default_factory=list, description="Adapters beside those of the tags.")
    model: str | None = Field(None, description="Name of the base model; None: the only or the newest one.")
    rank: int | None = Field(None, description="Ranks of every layer; this or `energy`.")
    energy: float | None = Field(None, description="Share of each layer's energy to keep, such as 0.99.")
    max_rank: int | None = Field(None, description="With `energy`: most ranks of a layer.")
    priority: Priority = Field("normal", description="`interactive` goes first, `bulk` last.")
    webhook: str | None = Field(None, description="https:// address that is told when the job ends.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedExtraction:
    """All that was found out about an extraction. Nothing is written yet."""

    job: Prepared
    extraction: Extraction
    #: layers that change
    layers: int


def parse_extract(raw: Mapping[str, Any]) -> ExtractSpec:
    """`raw` as an extraction; types and names are checked here.

    Raises:
        BadRequest: all problems at once.
    """
    return read_model(ExtractSpec, raw, "extraction")


def submit_extraction(
    session: Session,
    owner_id: str,
    asked: ExtractSpec,
    *,
    limits: Limits,
    now: datetime,
    key_id: str | None = None,
) -> JobId:
    """Check and write one extraction; it is accepted once the caller has committed.

    Raises:
        BadRequest: every problem that was found, each with its JSON pointer.
    """
    found = prepare_extraction(session, owner_id, asked, limits=limits)
    nothing: dict[str, Any] = dict.fromkeys(_NO_PICTURE)
    spec = found.job.spec.stored() | nothing | {"extract": found.extraction.as_dict()}
    return write_job(
        session,
        owner_id,
        found.job,
        now,
        key_id=key_id,
        kind=Kind.EXTRACT,
        spec=spec,
        steps=found.layers,
        batch_key=f"extract:{found.job.model_key[:16]}",
    )


def prepare_extraction(
    session: Session, owner_id: str, asked: ExtractSpec, *, limits: Limits
) -> PreparedExtraction:
    """Check `asked`: its name, budget, model, adapters and their fit.

    Raises:
        BadRequest: every problem that was found.
    """
    problems = [*_about_name(session, owner_id, asked.name), *_about_budget(asked)]
    prompt, columns = _prompt_of(asked)
    wanted = {"prompt": prompt, "model": asked.model, "steps": 1, "seed": 0, "priority": asked.priority}
    spec = JobSpec.model_validate(wanted | {"webhook": asked.webhook})
    try:
        _check_curves(parse(prompt, max_tags=limits.max_tags).tags)
        found = prepare(session, owner_id, spec, limits=limits)
        layers = _count_layers(session, found)
        if not layers:
            what = "all strengths are 0" if found.networks else "no adapter is named"
            problems.append(
                _problem("nothing_to_extract", what, "name some, such as <lora:ink:0.8>", "/prompt")
            )
    except BadRequest as error:
        problems += error.problems
    if problems:
        raise BadRequest.of(tuple(_placed(problem, columns) for problem in problems))
    known = session.scalar(select(Adapter.name).where(Adapter.name_key == asked.name.strip().casefold()))
    replaced = (f"there is an adapter {known!r} of yours already; it gets a new version",) if known else ()
    return PreparedExtraction(
        job=replace(found, warnings=(*found.warnings, *replaced)),
        extraction=Extraction(
            name=adapter_name(asked.name, ""), rank=asked.rank, energy=asked.energy, max_rank=asked.max_rank
        ),
        layers=layers,
    )


def _prompt_of(asked: ExtractSpec) -> tuple[str, list[int]]:
    """The prompt with a tag for each of `networks`, and the columns at which those begin."""
    text, columns = asked.prompt, []
    for network in asked.networks:
        text += " " if text else ""
        columns.append(len(text) + 1)
        # what would end the tag is in no adapter's name, so the name is told as unknown
        name = network.name.translate({ord(sign): "_" for sign in "<>:"})
        text += f"<lora:{name}:{format_number(network.strength)}>"
    return text, columns


def _placed(problem: Problem, columns: list[int]) -> Problem:
    """A problem inside a tag that we wrote belongs to its entry of `networks`."""
    index = sum(column <= problem.column for column in columns) - 1
    if problem.pointer != "/prompt" or index < 0 or not problem.column:
        return problem
    return replace(problem, pointer=f"/networks/{index}", column=0)


def _about_name(session: Session, owner_id: str, name: str) -> Iterator[Problem]:
    try:
        if not storable(name):
            raise BadRequest("the name holds a character that is no text", "remove it", code="bad_character")
        plain = adapter_name(name, "")
    except BadRequest as error:
        yield _problem(error.code, error.message, error.hint, "/name")
        return
    owner = session.scalar(select(Adapter.owner_id).where(Adapter.name_key == plain.casefold()))
    if owner not in (None, owner_id):
        yield _problem(
            "name_taken",
            f"there is an adapter {plain!r} of another user already",
            "choose another name",
            "/name",
        )


def _about_budget(asked: ExtractSpec) -> Iterator[Problem]:
    try:
        Budget(rank=asked.rank, energy=asked.energy, max_rank=asked.max_rank).check()
    except BadRequest as error:
        pointer = next(
            (f"/{word}" for word in ("max_rank", "energy", "rank") if error.message.startswith(word)), "/rank"
        )
        yield _problem(error.code, error.message, error.hint, pointer)


def _check_curves(tags: tuple[Tag, ...]) -> None:
    """One LoRA has no steps, so it can hold no curve. Raises BadRequest."""
    if problems := tuple(_about_curves(tags)):
        raise BadRequest.of(problems)


def _about_curves(tags: tuple[Tag, ...]) -> Iterator[Problem]:
    for tag in tags:
        curves = [curve for curve in (tag.first, tag.second, *tag.curves.values()) if curve is not None]
        windowed = tag.start is not None or tag.stop is not None
        if windowed or any(len(curve.points) > 1 for curve in curves):
            what = "a window of steps" if windowed else "a curve over steps"
            yield Problem(
                code="not_constant",
                message=f"the tag of {tag.name!r} has {what}, and one LoRA is the same at every step",
                hint=f"give one strength, such as <lora:{tag.name}:0.8>",
                pointer="/prompt",
                tag=tag.source,
                item=tag.name,
                column=tag.column,
            )


def _count_layers(session: Session, found: Prepared) -> int:
    """Layers that some adapter changes at a strength other than 0."""
    layout = layout_of(models.find(session, found.model_name))
    rows = Fitter(session).rows(parse(found.spec.prompt, max_tags=len(found.spec.prompt)).tags)
    changed: set[str] = set()
    for row in rows.values():
        fit = match(tensor_infos(row.tensors), AdapterInfo.from_dict(row.info).metadata, layout)
        changed |= {
            name for name in fit.layers if _has_strength(found.plan, row.sha256, layout.layers[name].region)
        }
    return len(changed)


def _has_strength(plan: StrengthPlan, sha256: str, region: Any) -> bool:
    return any(
        schedule.sha256 == sha256 and schedule.strengths.get(region, (0.0,))[0] for schedule in plan.adapters
    )


def _problem(code: str, message: str, hint: str, pointer: str) -> Problem:
    return Problem(code=code, message=message, hint=hint, pointer=pointer)
