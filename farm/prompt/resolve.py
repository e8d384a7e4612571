"""Turns tags into strengths for each region of a model and each step: `strength(tag, region, step)`, as a table.

Decisions where the language leaves room:

- An adapter's own default strength, if it has one, comes before the setting when a tag names no strength.
- `module=unet` means the denoiser, whatever it is called, as the key `unet` does; `transformer` is that component only.
- In a second pass `hr`, `hrte` and `hrunet` replace the text encoders' or the denoiser's strength altogether,
  `te1` and `in`/`mid`/`out` included; `lbw`, `blocks`, `module` and the window stay, the window within that pass.
- Several tags of one adapter add up; different `dyn` make entries of their own, since they cut the adapter differently.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from farm.errors import BadRequest, Problem
from farm.lora.formats.metadata import expert_in
from farm.lora.layout import Layout, Region
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.prompt.blocks import Factors, lbw_factors, range_factors
from farm.prompt.curves import Curve
from farm.prompt.mistakes import Mistake, shown
from farm.prompt.tag import Tag, format_tag

Presets = Mapping[str, Sequence[float]]

#: names of files that say which of two denoisers they were trained for
_EXPERTS = {"high": "transformer", "low": "transformer_2"}
_ENDINGS = (".safetensors",)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRef:
    """An adapter that a tag may name: its content, and what its file's name and owner say."""

    name: str
    sha256: str
    file_name: str = ""
    #: strength of a tag that names none; None: the setting decides
    default_strength: float | None = None
    #: `high`, `low` or `both`, when the file itself says which of two denoisers it is for
    expert: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPlan:
    """Strengths of a job's adapters, and sentences that a person should read."""

    plan: StrengthPlan
    notes: tuple[str, ...] = ()


def plan(
    tags: Sequence[Tag],
    adapters: Mapping[str, AdapterRef],
    layout: Layout,
    steps: int,
    *,
    default_strength: float = 1.0,
    linear: bool = False,
    hires: bool = False,
    presets: Presets | None = None,
    known_names: Collection[str] = (),
) -> ResolvedPlan:
    """Resolve `tags` for a run of `steps` steps. `adapters` has the casefolded names as keys.

    `known_names` are further names to look for near ones of an unknown adapter.

    Raises:
        BadRequest: with one Problem for each mistake of each tag.
    """
    if steps < 1:
        problem = Problem(
            code="bad_steps", message=f"steps is {steps}", hint="a run has at least 1 step", pointer="/steps"
        )
        raise BadRequest.of((problem,))
    problems: list[Problem] = []
    notes: list[str] = []
    sums: dict[tuple[str, int | None], dict[Region, tuple[float, ...]]] = {}
    for tag in tags:
        ref = find(adapters, tag.name)
        if ref is None:
            problems.append(unknown_adapter(tag, [*(each.name for each in adapters.values()), *known_names]))
            continue
        resolver = _Resolver(
            tag=tag,
            layout=layout,
            steps=steps,
            default=default_strength if ref.default_strength is None else ref.default_strength,
            linear=linear,
            hires=hires,
            presets=presets,
            ref=ref,
            problems=problems,
        )
        before = len(problems)
        strengths = resolver.strengths()
        if len(problems) > before:
            continue
        notes += _notes(tag, layout, resolver, hires=hires)
        if not any(map(any, strengths.values())):
            notes.append(f"{_written(tag)} is 0 everywhere at every step, so it is left out")
            continue
        total = sums.setdefault((ref.sha256, tag.dyn), {})
        for region, values in strengths.items():
            total[region] = _add(total[region], values) if region in total else values
    if problems:
        raise BadRequest.of(tuple(problems))
    schedules: list[AdapterSchedule] = []
    for (sha256, rank), regions in sums.items():
        kept = {region: values for region, values in regions.items() if any(values)}
        if kept:
            schedules.append(AdapterSchedule(sha256=sha256, strengths=kept, max_rank=rank))
        else:
            names = ", ".join(ref.name for ref in adapters.values() if ref.sha256 == sha256)
            notes.append(f"the tags of {names} add up to 0 everywhere at every step, so it is left out")
    return ResolvedPlan(plan=StrengthPlan(steps=steps, adapters=tuple(schedules)), notes=tuple(notes))


