"""What a person asks of a job: one strict model, and mistakes told as `Problem`s with the place of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from farm.errors import BadRequest, Problem
from farm.jobs.pins import cut_tags, parse_memory

Priority = Literal["interactive", "normal", "bulk"]
Model = TypeVar("Model", bound=BaseModel)


def _read_memory(value: Any) -> Any:
    if not isinstance(value, int | str) or isinstance(value, bool):
        return value
    try:
        return parse_memory(value)
    except BadRequest as error:
        raise PydanticCustomError(
            "bad_memory", "{words}", {"words": error.message, "hint": error.hint}
        ) from None


#: bytes; asked for in bytes or in words
Memory = Annotated[
    int,
    BeforeValidator(_read_memory),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}], "examples": ["24GB"]}),
]


class JobSpec(BaseModel):
    """A job as asked for. None stands for the model's own default, or a drawn seed; a normalised spec has None only for
    `webhook`, for `frames` and `fps` of pictures, and for the fields of a second pass that is not made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompt: str = Field(description="What to draw, with adapter tags such as `<lora:ink:0.8>`.")
    negative_prompt: str = Field("", description="What to keep away from.")
    model: str | None = Field(None, description="Name of the base model; None: the only or the newest one.")
    width: int | None = Field(None, description="Pixels; a multiple of 8.")
    height: int | None = Field(None, description="Pixels; a multiple of 8.")
    steps: int | None = Field(None, description="Denoising steps.")
    guidance_scale: float | None = Field(None, description="How closely the prompt is followed.")
    sampler: str | None = Field(
        None, description="Key or usual name of a sampler, such as `DPM++ 2M Karras`."
    )
    seed: int | None = Field(None, description="Seed of the first picture; None or -1: drawn at random.")
    count: int = Field(1, description="Pictures; each takes the next seed.")
    priority: Priority = Field("normal", description="`interactive` goes first, `bulk` last.")
    tags: list[str] = Field(
        default_factory=list, description="Words to find the job by; no effect on the picture."
    )
    webhook: str | None = Field(None, description="https:// address that is told when the job ends.")
    worker_tags: list[str] = Field(
        default_factory=list, description="Tags that the worker must all have, such as `a100`."
    )
    min_memory: Memory | None = Field(
        None, description="Memory that the worker's device must have: bytes, or a text such as `24GB`."
    )
    linear_curves: bool | None = Field(
        None, description="`@` in tags interpolates linearly, as loractl does."
    )
    frames: int | None = Field(None, description="Frames of a video; only for models that make videos.")
    fps: float | None = Field(None, description="Frames a second of a video.")
    hr_scale: float | None = Field(
        None, description="Makes a second pass over the picture, enlarged by this; None: no second pass."
    )
    hr_steps: int | None = Field(None, description="Steps of the second pass; None: as many as the first.")
    hr_strength: float | None = Field(
        None, description="How much the second pass changes: above 0, at most 1; None: 0.5."
    )

    def stored(self) -> dict[str, Any]:
        """As `jobs.spec` keeps it: what workers need."""
        return self.model_dump(exclude=set(PINS))

    @property
    def total_steps(self) -> int:
        """Steps of both passes; of a normalised spec."""
        return (self.steps or 0) + (self.hr_steps or 0 if self.hr_scale is not None else 0)


FIELDS: tuple[str, ...] = tuple(JobSpec.model_fields)
_INTEGERS = frozenset({"width", "height", "steps", "seed", "count", "frames", "hr_steps"})
#: pins: columns of their own, not part of what is stored as the spec, since no worker needs them
PINS = frozenset({"worker_tags", "min_memory"})
_NUMBERS = frozenset({"guidance_scale", "fps", "hr_scale", "hr_strength"})

#: what a field wants, by pydantic's error type
_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "list_type": "a list of texts",
    "literal_error": "interactive, normal or bulk",
}


def parse_spec(raw: Mapping[str, Any], pointer: str = "") -> JobSpec:
    """`raw` as a spec; types and names are checked here, values by `farm.jobs.check`.

    Raises:
        BadRequest: all problems at once; pointers start with `pointer`.
    """
    return read_model(JobSpec, raw, "job", pointer)


def read_model(cls: type[Model], raw: Mapping[str, Any], what: str, pointer: str = "") -> Model:
    """`raw` as `cls`, a strict model; `what` calls such a thing in messages.

    Raises:
        BadRequest: all problems at once; pointers start with `pointer`.
    """
    try:
        return cls.model_validate(dict(raw))
    except ValidationError as error:
        fields = tuple(cls.model_fields)
        details = error.errors(include_url=False)
        raise BadRequest.of(tuple(_problem(detail, pointer, what, fields) for detail in details)) from None


def from_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A CSV row, all text, as a spec's fields: numbers read, empty cells left out, `tags` and `worker_tags` cut at blanks.

    What is no number stays text, so that `parse_spec` says where.

    >>> from_text({"prompt": "a fox", "steps": "20", "guidance_scale": "7.5", "seed": "", "tags": "red big"})
    {'prompt': 'a fox', 'steps': 20, 'guidance_scale': 7.5, 'tags': ['red', 'big']}
    """
    return {name: _value(name, text) for name, text in row.items() if text not in ("", None)}


def _value(name: str, text: Any) -> Any:
    if not isinstance(text, str):
        return text
    if name == "tags":
        return text.split()
    if name == "worker_tags":
        return cut_tags(text)
    if name == "linear_curves":
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        if name in _INTEGERS:
            return int(text)
        if name in _NUMBERS:
            return float(text)
    except ValueError:
        return text
    return text


def storable(text: str) -> bool:
    """Whether a database can keep `text`: no NUL, no half of a surrogate pair.

    >>> storable("Füchse 🦊"), storable("a\\x00b"), storable("\\ud83e")
    (True, False, False)
    """
    return "\x00" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def near(name: str, known: Sequence[str]) -> str:
    """A hint that names what was probably meant; empty when nothing is near.

    >>> near("promt", ["prompt", "steps"]), near("x", ["prompt"])
    ("did you mean 'prompt'?", '')
    """
    by_key = {word.casefold(): word for word in known}
    words = [by_key[key] for key in get_close_matches(name.casefold(), by_key, n=3, cutoff=0.6)]
    return f"did you mean {' or '.join(repr(word) for word in words)}?" if words else ""


def _problem(detail: ErrorDetails, pointer: str, what: str, fields: Sequence[str]) -> Problem:
    place = [str(part) for part in detail["loc"]]
    name = place[0] if place else ""
    where = pointer + "".join(f"/{part}" for part in place)
    kind = detail["type"]
    if kind == "missing":
        return Problem(
            code="missing", message=f"{name} is missing", hint=f"every {what} needs one", pointer=where
        )
    if kind == "extra_forbidden":
        hint = near(name, fields) or f"every {what} has {', '.join(fields)}"
        return Problem(code="unknown_field", message=f"unknown field {name!r}", hint=hint, pointer=where)
    if kind == "bad_memory":
        context = detail["ctx"]
        return Problem(
            code=kind,
            message=f"{name}: {context['words']}",
            hint=context["hint"],
            pointer=f"{pointer}/{name}",
        )
    wanted = _WANTED.get(kind)
    found = _short(detail["input"])
    if wanted is None:
        return Problem(
            code="bad_value", message=f"{name}: {detail['msg']}", hint=f"found {found}", pointer=where
        )
    message = f"{name} is {found}, not {wanted}"
    return Problem(code="bad_type", message=message, hint=f"give {wanted}", pointer=where)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
