"""Strengths of a job that goes over its picture twice: one plan for each pass, and what a person should read once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from farm.lora.layout import Layout
from farm.lora.schedule import StrengthPlan
from farm.prompt.resolve import AdapterRef, ResolvedPlan, plan
from farm.prompt.tag import Tag

#: keys of a tag that only a second pass looks at
KEYS = ("hr", "hrte", "hrunet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """Strengths of a job's adapters in each of its passes."""

    first: StrengthPlan
    #: None where there is no second pass
    second: StrengthPlan | None = None
    notes: tuple[str, ...] = ()


def plans(
    tags: Sequence[Tag],
    adapters: Mapping[str, AdapterRef],
    layout: Layout,
    steps: int,
    second_steps: int | None,
    *,
    default_strength: float = 1.0,
    linear: bool = False,
    known_names: Collection[str] = (),
) -> Plans:
    """Resolve `tags` for a run of `steps` steps and, unless it is None, a second pass of `second_steps`.

    A note that is true of one pass only says of which. Keys for a second pass that is not made are noted.

    Raises:
        BadRequest: with one Problem for each mistake of each tag.
    """

    def of_pass(steps: int, *, hires: bool) -> ResolvedPlan:
        return plan(
            tags,
            adapters,
            layout,
            steps,
            default_strength=default_strength,
            linear=linear,
            hires=hires,
            known_names=known_names,
        )

    first = of_pass(steps, hires=False)
    if second_steps is None:
        return Plans(first=first.plan, notes=(*first.notes, *map(_idle, filter(_for_second_pass, tags))))
    second = of_pass(second_steps, hires=True)
    notes = [note if note in second.notes else f"first pass: {note}" for note in first.notes]
    notes += [f"second pass: {note}" for note in second.notes if note not in first.notes]
    return Plans(first=first.plan, second=second.plan, notes=tuple(notes))


def _for_second_pass(tag: Tag) -> bool:
    return any(key in tag.curves for key in KEYS)


def _idle(tag: Tag) -> str:
    keys = [key for key in KEYS if key in tag.curves]
    verb = "has" if len(keys) == 1 else "have"
    return f"{tag.source}: {', '.join(keys)} {verb} no effect, as no second pass is asked for (hr_scale)"
