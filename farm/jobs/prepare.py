"""A spec, checked against limits, model and adapters and filled in: everything that is found out before a row is written."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Worker
from farm.errors import BadRequest, Problem
from farm.jobs import models, pins
from farm.jobs.adapters import AdapterRow
from farm.jobs.check import check
from farm.jobs.fitting import Fitted, Fitter, layout_of, ref_of, tensor_infos
from farm.jobs.limits import Limits
from farm.jobs.models import ModelRow
from farm.jobs.reports import WorkerReport
from farm.jobs.spec import JobSpec, parse_spec
from farm.jobs.suits import suits
from farm.lora.formats.inspect import AdapterInfo
from farm.lora.schedule import StrengthPlan
from farm.models.samplers import check_fits, normalise_sampler
from farm.prompt import explain as explaining
from farm.prompt import triggers
from farm.prompt.tags import ParsedPrompt, parse

#: for a model that says nothing itself
_DEFAULTS: Mapping[str, Any] = {
    "width": 512,
    "height": 512,
    "steps": 20,
    "guidance_scale": 7.0,
    "sampler": "euler",
}
#: of a second pass; more changes the picture, less leaves it blurred
HR_STRENGTH = 0.5
#: seeds that are drawn fit into 32 bits, as other programs expect
_DRAWN_SEEDS = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An adapter that a job uses, pinned by content."""

    name: str
    sha256: str
    size: int
    file_name: str
    type: str
    base_model: str
    adapter_id: str
    #: of a tag that names no strength
    default_strength: float
    #: `high`, `low` or `both`, when its file says which of two denoisers it is for
    expert: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A spec with every default filled in, and all that was found out about it. Nothing is written yet."""

    spec: JobSpec
    #: the prompt without tags, with trigger words: what is encoded
    clean_prompt: str
    networks: tuple[Network, ...]
    plan: StrengthPlan
    #: of the second pass, if there is one
    second_plan: StrengthPlan | None
    #: for the person: partly fitting adapters, tags without effect
    warnings: tuple[str, ...]
    model_id: str
    model_name: str
    model_key: str
    model_bytes: int
    network_set: str
    batch_key: str


def prepare(
    session: Session, owner_id: str, spec: JobSpec | Mapping[str, Any], *, limits: Limits
) -> Prepared:
    """Check `spec` and fill in what it leaves open; nothing is written.

    Raises:
        BadRequest: every problem that was found, each with its JSON pointer.
    """
    return Preparer(session, limits).prepare(spec if isinstance(spec, JobSpec) else parse_spec(spec))


def explain(session: Session, prepared: Prepared) -> dict[str, Any]:
    """Strength per adapter, component, block and step: the object of `farm loras explain --json`. A job with a second
    pass has that pass's object as `second_pass`."""
    spec, model = prepared.spec, models.find(session, prepared.model_name)
    tags = parse(spec.prompt, max_tags=len(spec.prompt)).tags
    strengths = {network.sha256: network.default_strength for network in prepared.networks}
    adapters = {
        name: _explained(row, strengths.get(row.sha256, 1.0))
        for name, row in Fitter(session).rows(tags).items()
    }

    def of_pass(steps: int | None, *, hires: bool) -> dict[str, Any]:
        return explaining.explain(
            spec.prompt,
            layout_of(model),
            steps or 0,
            adapters=adapters,
            model=model.name,
            linear=bool(spec.linear_curves),
            hires=hires,
            max_tags=len(spec.prompt),
        )

    found = of_pass(spec.steps, hires=False)
    if spec.hr_scale is not None:
        found["second_pass"] = of_pass(spec.hr_steps, hires=True)
    return found


def _explained(row: AdapterRow, default_strength: float) -> explaining.ExplainedAdapter:
    return explaining.ExplainedAdapter(
        ref=ref_of(row, default_strength),
        type=row.type,
        base_model=row.base_model,
        trigger_words=row.trigger_words,
        info=AdapterInfo.from_dict(row.info),
        tensors=tensor_infos(row.tensors),
    )


