"""One worker with all its parts: built from settings, started, drained and stopped. Signals are `farm.worker.main`'s."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import structlog
import torch
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from farm.clock import Clock
from farm.db.engine import make_engine, make_sessions
from farm.errors import Transient
from farm.jobs import workers
from farm.jobs.kinds import Kind
from farm.jobs.pins import parse_tags
from farm.jobs.reports import WorkerReport
from farm.lora import tensors
from farm.lora.layout import Layout
from farm.lora.tensors import Adapter
from farm.models.diffusers_loader import load_adapter as load_for_diffusers
from farm.models.load import load as load_model
from farm.models.preview import to_webp
from farm.queue import events, wake
from farm.queue.redis import connect
from farm.settings import Settings
from farm.store.disk import DiskCache
from farm.store.s3 import open_store
from farm.store.trees import whole_trees
from farm.worker.batching import Gains
from farm.worker.consumer import Consumer
from farm.worker.device import Device, pick_device
from farm.worker.effects import Effects, sql_effects, store_effects
from farm.worker.extract import Extractor
from farm.worker.held import Hands
from farm.worker.keeper import Keeper
from farm.worker.kit import Kit
from farm.worker.layouts import Layouts
from farm.worker.measured import measured
from farm.worker.memory import AdapterCache, ModelCache
from farm.worker.models import HotModel
from farm.worker.name import take_name
from farm.worker.patience import PAUSES, Patience
from farm.worker.prefetch import Prefetcher
from farm.worker.prepare import Preparer
from farm.worker.progress import Progress
from farm.worker.publish import Publisher
from farm.worker.pulse import Heartbeat, Poll
from farm.worker.rates import Rates
from farm.worker.render import Renderer
from farm.worker.resume import Resumer
from farm.worker.sample import Sampler
from farm.worker.stages import Runner, Stages
from farm.worker.traffic import Traffic
from farm.worker.way import LoraWay

log = structlog.get_logger(__name__)

#: Kept back from the time to drain, for leaving the fleet.
_LEAVE_SECONDS = 1.0
_LOOK_SECONDS = 0.05

Wrap = Callable[[Effects], Effects]


def load_for_engine(path: Path, layout: Layout, sha256: str, name: str) -> Adapter:
    """See `farm.lora.tensors.load`."""
    return tensors.load(path, layout, sha256=sha256, name=name)


class Worker:
    """Renders jobs from `start` to `stop`."""

    def __init__(self, settings: Settings, clock: Clock, wrap: Wrap = lambda effects: effects):
        """Connect, pick the device, join the fleet. `wrap` may replace effects, for instance by ones that fail.

        Raises:
            BadRequest: a setting is wrong.
            Conflict: the name is taken on this machine.
        """
        self._settings = settings
        self._clock = clock
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        self._tags = parse_tags(settings.worker_tags)
        self.device: Device = pick_device(settings.device)
        folder = settings.resolved_cache_dir()
        self.name, self._name_lock = take_name(settings.worker_name, self.device.name, folder / "workers")
        self._engine: Engine = make_engine(settings.resolved_database_url())
        self._sessions: sessionmaker[Session] = make_sessions(self._engine)
        self._redis_url = settings.redis_url.get_secret_value()
        self._redis = connect(self._redis_url)
        self._store = open_store(settings)
        self._disk = DiskCache(folder, settings.disk_cache_bytes, clock)
        self._models: ModelCache[HotModel] = ModelCache(settings.model_cache_count)
        self._adapters: AdapterCache[Adapter] = AdapterCache(
            settings.lora_in_memory_limit, settings.lora_cache_bytes
        )
        self._rates = Rates()
        # a compiled denoiser compiles anew for each number of pictures
        self._gains = Gains(1 if settings.compile else settings.batch_limit, measured=settings.batch_measured)
        self.hands = Hands(clock)
        self._wrap = wrap
        self._id = ""

    @property
    def id(self) -> str:
        return self._id

    def start(self) -> None:
        """Join the fleet and take jobs; waits for a database that is away."""
        while not self._id:
            self._join()
            if self.hands.stopping.is_set():
                return
        self._assemble(measured(self._wrap(self._effects()), self._rates, self._clock))
        self._progress.start()
        self._keeper.start()
        self._sampler.start()
        self._prefetcher.start()
        self._heartbeat.start()
        self._poll.start()
        self._consumer.start()
        self._progress.worker(self._id, "up")
        log.info("worker_up", worker=self.name, worker_id=self._id, device=self.device.title)

    def stop(self) -> bool:
        """Take nothing new, finish what fits the drain time, hand back the rest, leave. False when something hung."""
        if not self._id:
            return True
        if self.hands.seconds_left() is None:
            self.hands.leave_within(self._settings.drain_seconds)
        self._progress.worker(self._id, "draining")
        log.info("worker_stopping", held=len(self.hands.current()))
        while self.hands.current() and (self.hands.seconds_left() or 0) > _LEAVE_SECONDS:
            self._clock.sleep(_LOOK_SECONDS)
        finished = not self.hands.current()
        self._poll.close()
        self._heartbeat.close()
        self._prefetcher.close()
        try:
            self._effects_in_use.leave()
        except DBAPIError as error:
            log.warning("left_without_a_word", error=str(error.orig))
        self._progress.worker(self._id, "gone")
        self._progress.close()
        self._keeper.close()
        if finished:
            self._consumer.stop()
            self._sampler.close()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._models.drop_others("")
            self._disk.close()
            self._store.close()
            self._redis.close()
            self._engine.dispose()
            self._name_lock.close()
        log.info("worker_gone", worker=self.name, finished=finished)
        return finished

    def report(self) -> WorkerReport:
        """What this worker holds and how fast it is."""
        return WorkerReport(
            models=self._models.hot(),
            adapters=self._adapters.hashes(),
            disk=(*reversed(self._disk.hashes()), *whole_trees(self._disk)),
            device=self.device.name,
            device_name=self.device.title,
            memory_total=self.device.memory_total,
            memory_free=self.device.memory_free(),
            adapter_bytes=self._adapters.bytes(),
            tags=self._tags,
            seconds_per_step=self._rates.seconds_per_step(),
            load_seconds=self._rates.load_seconds(),
            fetch_bytes_per_second=self._rates.fetch_bytes_per_second(),
            adapter_seconds=self._rates.adapter_seconds(),
            batch_sizes=self._gains.sizes(self._clock.monotonic()),
            cache_hits=self.hands.cache_hits,
            cache_misses=self.hands.cache_misses,
            bytes_fetched=self.hands.bytes_fetched,
            bytes_prefetched=self.hands.bytes_prefetched,
            prefetch_hits=self.hands.prefetch_hits,
            jobs_done=self.hands.done,
            current=self.hands.current(),
            blocked=self.hands.blocked,
            version=version("farm"),
        )

    def _look(self) -> None:
        self._poll.soon()

    def _join(self) -> None:
        """Register; a database that is away is tried again, until this worker is told to stop."""
        tries = 0
        while not self.hands.stopping.is_set():
            try:
                self._register()
                return
            except (DBAPIError, Transient) as error:
                log.warning("cannot_register", error=str(getattr(error, "orig", error)))
            # no waiting on an event here: a signal's handler sets it, in this very thread
            until = self._clock.monotonic() + PAUSES[min(tries, len(PAUSES) - 1)]
            tries += 1
            while self._clock.monotonic() < until and not self.hands.stopping.is_set():
                self._clock.sleep(_LOOK_SECONDS)

    def _register(self) -> None:
        with self._sessions.begin() as session:
            self._id = workers.register(
                session, self.name, self.device.name, self.report(), self._clock.now(),
                crash_limit=self._settings.crash_limit,
            )  # fmt: skip

    def _effects(self) -> Effects:
        settings, device = self._settings, self.device
        return Effects(
            **sql_effects(self._sessions, self._id, self._clock),
            **store_effects(self._store),
            load_model=lambda path: load_model(path, device=device.name, dtype=settings.dtype),
            load_adapter=load_for_diffusers if settings.lora_force_diffusers else load_for_engine,
            step=lambda machine, states: machine.step(states),
            tell=partial(events.publish, self._redis),
            show_preview=partial(events.set_preview, self._redis),
            ring=partial(wake.ring, self._redis),
        )

    def _assemble(self, effects: Effects) -> None:
        settings, clock, hands = self._settings, self._clock, self.hands
        self._effects_in_use = effects
        self._progress = Progress(self.name, effects.tell, effects.show_preview, to_webp)
        patience = Patience(hands=hands, clock=clock)
        self._keeper = keeper = Keeper(effects, patience)
        resumer = Resumer(
            keeper, self.device, clock, seconds=settings.checkpoint_seconds, compiled=settings.compile
        )
        layouts, traffic = Layouts(), Traffic()
        self._prefetcher = prefetcher = Prefetcher(
            effects, self._disk, self._adapters, layouts, traffic, hands, self._models.holds, self._id
        )
        preparer = Preparer(
            effects,
            self._disk,
            self._adapters,
            layouts,
            patience,
            clock,
            traffic,
            prefetcher.used,
            force_reload=settings.lora_force_reload,
            debug=settings.lora_debug,
        )
        self._sampler = Sampler(
            Kit(
                effects=effects,
                device=self.device,
                models=self._models,
                adapters=self._adapters,
                hands=hands,
                progress=self._progress,
                rates=self._rates,
                gains=self._gains,
                clock=clock,
                resumer=resumer,
                preview_every=settings.preview_every,
                way=LoraWay.of(settings),
                compiled=settings.compile,
            )
        )
        publisher = Publisher(effects, patience, clock)
        extractor = Extractor(
            effects, preparer, self._sampler, hands, self._progress, patience, self._rates, self.device, clock
        )
        runners: dict[str, Runner] = {
            Kind.RENDER: Renderer(
                preparer, self._sampler, publisher, self._progress, keeper, self._rates
            ).run,
            Kind.EXTRACT: extractor.run,
        }
        stages = Stages(
            effects, hands, patience, runners, self._progress, self.name, keeper, self._look, ahead=self._sampler.ahead
        )  # fmt: skip
        # a full batch, one that is prepared, one that is uploaded
        threads = settings.batch_limit + 2
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="poll")
        self._consumer = Consumer(self._redis_url, self._id, stages.run, threads=threads)
        self._heartbeat = Heartbeat(
            effects,
            hands,
            self._progress,
            self.report,
            self._register,
            self._sampler.reload,
            self._disk.has_room,
            # a job that loads everything afresh has no use for what came early
            (lambda job_id: None) if settings.lora_force_reload else prefetcher.order,
            self._id,
            settings.heartbeat_seconds,
        )
        self._poll = Poll(
            effects, hands, stages, self._pool, lambda: self._consumer.messages, self._consumer.restart,
            settings.poll_seconds,
        )  # fmt: skip
