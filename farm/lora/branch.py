"""Adapters beside the frozen layers of one model: the unfused mode, with strengths for each sample of a batch.

A change of strength copies a few numbers to the device and spreads them over the layers there; no weight is written.
So it suits strengths that change at every step, weights that cannot be written (quantised ones), and batches whose
samples have different adapters, strengths and curves. See docs/explain/patching.md for when it is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from farm.lora.arithmetic import upload
from farm.lora.beside import Beside, why_not_beside
from farm.lora.compiled import refuse_freezing
from farm.lora.layout import Layer, Layout, Region
from farm.lora.patcher import PatchReport, layer_module
from farm.lora.quantised import arithmetic_of
from farm.lora.schedule import StrengthPlan
from farm.lora.sides import side_of, why_not
from farm.lora.tensors import Adapter

#: content of an adapter, and how many of its ranks
Part = tuple[str, int | None]
#: region by region, what acts there at some step
Wanted = Mapping[Region, tuple[Part, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What `rows` consecutive samples of a batch are to be denoised under, at step `step` (1 … steps) of their plan."""

    plan: StrengthPlan
    adapters: Mapping[str, Adapter]
    step: int
    rows: int = 1


class SideBranch:
    """Applies strength plans beside the modules of one model. Weights, parameters and state dicts stay as they are.

    Not for several threads; apply between two forward passes.
    """

    #: copies of weights that this mode keeps
    pristine_bytes = 0
    #: `assign` gives each row of a pass strengths of its own
    mixes = True

    def __init__(self, modules: Mapping[str, nn.Module], layout: Layout) -> None:
        """`modules` by component name."""
        self._layout = layout
        self._called = tuple(modules.values())
        self._components = {
            name: _Component(
                getattr(module, "_orig_mod", module),
                [layer for layer in layout.layers.values() if layer.component == name],
            )
            for name, module in modules.items()
        }

    def why_not(self, adapters: Mapping[str, Adapter]) -> str:
        """Why these adapters cannot act beside the layers of this model, as a sentence; "" when they can."""
        names = {name for adapter in adapters.values() for name in adapter.deltas}
        told = (component.why_not(names) for component in self._components.values())
        return why_not(adapters, self._layout) or next(filter(None, told), "")

    def apply(
        self,
        plan: StrengthPlan,
        adapters: Mapping[str, Adapter],
        step: int,
        components: Collection[str] | None = None,
    ) -> PatchReport:
        """Make the model act as `plan` wants while `step` is denoised, for all samples of a batch of any size.

        Raises BadRequest when an adapter cannot act beside a layer; see `why_not`.
        """
        return self._assign((Sample(plan=plan, adapters=adapters, step=step),), components, every=True)

    def assign(self, samples: Sequence[Sample], components: Collection[str] | None = None) -> PatchReport:
        """The same with plans of their own for the samples of a batch, in the order of its rows.

        Until the next change, batches must have as many rows as `samples` together.
        """
        return self._assign(samples, components, every=False)

    def restore(self, components: Collection[str] | None = None) -> PatchReport:
        """Take the branches away, of all components unless some are named."""
        started = perf_counter()
        changed = sum(
            component.clear()
            for name, component in self._components.items()
            if components is None or name in components
        )
        return PatchReport(changed=changed, seconds=perf_counter() - started)

    def release(self) -> None:
        """Take the branches away; nothing is kept for the next change."""
        self.restore()

    def _assign(
        self, samples: Sequence[Sample], components: Collection[str] | None, *, every: bool
    ) -> PatchReport:
        started = perf_counter()
        refuse_freezing(self._called)
        changed = 0
        with torch.no_grad():
            for name, component in self._components.items():
                if components is None or name in components:
                    changed += component.assign(samples, every=every)
        return PatchReport(changed=changed, seconds=perf_counter() - started)


