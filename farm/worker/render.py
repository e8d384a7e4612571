"""Jobs that make pictures: prepare, sample, publish."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from farm.jobs.loading import JobForWorker
from farm.jobs.states import Stage
from farm.lora.schedule import StrengthPlan
from farm.worker.held import HeldJob
from farm.worker.keeper import SETTLE_SECONDS, Keeper
from farm.worker.prepare import Prepared, Preparer
from farm.worker.progress import Progress
from farm.worker.publish import Publisher
from farm.worker.rates import Rates
from farm.worker.sample import Sampler


class Renderer:
    """The runner of jobs that render."""

    def __init__(
        self,
        preparer: Preparer,
        sampler: Sampler,
        publisher: Publisher,
        progress: Progress,
        keeper: Keeper,
        rates: Rates,
    ):
        self._preparer = preparer
        self._sampler = sampler
        self._publisher = publisher
        self._progress = progress
        self._keeper = keeper
        self._rates = rates

    def run(self, job: JobForWorker, held: HeldJob, device_is_free: Callable[[], None]) -> bool:
        """Render `job` and record its pictures; see `farm.worker.stages.Runner`."""
        work = self._preparer.prepare(job, held, model_hot=self._sampler.holds_model(job.model.key))
        with work.pins:
            checkpoint = self._keeper.find(job, held)
            pictures = self._sampler.sample(work, partial(self._preparer.open_model, job, held), checkpoint)
        device_is_free()
        self._learn(work)
        self._progress.job(held)
        # the history is told before the end, and nothing needs a checkpoint any more
        self._keeper.settle(held, SETTLE_SECONDS, forget=True)
        return self._publisher.publish(job, held, pictures, (*work.warnings, *held.notes))

    def _learn(self, work: Prepared) -> None:
        """What a job tells of the cost of an adapter: one whose adapters were all new, and were applied just once."""
        timings, number = work.held.timings, len(work.adapters)
        if number and timings.cache_misses == number and work.second_plan is None and steady(work.plan):
            self._rates.adapters_patched(number, timings.seconds[Stage.PATCHING])


def steady(plan: StrengthPlan) -> bool:
    """Whether no strength changes from step to step."""
    return all(len(set(curve)) == 1 for item in plan.adapters for curve in item.strengths.values())
