"""Shows what a prompt means for a model: the cleaned prompt, and each adapter's strengths by component, block and step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from farm.errors import BadRequest, Problem
from farm.lora.formats.header import TensorInfo
from farm.lora.formats.inspect import AdapterInfo
from farm.lora.formats.match import check, match
from farm.lora.layout import Layer, Layout, Region
from farm.lora.schedule import StrengthPlan
from farm.prompt.blocks import ANY_FAMILY, UNET_BLOCKS
from farm.prompt.mistakes import Mistake
from farm.prompt.resolve import AdapterRef, Presets, find, plan
from farm.prompt.tag import Tag
from farm.prompt.tags import parse

Strengths = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedAdapter:
    """An adapter as `explain` needs it; `tensors` (of its header) allow checking it against the model."""

    ref: AdapterRef
    type: str = "unknown"
    base_model: str = "unknown"
    trigger_words: tuple[str, ...] = ()
    info: AdapterInfo | None = None
    tensors: Mapping[str, TensorInfo] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        file_name: str,
        info: AdapterInfo,
        tensors: Mapping[str, TensorInfo] | None = None,
        *,
        sha256: str = "",
    ) -> ExplainedAdapter:
        """An adapter from its header. Without `sha256` the name stands for the content."""
        return cls(
            ref=AdapterRef(
                name=name,
                sha256=sha256 or f"name:{name.casefold()}",
                file_name=file_name,
                default_strength=info.default_strength,
                expert=info.expert,
            ),
            type=info.type,
            base_model=info.base_model,
            trigger_words=info.trigger_words,
            info=info,
            tensors=tensors,
        )


def explain(
    prompt: str,
    layout: Layout,
    steps: int,
    *,
    adapters: Mapping[str, ExplainedAdapter] | None,
    model: str | None,
    default_strength: float = 1.0,
    linear: bool = False,
    hires: bool = False,
    presets: Presets | None = None,
    max_tags: int = 64,
    known_names: Collection[str] = (),
) -> dict[str, Any]:
    """Return the object that `explain --json` prints. `adapters` has casefolded names; None: any name will do.

    A part of the denoiser whose blocks differ (`lbw`, `blocks`) is shown by its blocks' labels instead of
    `in`, `mid` or `out`, and its layers outside any block as `base`.

    Raises:
        BadRequest: with one Problem for each mistake.
    """
    parsed = parse(prompt, max_tags=max_tags)
    known = _any_adapters(parsed.tags) if adapters is None else adapters
    refs = {word: adapter.ref for word, adapter in known.items()}
    resolved = plan(
        parsed.tags,
        refs,
        layout,
        steps,
        default_strength=default_strength,
        linear=linear,
        hires=hires,
        presets=presets,
        known_names=known_names,
    )
    named: dict[str, tuple[Tag, ExplainedAdapter]] = {}
    by_ref = {id(adapter.ref): adapter for adapter in known.values()}
    for tag in parsed.tags:
        ref = find(refs, tag.name)
        if ref is not None:
            named.setdefault(ref.sha256, (tag, by_ref[id(ref)]))
    warnings = [*resolved.notes, *_check_all(named, layout)]
    return {
        "prompt": parsed.text,
        "steps": steps,
        "model": model,
        "adapters": [
            {
                "name": adapter.ref.name,
                "type": adapter.type,
                "base_model": adapter.base_model,
                "trigger_words": list(adapter.trigger_words),
                "strengths": table(resolved.plan, sha256, layout),
            }
            for sha256, (_, adapter) in named.items()
        ],
        "warnings": warnings,
    }


def table(resolved: StrengthPlan, sha256: str, layout: Layout) -> Strengths:
    """Return one adapter's strengths as `{component: {block: [s1 … sn]}}`, zeros included."""
    zero = (0.0,) * resolved.steps
    found: dict[str, dict[str, dict[Region, tuple[float, ...]]]] = {}
    for region in layout.regions():
        values = zero
        for schedule in resolved.adapters:
            if schedule.sha256 == sha256 and region in schedule.strengths:
                values = tuple(a + b for a, b in zip(values, schedule.strengths[region], strict=True))
        found.setdefault(region.component, {}).setdefault(region.block, {})[region] = values
    return {
        component: _by_block({block: parts[block] for block in _in_order(parts)}, layout)
        for component, parts in found.items()
    }


def generic_layout() -> Layout:
    """A model that nobody named: one text encoder and a UNet with the blocks of SD1, one layer in each."""
    layers = [
        Layer(component="text_encoder", path="layer", kind="linear", shape=(1, 1), bias=False, block="all"),
        Layer(component="unet", path="outside", kind="linear", shape=(1, 1), bias=False, block="in"),
    ]
    for index, label in enumerate(UNET_BLOCKS):
        if index == 0:
            continue  # IN00 is conv_in, which stands outside the blocks
        side = "in" if label.startswith("IN") else "mid" if label.startswith("M") else "out"
        layers.append(
            Layer(
                component="unet", path=label, kind="linear", shape=(1, 1), bias=False, block=side, index=index
            )
        )
    return Layout(
        family=ANY_FAMILY,
        denoisers=("unet",),
        text_encoders=("text_encoder",),
        blocks=UNET_BLOCKS,
        layers={layer.name: layer for layer in layers},
    )


def _any_adapters(tags: Collection[Tag]) -> dict[str, ExplainedAdapter]:
    return {
        tag.name.casefold(): ExplainedAdapter(
            ref=AdapterRef(name=tag.name, sha256=f"name:{tag.name.casefold()}")
        )
        for tag in reversed(list(tags))
    }


def _check_all(named: Mapping[str, tuple[Tag, ExplainedAdapter]], layout: Layout) -> list[str]:
    """Warnings about adapters that fit the model in part. Raises BadRequest for those that do not fit."""
    warnings: list[str] = []
    problems: list[Problem] = []
    for tag, adapter in named.values():
        if adapter.info is None or adapter.tensors is None:
            continue
        try:
            met = match(adapter.tensors, adapter.info.metadata, layout)
            warnings += check(adapter.info, met, layout, adapter.ref.name)
        except BadRequest as refused:
            mistake = Mistake(refused.code, refused.message, refused.hint)
            problems.append(tag.problem(mistake, "name"))
    if problems:
        raise BadRequest.of(tuple(problems))
    return warnings


def _in_order(parts: Collection[str]) -> list[str]:
    usual = ("in", "mid", "out", "all")
    return sorted(parts, key=lambda block: usual.index(block) if block in usual else len(usual))


def _by_block(
    parts: Mapping[str, Mapping[Region, tuple[float, ...]]], layout: Layout
) -> dict[str, list[float]]:
    shown: dict[str, list[float]] = {}
    for block, regions in parts.items():
        if len(set(regions.values())) == 1:
            shown[block] = list(next(iter(regions.values())))
            continue
        for region in sorted(regions, key=lambda region: region.index):
            label = layout.blocks[region.index] if region.index >= 0 else "base"
            shown[label] = list(regions[region])
    return shown
