"""The third stage: pictures and clips to files, to the store, into SQL. It runs while the next job samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from PIL import Image

from farm.clock import Clock
from farm.jobs.attempts import PNG, NewImage
from farm.jobs.loading import JobForWorker
from farm.jobs.metadata import encode_png, image_info, video_texts
from farm.jobs.states import Stage
from farm.models.clip import Clip
from farm.store import keys
from farm.worker import video
from farm.worker.effects import Effects
from farm.worker.held import HeldJob
from farm.worker.patience import Patience

log = structlog.get_logger(__name__)

_STILL_TYPE = "image/webp"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file of a result."""

    ending: keys.Ending
    media_type: str
    data: bytes


class Publisher:
    """Uploads and records results. Bytes first: no row names a file that the store has not confirmed."""

    def __init__(self, effects: Effects, patience: Patience, clock: Clock):
        self._effects = effects
        self._patience = patience
        self._clock = clock

    def publish(
        self, job: JobForWorker, held: HeldJob, results: Sequence[Image.Image | Clip], warnings: Sequence[str]
    ) -> bool:
        """Store and record the results; False when another attempt owns the job, whose objects stay then.

        Store and database may be away for a while: the results are held meanwhile.

        Raises:
            Interrupted: the job must not go on, which is noticed before the record only.
            Transient, DBAPIError: store or database were away for too long.
        """
        with held.timed(Stage.UPLOADING, self._clock):
            images = []
            for index, _, result in zip(range(job.spec.count), job.seeds, results, strict=True):
                held.check()
                if isinstance(result, Clip):
                    images.append(self._store_clip(job, held, index, result))
                else:
                    images.append(self._store_picture(job, held, index, result))
        # nothing asks any more whether the job may go on: the record itself is guarded, and what commits first wins
        every = [*job.warnings, *warnings]
        return self._patience.until_done(
            "record", lambda: self._effects.succeed(held, images, every if warnings else ())
        )

    def _store_picture(self, job: JobForWorker, held: HeldJob, index: int, picture: Image.Image) -> NewImage:
        info = image_info(job, index=index, size=picture.size)
        file = _File(ending="png", media_type=PNG, data=encode_png(picture, info))
        key, sha256 = self._upload(job, held, index, file)
        return NewImage(
            index=index,
            seed=job.seeds[index],
            width=picture.width,
            height=picture.height,
            object_key=key,
            sha256=sha256,
            size=len(file.data),
            info=info,
        )

    def _store_clip(self, job: JobForWorker, held: HeldJob, index: int, clip: Clip) -> NewImage:
        first, count = clip.frames[0], len(clip.frames)
        info = image_info(job, index=index, size=first.size, video={"frames": count, "fps": clip.fps})
        film = _File(
            ending="webm", media_type=video.MEDIA_TYPE, data=video.encode_webm(clip, video_texts(info))
        )
        # the middle one says more than the first, which often fades in
        still = _File(ending="webp", media_type=_STILL_TYPE, data=video.encode_still(clip.frames[count // 2]))
        key, sha256 = self._upload(job, held, index, film)
        poster_key, _ = self._upload(job, held, index, still)
        return NewImage(
            index=index,
            seed=job.seeds[index],
            width=first.width,
            height=first.height,
            object_key=key,
            sha256=sha256,
            size=len(film.data),
            info=info,
            media_type=film.media_type,
            frames=count,
            fps=clip.fps,
            poster_key=poster_key,
        )

    def _upload(self, job: JobForWorker, held: HeldJob, index: int, file: _File) -> tuple[str, str]:
        """Key and hash of the object, once the store has it."""
        key = keys.result(job.owner_id, job.id, held.attempt, index, file.ending)
        upload = partial(self._effects.upload, key, file.data, file.media_type)
        return key, self._patience.until_done("upload", upload, held)
