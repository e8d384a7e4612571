"""The first stage: files from the store to disk and memory, tags to a plan. It runs while another job samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from farm.clock import Clock
from farm.jobs.loading import JobForWorker
from farm.jobs.prepare import Network
from farm.jobs.spec import JobSpec
from farm.jobs.states import Stage
from farm.lora.layout import Layout
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter
from farm.models import families
from farm.models.hires import Hires
from farm.models.sampler import SampleSpec
from farm.prompt import resolve, tags
from farm.prompt.passes import Plans, plans
from farm.store.disk import DiskCache
from farm.store.trees import Tree, open_tree
from farm.worker.effects import Effects
from farm.worker.held import HeldJob
from farm.worker.layouts import Layouts
from farm.worker.memory import AdapterCache
from farm.worker.patience import Patience
from farm.worker.traffic import Traffic

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job with everything at hand that the device needs. `close` lets go of files and adapters."""

    job: JobForWorker
    held: HeldJob
    spec: SampleSpec
    plan: StrengthPlan
    #: of the second pass, if there is one
    second_plan: StrengthPlan | None
    adapters: Mapping[str, Adapter]
    #: sentences for the job, beyond those of its submission
    warnings: tuple[str, ...]
    pins: ExitStack

    def close(self) -> None:
        self.pins.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The adapters of a job, and what its tags mean."""

    layout: Layout
    #: by sha256
    adapters: Mapping[str, Adapter]
    plan: StrengthPlan
    #: of the second pass, if there is one
    second_plan: StrengthPlan | None
    #: sentences for the job, beyond those of its submission
    warnings: tuple[str, ...]


class Preparer:
    """Prepares one job at a time for each thread that calls it."""

    def __init__(
        self,
        effects: Effects,
        disk: DiskCache,
        adapters: AdapterCache[Adapter],
        layouts: Layouts,
        patience: Patience,
        clock: Clock,
        traffic: Traffic,
        prefetched: Callable[[str], int],
        *,
        force_reload: bool,
        debug: bool = False,
    ):
        self._effects = effects
        self._disk = disk
        self._adapters = adapters
        self._layouts = layouts
        self._patience = patience
        self._clock = clock
        self._traffic = traffic
        #: bytes of a file that had been fetched before its job came
        self._prefetched = prefetched
        self._force_reload = force_reload
        self._debug = debug

    def prepare(self, job: JobForWorker, held: HeldJob, *, model_hot: bool) -> Prepared:
        """Fetch, verify and parse what `job` needs; the model's files too, unless it is loaded already.

        Raises:
            FarmError: a file is missing, damaged or does not fit; the store is away for long.
            Interrupted: the job must not go on.
        """
        with ExitStack() as pins:
            if not model_hot:
                pins.enter_context(self.fetch_model(job, held))
            gathered = self.gather(job, held, pins)
            spec = job.spec
            return Prepared(
                job=job,
                held=held,
                spec=SampleSpec(
                    prompt=job.clean_prompt,
                    negative_prompt=spec.negative_prompt,
                    width=spec.width or 0,
                    height=spec.height or 0,
                    steps=spec.steps or 0,
                    guidance_scale=spec.guidance_scale or 0.0,
                    sampler=families.normalise_sampler(spec.sampler or ""),
                    seeds=job.seeds,
                    frames=spec.frames,
                    fps=spec.fps,
                    guidance_scale_2=spec.guidance_scale_2,
                    true_cfg_scale=1.0 if spec.true_cfg_scale is None else spec.true_cfg_scale,
                    hires=_hires(spec),
                ),
                plan=gathered.plan,
                second_plan=gathered.second_plan,
                adapters=gathered.adapters,
                warnings=gathered.warnings,
                pins=pins.pop_all(),
            )

    def gather(self, job: JobForWorker, held: HeldJob, pins: ExitStack) -> Gathered:
        """The adapters of `job` in memory until `pins` lets go, and its tags as a plan; raises as `prepare`."""
        layout = self._layouts.of(job.model)
        with held.timed(Stage.FETCHING, self._clock):
            adapters = {
                network.sha256: self._adapter(network, job, layout, held, pins) for network in job.networks
            }
        planned = self._plan(job, layout)
        if self._debug:
            log_layers(planned.first, adapters, layout)
        warnings = [*planned.notes, *(text for adapter in adapters.values() for text in adapter.warnings)]
        return Gathered(
            layout=layout,
            adapters=adapters,
            plan=planned.first,
            second_plan=planned.second,
            warnings=tuple(text for text in dict.fromkeys(warnings) if text not in job.warnings),
        )

    def fetch_model(self, job: JobForWorker, held: HeldJob) -> Tree:
        """`open_model`, as the first part of a job."""
        with held.timed(Stage.FETCHING, self._clock):
            tree = self.open_model(job, held)
        cache, size = "disk" if tree.hit else "miss", tree.bytes_fetched
        log.info("model_ready", model=job.model.key[:12], cache=cache, bytes=size)
        return tree

    def open_model(self, job: JobForWorker, held: HeldJob) -> Tree:
        """The model's files as a folder on this machine's disk, pinned."""
        manifest = job.model.files
        fetch = partial(self._fetch, held)
        tree = self._patience.until_done("fetch_model", lambda: open_tree(self._disk, manifest, fetch), held)
        for entry in tree.entries:
            early = self._prefetched(entry.path.name)
            held.timings.prefetched += early
            held.timings.bytes_fetched += 0 if entry.hit or early else entry.bytes
        return tree

    def _adapter(
        self, network: Network, job: JobForWorker, layout: Layout, held: HeldJob, pins: ExitStack
    ) -> Adapter:
        if self._force_reload:
            self._adapters.drop(network.sha256)
            self._disk.discard(network.sha256)
        began = self._clock.monotonic()
        early, fetched = self._prefetched(network.sha256), 0

        def load() -> Adapter:
            nonlocal early, fetched
            fetch = partial(self._fetch, held, network.sha256)
            entry = self._patience.until_done(
                "fetch_adapter", lambda: self._disk.get(network.sha256, network.size, fetch), held
            )
            with entry:
                early = early or self._prefetched(network.sha256)
                fetched = 0 if entry.hit or early else entry.bytes
                # the mapped file outlives its name, so the pin ends with the parsing
                return self._effects.load_adapter(entry.path, layout, network.sha256, network.name)

        adapter, hit = pins.enter_context(self._adapters.use(network.sha256, job.model.key, load))
        held.timings.cache_hits += hit
        held.timings.cache_misses += not hit
        held.timings.bytes_fetched += fetched
        held.timings.prefetched += early
        log.info(
            "adapter_ready",
            adapter=network.sha256[:12],
            cache="hit" if hit else "disk" if not fetched else "miss",
            bytes=fetched,
            seconds=round(self._clock.monotonic() - began, 4),
        )
        return adapter

    def _fetch(self, held: HeldJob, sha256: str, path: Path) -> None:
        # a worker that stops does not begin what others can fetch and render
        self._patience.hands.hand_back_unless(held, float("inf"))
        held.check()
        self._traffic.fetch(sha256, path, lambda: self._effects.fetch(sha256, path), held.check)

    @staticmethod
    def _plan(job: JobForWorker, layout: Layout) -> Plans:
        refs = {
            network.name.casefold(): resolve.AdapterRef(
                name=network.name,
                sha256=network.sha256,
                file_name=network.file_name,
                default_strength=network.default_strength,
                expert=network.expert,
            )
            for network in job.networks
        }
        hires = _hires(job.spec)
        return plans(
            tags.parse(job.spec.prompt).tags,
            refs,
            layout,
            job.spec.steps or 0,
            hires.steps if hires else None,
            linear=bool(job.spec.linear_curves),
        )


def _hires(spec: JobSpec) -> Hires | None:
    if spec.hr_scale is None:
        return None
    return Hires(scale=spec.hr_scale, steps=spec.hr_steps or 0, strength=spec.hr_strength or 0.0)


def log_layers(plan: StrengthPlan, adapters: Mapping[str, Adapter], layout: Layout) -> None:
    """One line for each layer of each adapter: what it is, and the strengths that it goes through; one for each of its
    modules that the model lacks."""
    for schedule in plan.adapters:
        for module in adapters[schedule.sha256].missed:
            log.info(
                "adapter_module_skipped",
                adapter=schedule.sha256[:12],
                module=module,
                why="the model lacks it",
            )
        for name, delta in adapters[schedule.sha256].deltas.items():
            curve = schedule.strengths.get(layout.layers[name].region, (0.0,))
            log.info(
                "adapter_layer",
                adapter=schedule.sha256[:12],
                layer=name,
                kind=type(delta).__name__,
                strengths=list(dict.fromkeys(curve)),
            )