@dataclass(slots=True)
class Preparer:
    """Prepares specs of one transaction; models, adapters and plans that come again are read and made once."""

    session: Session
    limits: Limits
    _models: dict[str | None, ModelRow | BadRequest] = field(default_factory=dict)
    #: reports of workers that are there; None: not read yet
    _fleet: list[WorkerReport] | None = None
    _fitter: Fitter = field(init=False)

    def __post_init__(self) -> None:
        self._fitter = Fitter(self.session)

    def prepare(self, asked: JobSpec) -> Prepared:
        """Check `asked` and fill in what it leaves open.

        Raises:
            BadRequest: every problem that was found.
        """
        problems: list[Problem] = []
        model = self._model(asked.model, problems)
        spec = self._fill_in(asked, model, problems)
        problems += check(spec, self.limits, model.defaults.get("limits", {}) if model else {})
        problems += suits(spec, model) if model else ()
        parsed = self._parse(spec, problems)
        fitted = self._fit(parsed, spec, model, problems)
        if problems or model is None or parsed is None or fitted is None:
            raise BadRequest.of(tuple(problems))
        words = [row.trigger_words for row in fitted.adapters]
        networks = tuple(self._network(row) for row in fitted.adapters)
        return Prepared(
            spec=spec,
            clean_prompt=triggers.insert(parsed.text, words, self.limits.apply_triggers),
            networks=networks,
            plan=fitted.plan,
            second_plan=fitted.second_plan,
            warnings=(*fitted.warnings, *_about_negative(spec), *self._about_pins(spec)),
            model_id=model.id,
            model_name=model.name,
            model_key=model.sha256,
            model_bytes=model.bytes,
            network_set=network_set(networks),
            batch_key=batch_key(spec, model.sha256),
        )

    def _model(self, name: str | None, problems: list[Problem]) -> ModelRow | None:
        if name not in self._models:
            try:
                self._models[name] = models.find(self.session, name)
            except BadRequest as error:
                self._models[name] = error
        found = self._models[name]
        if isinstance(found, ModelRow):
            return found
        problems += found.problems
        return None

    def _fill_in(self, asked: JobSpec, model: ModelRow | None, problems: list[Problem]) -> JobSpec:
        defaults = {**_DEFAULTS, **(model.defaults if model else {})}
        values = {name: defaults[name] for name in _DEFAULTS if getattr(asked, name) is None}
        if asked.seed in (None, -1):
            values["seed"] = draw_seed()
        if "frames" in defaults:
            values |= {
                name: defaults.get(name, 16.0) for name in ("frames", "fps") if getattr(asked, name) is None
            }
        if asked.hr_scale is not None:
            steps = values.get("steps", asked.steps)
            hires = {"hr_steps": steps, "hr_strength": HR_STRENGTH}
            values |= {name: value for name, value in hires.items() if getattr(asked, name) is None}
        if asked.worker_tags:
            values["worker_tags"] = [tag.strip().lower() for tag in asked.worker_tags]
        if asked.linear_curves is None:
            values["linear_curves"] = self.limits.linear_curves
        if model is not None:
            values["model"] = model.name
        try:
            values["sampler"] = normalise_sampler(asked.sampler or defaults["sampler"])
            if model is not None:
                check_fits(values["sampler"], model.family)
        except BadRequest as error:
            problems += error.problems
        return asked.model_copy(update=values)

    def _parse(self, spec: JobSpec, problems: list[Problem]) -> ParsedPrompt | None:
        if any(problem.pointer == "/prompt" for problem in problems):
            return None
        try:
            return parse(spec.prompt, max_tags=self.limits.max_tags)
        except BadRequest as error:
            problems += error.problems
            return None

    def _fit(
        self, parsed: ParsedPrompt | None, spec: JobSpec, model: ModelRow | None, problems: list[Problem]
    ) -> Fitted | None:
        second = spec.hr_steps if spec.hr_scale is not None else None
        runs = [steps for steps in (spec.steps, second) if steps is not None]
        if parsed is None or model is None or not all(1 <= steps <= self.limits.max_steps for steps in runs):
            return None
        assert spec.steps is not None
        try:
            return self._fitter.fit(
                parsed.tags,
                model,
                spec.steps,
                second,
                default_strength=self.limits.default_strength,
                linear=bool(spec.linear_curves),
            )
        except BadRequest as error:
            problems += error.problems or (
                Problem(code=error.code, message=error.message, hint=error.hint, pointer="/model"),
            )
            return None

    def _about_pins(self, spec: JobSpec) -> tuple[str, ...]:
        memory = spec.min_memory or 0
        if not (memory or spec.worker_tags):
            return ()
        if self._fleet is None:
            rows = self.session.scalars(select(Worker.report).where(Worker.state != "gone"))
            self._fleet = [WorkerReport.from_dict(row) for row in rows]
        for report in self._fleet:
            if pins.met(memory, spec.worker_tags, has_memory=report.memory_total, has_tags=report.tags):
                return ()
        return (f"{pins.nobody(memory, spec.worker_tags)}; the job waits until one is",)

    def _network(self, row: AdapterRow) -> Network:
        own = row.default_strength
        return Network(
            name=row.name,
            sha256=row.sha256,
            size=row.size,
            file_name=row.file_name,
            type=row.type,
            base_model=row.base_model,
            adapter_id=row.id,
            default_strength=self.limits.default_strength if own is None else own,
            expert=row.info.get("expert", ""),
        )


def draw_seed() -> int:
    return secrets.randbelow(_DRAWN_SEEDS)


def network_set(networks: tuple[Network, ...]) -> str:
    """Equal for equal sets of files; empty without any."""
    hashes = sorted({network.sha256 for network in networks})
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:32] if hashes else ""


def batch_key(spec: JobSpec, model_key: str) -> str:
    """Equal for jobs that may be sampled in one forward pass, and that take the same time for a step."""
    key = f"{model_key[:16]}:{spec.width}x{spec.height}:{spec.steps}:{spec.sampler}:{spec.guidance_scale:g}"
    if spec.frames is not None:
        key += f":{spec.frames}f"
    if spec.hr_scale is not None:
        key += f":hr{spec.hr_scale:g}:{spec.hr_steps}:{spec.hr_strength:g}"
    return key


def _about_negative(spec: JobSpec) -> tuple[str, ...]:
    if "<lora:" in spec.negative_prompt.casefold():
        return ("tags in the negative prompt are not applied; write them into the prompt",)
    return ()