def find(adapters: Mapping[str, AdapterRef], name: str) -> AdapterRef | None:
    """Return the adapter called `name`, without regard to case or a file's ending."""
    word = name.casefold()
    found = adapters.get(word)
    for ending in _ENDINGS:
        if found is None:
            found = adapters.get(word.removesuffix(ending))
    return found


def unknown_adapter(tag: Tag, names: Iterable[str]) -> Problem:
    """The problem of a tag whose adapter nobody knows, with the nearest of `names`."""
    by_word = {name.casefold(): name for name in names}
    near = [by_word[word] for word in difflib.get_close_matches(tag.name.casefold(), by_word, n=3)]
    hint = "add it on the page Networks, or check the name"
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    return tag.problem(Mistake("unknown_adapter", f"unknown adapter {shown(tag.name)}", hint))


def expert(ref: AdapterRef, layout: Layout) -> str | None:
    """Return the one of two denoisers that a file or its name asks for, if the model has two.

    `wan_high_noise.safetensors` asks for `transformer`, `wan-low.safetensors` for `transformer_2`.
    """
    return _EXPERTS.get(ref.expert or expert_in(ref.file_name)) if _has_experts(layout) else None


def _has_experts(layout: Layout) -> bool:
    return set(_EXPERTS.values()) <= set(layout.denoisers)


@dataclass(slots=True, kw_only=True)
class _Resolver:
    """One tag on one model; what is wrong is appended to `problems`."""

    tag: Tag
    layout: Layout
    steps: int
    default: float
    linear: bool
    hires: bool
    presets: Presets | None
    ref: AdapterRef
    problems: list[Problem]

    @property
    def expert(self) -> str | None:
        """The denoiser that the adapter is for, where the tag leaves it open."""
        return None if self.tag.modules else expert(self.ref, self.layout)

    def strengths(self) -> dict[Region, tuple[float, ...]]:
        """Strengths of every region; nothing of use when problems were found."""
        before = len(self.problems)
        self._check_components()
        allowed = self._components()
        window = self._window()
        factors = self._factors()
        values = {key: self._values(key, curve) for key, curve in self._curves().items()}
        if len(self.problems) > before:
            return {}
        te = values.get("te") or values.get("first") or (self.default,) * self.steps
        denoiser = values.get("unet") or values.get("second") or te
        te = self._second_pass(values, "te") or te
        denoiser = self._second_pass(values, "unet") or denoiser
        found: dict[Region, tuple[float, ...]] = {}
        zero = (0.0,) * self.steps
        for region in self.layout.regions():
            if region.component not in allowed:
                found[region] = zero
                continue
            is_text = region.component in self.layout.text_encoders
            base = self._of_text(values, region, te) if is_text else self._of_block(values, region, denoiser)
            factor = 1.0
            for part in factors:
                factor *= part.of(region)
            found[region] = tuple(
                value * factor + 0.0 if inside else 0.0 for value, inside in zip(base, window, strict=True)
            )
        return found

    def _second_pass(self, values: Mapping[str, tuple[float, ...]], side: str) -> tuple[float, ...] | None:
        if not self.hires:
            return None
        return values.get(f"hr{side}") or values.get("hr")

    def _of_text(
        self, values: Mapping[str, tuple[float, ...]], region: Region, te: tuple[float, ...]
    ) -> tuple[float, ...]:
        if self._second_pass(values, "te"):
            return te
        return values.get(f"te{self.layout.text_encoders.index(region.component) + 1}") or te

    def _of_block(
        self, values: Mapping[str, tuple[float, ...]], region: Region, denoiser: tuple[float, ...]
    ) -> tuple[float, ...]:
        if self._second_pass(values, "unet"):
            return denoiser
        # layers outside any block follow `in`, whatever side they stand on
        return values.get("in" if region.index < 0 else region.block) or denoiser

    def _curves(self) -> dict[str, Curve]:
        positional = {"first": self.tag.first, "second": self.tag.second}
        return {key: curve for key, curve in positional.items() if curve is not None} | dict(self.tag.curves)

    def _values(self, key: str, curve: Curve) -> tuple[float, ...]:
        try:
            return curve.values(self.steps, linear=self.linear, zero_based=self.tag.zero_based)
        except Mistake as mistake:
            self.problems.append(self.tag.problem(mistake, key))
            return ()

    def _window(self) -> tuple[bool, ...]:
        start, stop = self.tag.start, self.tag.stop
        first = start.stands_at(self.steps) if start is not None else 1
        last = stop.stands_at(self.steps) if stop is not None else self.steps
        if start is not None and stop is not None and first > last:
            self._complain(
                "bad_window",
                f"start {start} stands after stop {stop} in a run of {self.steps} steps",
                "write both ends in one unit, as step=5-10 or step=0.2-0.5",
                "step",
                "start",
            )
        return tuple(first <= step <= last for step in range(1, self.steps + 1))

    def _factors(self) -> list[Factors]:
        found: list[Factors] = []
        if self.tag.lbw is not None:
            try:
                found.append(lbw_factors(self.tag.lbw, self.layout, self.presets))
            except Mistake as mistake:
                self.problems.append(self.tag.problem(mistake, "lbw"))
        if self.tag.blocks:
            try:
                found.append(range_factors(self.tag.blocks, self.layout))
            except Mistake as mistake:
                self.problems.append(self.tag.problem(mistake, "blocks"))
        return found

    def _check_components(self) -> None:
        layout, tag = self.layout, self.tag
        blocks = {region.block for region in layout.regions() if region.component in layout.denoisers}
        for key in tag.curves:
            if key.startswith("te") and int(key[2:] or 1) > len(layout.text_encoders):
                self._lacks("missing_component", f"text encoder {key[2:] or 1}", key)
            elif key == "hrte" and not layout.text_encoders:
                self._lacks("missing_component", "a text encoder", key)
            elif key in ("unet", "hrunet") and not layout.denoisers:
                self._lacks("missing_component", "a denoiser", key)
            elif key in ("in", "mid", "out") and key not in blocks:
                self._complain(
                    "missing_block",
                    f"this model's denoiser has no part {key!r}",
                    f"its parts are {', '.join(sorted(blocks)) or 'none'}",
                    key,
                )

    def _components(self) -> frozenset[str]:
        """Components that `module` or the file's name leave."""
        layout = self.layout
        if not self.tag.modules:
            others = {name for name in layout.denoisers if self.expert and name != self.expert}
            return frozenset(layout.components) - others
        allowed: set[str] = set()
        for word in self.tag.modules:
            if word == "te":
                names = layout.text_encoders
            elif word == "unet":
                names = layout.denoisers
            else:
                names = (word,) if word in layout.components else ()
            if not names:
                self._lacks("missing_component", f"component {word!r}", "module", "high", "low")
            allowed.update(names)
        return frozenset(allowed)

    def _lacks(self, code: str, what: str, *wanted: str) -> None:
        self._complain(
            code, f"this model lacks {what}", f"it has {', '.join(self.layout.components)}", *wanted
        )

    def _complain(self, code: str, message: str, hint: str, *wanted: str) -> None:
        self.problems.append(self.tag.problem(Mistake(code, message, hint), *wanted))