class _Component:
    """The branches of one component's layers, and the strengths that are on the device for them."""

    def __init__(self, root: nn.Module, layers: Sequence[Layer]) -> None:
        self._root = root
        self._regions: dict[Region, list[Layer]] = {}
        for layer in layers:
            self._regions.setdefault(layer.region, []).append(layer)
        #: layers that have, or had, a branch
        self._known: dict[str, Beside] = {}
        #: what is installed now, by layer
        self._parts: dict[str, tuple[Part, ...]] = {}
        self._wanted: Wanted = {}
        self._rows: tuple[int, ...] = ()
        self._values: list[float] = []
        #: strengths of all layers in a row, and for each the position of its value
        self._flat = self._index = torch.empty(0)

    def why_not(self, names: Collection[str]) -> str:
        """Why a module among these layers cannot have a branch; "" when all can."""
        layers = [layer for layers in self._regions.values() for layer in layers if layer.name in names]
        told = (why_not_beside(layer, layer_module(self._root, layer)) for layer in layers)
        return next(filter(None, told), "")

    def assign(self, samples: Sequence[Sample], *, every: bool) -> int:
        """Returns how many layers got other factors or strengths. After an exception nothing is installed."""
        wanted = _wanted(samples, self._regions)
        rows = () if every else tuple(sample.rows for sample in samples)
        try:
            if rebuilt := (wanted != self._wanted or rows != self._rows):
                self._build(wanted, rows, samples)
            values = _values(samples, wanted)
            if not rebuilt and values == self._values:
                return 0
            if self._parts:
                table = upload(torch.tensor(values), self._flat.device)
                torch.index_select(table, 0, self._index, out=self._flat)
            self._values = values
            return len(self._parts)
        except BaseException:
            self.clear()
            raise

    def clear(self) -> int:
        removed = len(self._parts)
        for beside in self._known.values():
            beside.remove()
        self._known.clear()
        self._parts.clear()
        self._wanted, self._rows, self._values = {}, (), []
        self._flat = self._index = torch.empty(0)
        return removed

    def _build(self, wanted: Wanted, rows: tuple[int, ...], samples: Sequence[Sample]) -> None:
        adapters = {sha256: adapter for sample in samples for sha256, adapter in sample.adapters.items()}
        index: list[int] = []
        spans: list[tuple[Beside, int]] = []
        row_of = [n for n, count in enumerate(rows or (1,)) for _ in range(count)]
        slots = sum(len(parts) for parts in wanted.values())
        first, kept = 0, set()
        for region, parts in wanted.items():
            for layer in self._regions[region]:
                here = [n for n, part in enumerate(parts) if layer.name in adapters[part[0]].deltas]
                if not here:
                    continue
                kept.add(layer.name)
                beside = self._fill(layer, tuple(parts[n] for n in here), adapters)
                slot = [first + here[column] for column in beside.columns]
                index += [row * slots + n for row in row_of for n in slot]
                spans.append((beside, len(slot)))
            first += len(parts)
        for name in self._parts.keys() - kept:
            self._known[name].remove()
            del self._known[name], self._parts[name]
        self._place(index, spans, len(row_of))
        self._wanted, self._rows = wanted, rows

    def _fill(self, layer: Layer, parts: tuple[Part, ...], adapters: Mapping[str, Adapter]) -> Beside:
        """The layer's branch with the factors of `parts`, installed."""
        if self._parts.get(layer.name) == parts:
            return self._known[layer.name]
        sides = [side_of(adapters[sha256].deltas[layer.name], layer, rank) for sha256, rank in parts]
        module = layer_module(self._root, layer)
        beside = self._known.get(layer.name)
        if beside is None:
            beside = self._known[layer.name] = Beside(layer, module)
        beside.fill(sides, *arithmetic_of(module))
        self._parts[layer.name] = parts
        beside.install()
        return beside

    def _place(self, index: list[int], spans: Sequence[tuple[Beside, int]], rows: int) -> None:
        """Memory for the strengths of all layers, and each layer's view of it."""
        device = next((beside.device for beside, _ in spans), torch.device("cpu"))
        self._index = upload(torch.tensor(index, dtype=torch.int64), device)
        self._flat = torch.zeros(len(index), device=device)
        at = 0
        for beside, columns in spans:
            beside.strengths = self._flat[at : at + rows * columns].view(rows, columns)
            at += rows * columns


def _wanted(samples: Sequence[Sample], regions: Collection[Region]) -> Wanted:
    """What has a strength at any step, so that a curve through 0 changes numbers and nothing else."""
    found: dict[Region, tuple[Part, ...]] = {}
    for region in regions:
        parts = {
            (schedule.sha256, schedule.max_rank)
            for sample in samples
            for schedule in sample.plan.adapters
            if any(schedule.strengths.get(region, ()))
        }
        if parts:
            found[region] = tuple(sorted(parts, key=lambda part: (part[0], part[1] or 0)))
    return found


def _values(samples: Sequence[Sample], wanted: Wanted) -> list[float]:
    """Strength of each part in each region, sample by sample."""
    values: list[float] = []
    for sample in samples:
        for region, parts in wanted.items():
            told = dict.fromkeys(parts, 0.0)
            for schedule, strength in zip(
                sample.plan.adapters, sample.plan.at(region, sample.step), strict=True
            ):
                if strength:
                    told[schedule.sha256, schedule.max_rank] += strength
            values += told.values()
    return values
