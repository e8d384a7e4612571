"""The third stage: pictures to PNG files, to the store, into SQL. It runs while the next job samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import structlog
from PIL import Image

from farm.clock import Clock
from farm.jobs.attempts import NewImage
from farm.jobs.loading import JobForWorker
from farm.jobs.metadata import encode_png, image_info
from farm.jobs.states import Stage
from farm.store import keys
from farm.worker.effects import Effects
from farm.worker.held import HeldJob
from farm.worker.patience import Patience

log = structlog.get_logger(__name__)


class Publisher:
    """Uploads and records results. Bytes first: no row names a picture that the store has not confirmed."""

    def __init__(self, effects: Effects, patience: Patience, clock: Clock):
        self._effects = effects
        self._patience = patience
        self._clock = clock

    def publish(
        self, job: JobForWorker, held: HeldJob, pictures: Sequence[Image.Image], warnings: Sequence[str]
    ) -> bool:
        """Store and record the pictures; False when another attempt owns the job, whose objects stay then.

        Store and database may be away for a while: the pictures are held meanwhile.

        Raises:
            Interrupted: the job must not go on, which is noticed before the record only.
            Transient, DBAPIError: store or database were away for too long.
        """
        with held.timed(Stage.UPLOADING, self._clock):
            images = []
            for index, (seed, picture) in enumerate(zip(job.seeds, pictures, strict=True)):
                held.check()
                info = image_info(job, index=index, width=picture.width, height=picture.height)
                data = encode_png(picture, info)
                key = keys.result(job.owner_id, job.id, held.attempt, index)
                sha256 = self._patience.until_done("upload", partial(self._effects.upload, key, data), held)
                images.append(
                    NewImage(
                        index=index,
                        seed=seed,
                        width=picture.width,
                        height=picture.height,
                        object_key=key,
                        sha256=sha256,
                        size=len(data),
                        info=info,
                    )
                )
        # nothing asks any more whether the job may go on: the record itself is guarded, and what commits first wins
        every = [*job.warnings, *warnings]
        return self._patience.until_done(
            "record", lambda: self._effects.succeed(held, images, every if warnings else ())
        )