def _notes(tag: Tag, layout: Layout, resolver: _Resolver, *, hires: bool) -> list[str]:
    """What may surprise the tag's author."""
    notes: list[str] = []
    te, parts = tag.curves.get("te"), {"in", "mid", "out"}
    reached = not tag.modules or bool(set(tag.modules) - {"te", *layout.text_encoders})
    from_te = te is not None and tag.second is None and "unet" not in tag.curves
    hidden = parts <= set(tag.curves) or (hires and {"hr", "hrunet"} & set(tag.curves))
    if from_te and reached and not hidden:
        own = f"unet={tag.first}" if tag.first not in (None, te) else "unet=…"
        notes.append(f"{_written(tag)}: the denoiser gets {te} from te; write {own} to give it its own")
    for key, curve in (("", tag.first), ("", tag.second), *tag.curves.items()):
        if curve is not None and len(curve.points) == 1 and curve.points[0].at is not None:
            only = curve.points[0]
            name = f"{key}=" if key else ""
            notes.append(
                f"{_written(tag)}: {name}{curve} has one point, so it is {Curve.constant(only.strength)} "
                f"throughout; write {name}0@1,{curve} to begin without it"
            )
    if resolver.expert is not None:
        source = "file" if resolver.ref.expert else "file's name"
        notes.append(f"{_written(tag)}: the {source} chooses {resolver.expert}")
    elif not tag.modules and _has_experts(layout) and not resolver.ref.expert:
        notes.append(
            f"{_written(tag)}: neither it nor the file says which of the two denoisers it is for, so both get it; "
            "write high or low"
        )
    return notes


def _written(tag: Tag) -> str:
    text = tag.source or format_tag(tag)
    return text if len(text) <= 200 else text[:200] + "…"


def _add(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
