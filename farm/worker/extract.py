"""Jobs that make one LoRA of several adapters: fetch, extract layer by layer on the device's thread, upload, record.

Weights are read from the model's files, never from a loaded model, which may hold other jobs' adapters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog
from torch import Tensor

from farm.clock import Clock
from farm.jobs.ingest import file_sha256
from farm.jobs.kinds import Extraction
from farm.jobs.loading import JobForWorker
from farm.jobs.made import NewAdapter
from farm.jobs.prepare import Network
from farm.jobs.states import Stage
from farm.lora.changes import Weights, changed_layers, needs_pristine, of_adapters
from farm.lora.extract import Kept, Report, extract
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.lora.formats.provenance import Made, Source
from farm.lora.layout import Layer
from farm.lora.saving import save_lora
from farm.lora.schedule import StrengthPlan
from farm.models.stored import open_stored
from farm.prompt.tags import parse
from farm.worker.device import Device
from farm.worker.effects import Effects
from farm.worker.held import Hands, HeldJob
from farm.worker.patience import Patience
from farm.worker.prepare import Gathered, Preparer
from farm.worker.progress import Progress
from farm.worker.rates import Rates
from farm.worker.ride import PUBLISH_SECONDS
from farm.worker.sample import Sampler

log = structlog.get_logger(__name__)


class Extractor:
    """The runner of jobs that extract."""

    def __init__(
        self,
        effects: Effects,
        preparer: Preparer,
        sampler: Sampler,
        hands: Hands,
        progress: Progress,
        patience: Patience,
        rates: Rates,
        device: Device,
        clock: Clock,
    ):
        self._effects = effects
        self._preparer = preparer
        self._sampler = sampler
        self._hands = hands
        self._progress = progress
        self._patience = patience
        self._rates = rates
        self._device = device
        self._clock = clock

    def run(self, job: JobForWorker, held: HeldJob, device_is_free: Callable[[], None]) -> bool:
        """Extract and record the adapter; see `farm.worker.stages.Runner`."""
        assert job.extraction is not None
        with ExitStack() as pins:
            work = self._preparer.gather(job, held, pins)
            weights = self._weights(job, held, work, pins)
            kept, report = self._sampler.on_device(held, partial(self._extract, job, held, work, weights))
            device_is_free()
            folder = Path(pins.enter_context(tempfile.TemporaryDirectory(prefix="farm-extract-")))
            with held.timed(Stage.UPLOADING, self._clock):
                self._progress.job(held)
                path = self._write(folder, job, job.extraction, work, kept)
                made = self._keep(path, job.extraction, held)
        summary = report.summary()
        every = [*job.warnings, *work.warnings] if work.warnings else []
        # nothing asks any more whether the job may go on: the record itself is guarded
        return self._patience.until_done(
            "record", lambda: self._effects.succeed_with_adapter(held, made, summary, every)
        )

    def _weights(self, job: JobForWorker, held: HeldJob, work: Gathered, pins: ExitStack) -> Weights:
        """Reads the model's weights, whose files are fetched only when something asks for them."""
        if not needs_pristine(work.plan, work.adapters, work.layout):
            return _none_needed
        tree = pins.enter_context(self._preparer.fetch_model(job, held))
        stored = open_stored(tree.path)
        place = self._device.name if self._device.is_cuda else "cpu"

        def read(layer: Layer, word: str) -> Tensor | None:
            found = stored.read(layer, word)
            return None if found is None else found.to(place)

        return read

    def _extract(
        self, job: JobForWorker, held: HeldJob, work: Gathered, weights: Weights
    ) -> tuple[list[Kept], Report]:
        assert job.extraction is not None
        held.steps, held.step = len(changed_layers(work.plan, work.adapters, work.layout)), 0
        began = self._clock.monotonic()

        def after_layer(done: int) -> None:
            held.step = done
            each = (self._clock.monotonic() - began) / done
            self._hands.hand_back_unless(held, each * (held.steps - done) + PUBLISH_SECONDS)
            self._progress.job(held, seconds_per_step=round(each, 4))
            held.check()

        with held.timed(Stage.EXTRACTING, self._clock):
            self._progress.job(held)
            changes = of_adapters(work.plan, work.adapters, work.layout, weights)
            found = extract(changes, job.extraction.budget, after_layer)
        if held.steps:
            self._rates.step_took(job.batch_key, (self._clock.monotonic() - began) / held.steps, 1)
        return found

    @staticmethod
    def _write(
        folder: Path, job: JobForWorker, asked: Extraction, work: Gathered, kept: Sequence[Kept]
    ) -> Path:
        """The file. Its date is the job's, so that another attempt writes the same bytes."""
        words = [word for adapter in work.adapters.values() for word in adapter.info.trigger_words]
        made = Made(
            title=asked.name,
            family=job.model.family,
            date=job.created_at,
            sources=[_source(network, job, work.plan) for network in job.networks],
            base=job.model.name,
            trigger_words=words,
        )
        # an adapter's name may be longer than a file's
        path = folder / "made.safetensors"
        save_lora(path, kept, work.layout, made)
        return path

    def _keep(self, path: Path, asked: Extraction, held: HeldJob) -> NewAdapter:
        header, sha256, file_name = read_header(path), file_sha256(path), f"{asked.name}.safetensors"
        self._patience.until_done("upload", lambda: self._effects.keep(sha256, path), held)
        log.info("adapter_kept", sha256=sha256[:12], bytes=path.stat().st_size)
        return NewAdapter(
            name=asked.name,
            file_name=file_name,
            sha256=sha256,
            size=path.stat().st_size,
            header=header,
            info=inspect(header, file_name),
        )


def _none_needed(layer: Layer, word: str) -> Tensor | None:
    raise AssertionError(f"{layer.name}.{word} was said not to be needed")


def _source(network: Network, job: JobForWorker, plan: StrengthPlan) -> Source:
    """An adapter with its strength: one number where it is the same everywhere, else its tags as written."""
    schedules = [schedule for schedule in plan.adapters if schedule.sha256 == network.sha256]
    strengths = {values[0] for schedule in schedules for values in schedule.strengths.values()}
    if len(schedules) == 1 and len(strengths) == 1 and schedules[0].max_rank is None:
        strength = f"{strengths.pop():g}"
    else:
        tags = parse(job.spec.prompt).tags
        name = network.name.casefold()
        strength = " ".join(
            tag.source for tag in tags if tag.name.casefold() in (name, f"{name}.safetensors")
        )
    return Source(name=network.file_name, sha256=network.sha256, strength=strength)
