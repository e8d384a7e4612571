"""Who rides together: how many pictures a forward pass pays for on this device, and whether a waiting job may join.

Decisions only: what was measured and what waits go in, a number or a way of applying adapters comes out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from farm.lora.schedule import StrengthPlan
from farm.models.strengths import AdapterLike, weights_key
from farm.worker.mode import Mode, Wish

#: A larger pass has to make more pictures a second by this factor.
MARGIN = 1.05
#: Steps of one size before its speed is believed.
ENOUGH = 2
#: A size that did not pay, or did not fit, is tried again after so many seconds.
FORGET_SECONDS = 900.0
#: Free memory that a larger batch needs, as a multiple of what its pictures took before.
HEADROOM = 1.2
#: How much a new measurement counts against what was known.
_SHARE = 0.3
#: Keys kept; the least recently measured go.
_MOST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Passenger:
    """A job as far as it matters for who may share a pass with it."""

    model_key: str
    batch_key: str
    pictures: int
    #: equal and not None: the denoiser's weights are the same for both at every step
    weights: Hashable | None
    #: why its adapters cannot act beside the layers; "" when they can
    no_branch: str = ""
    #: why its adapters cannot be written into weights; "" when they can
    no_patch: str = ""
    #: why it shares no pass with anybody; "" when it may
    alone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The batch that runs."""

    riders: tuple[Passenger, ...]
    mode: Mode
    #: of the rider that has most
    steps_left: int
    memory_free: int

    @property
    def pictures(self) -> int:
        return sum(rider.pictures for rider in self.riders)


def joined_mode(running: Running, job: Passenger, wish: Wish, gains: Gains, now: float) -> Mode | None:
    """How adapters are to be applied when `job` joins the batch at this border of steps; None: it waits."""
    first, pictures = running.riders[0], running.pictures + job.pictures
    if (job.model_key, job.batch_key) != (first.model_key, first.batch_key) or job.alone or first.alone:
        return None
    if running.memory_free < HEADROOM * pictures * gains.bytes_per_picture(job.batch_key):
        return None
    even = job.weights is not None and all(rider.weights == job.weights for rider in running.riders)
    if pictures > gains.useful(job.batch_key, mixed=not even, now=now):
        return None
    if running.mode == "diffusers":
        return None
    if even:
        # its text encoders may have adapters of their own
        return None if (job.no_branch if running.mode == "branch" else job.no_patch) else running.mode
    if wish == "patch" or job.no_branch or any(rider.no_branch for rider in running.riders):
        return None
    # to change the way for the last step of the others is not worth it: the job begins in its own way after them
    return None if running.mode == "patch" and running.steps_left < 2 else "branch"


def constant_weights(
    plan: StrengthPlan, adapters: Mapping[str, AdapterLike], denoisers: tuple[str, ...]
) -> Hashable | None:
    """A key of the denoisers' weights, where they are the same at every step."""
    keys = {weights_key(plan, adapters, step, denoisers) for step in range(1, plan.steps + 1)}
    return keys.pop() if len(keys) == 1 else None


@dataclass(slots=True)
class _Seen:
    """Steps of one size."""

    seconds: float
    count: int
    at: float


@dataclass(slots=True)
class _Speeds:
    """Of jobs with one batch key, by pictures in a pass; with equal weights, or mixed."""

    sizes: dict[int, _Seen] = field(default_factory=dict)

    def took(self, pictures: int, seconds: float, now: float) -> None:
        seen = self.sizes.get(pictures)
        if seen is None:
            self.sizes[pictures] = _Seen(seconds, 1, now)
            return
        seen.seconds += _SHARE * (seconds - seen.seconds)
        seen.count += 1
        seen.at = now

    def useful(self, now: float) -> int:
        """The size that pays, or a larger one that is worth a try."""
        known = sorted(n for n, seen in self.sizes.items() if seen.count >= ENOUGH)
        if not known:
            return 1
        best = known[0]
        for size in known[1:]:
            if self._rate(size) > MARGIN * self._rate(best):
                best = size
        for size in [n for n in known if n > best and now - self.sizes[n].at > FORGET_SECONDS]:
            del self.sizes[size]
            known.remove(size)
        lost = next((size for size in known if size > best), None)
        return 2 * best if lost is None else max(best, min(2 * best, lost - 1))

    def _rate(self, pictures: int) -> float:
        return pictures / max(self.sizes[pictures].seconds, 1e-9)


class Gains:
    """How many pictures a pass pays for, learnt from the seconds that steps took. Safe from any thread.

    A batch grows while a pass of more pictures makes more of them a second; 2 are tried when a lone job's speed is known.
    """

    def __init__(self, limit: int, *, measured: bool) -> None:
        """`limit`: most pictures of a pass that several jobs share. Not `measured`: every size up to it is taken to pay."""
        self._limit = limit
        self._measured = measured
        self._lock = threading.Lock()
        self._speeds: OrderedDict[tuple[str, bool], _Speeds] = OrderedDict()
        self._bytes: OrderedDict[str, float] = OrderedDict()
        #: pictures that fitted when more did not, and when that was
        self._fits: dict[str, tuple[int, float]] = {}
        #: by batch key, whether its last shared pass was mixed
        self._latest: dict[str, bool] = {}

    def took(self, batch_key: str, pictures: int, seconds: float, *, mixed: bool | None, now: float) -> None:
        """A step was sampled in so many seconds, patching included; `mixed` None: of one job alone."""
        with self._lock:
            if mixed is not None:
                self._latest[batch_key] = mixed
            for kind in (False, True) if mixed is None else (mixed,):
                speeds = self._speeds.setdefault((batch_key, kind), _Speeds())
                speeds.took(pictures, seconds, now)
                self._speeds.move_to_end((batch_key, kind))
            while len(self._speeds) > 2 * _MOST:
                (key, _), _ = self._speeds.popitem(last=False)
                for table in (self._fits, self._latest, self._bytes):
                    table.pop(key, None)

    def took_memory(self, batch_key: str, pictures: int, size: int) -> None:
        """A step needed so many bytes above what lay there before it."""
        with self._lock:
            self._bytes[batch_key] = max(self._bytes.get(batch_key, 0.0), size / pictures)

    def ran_out(self, batch_key: str, pictures: int, now: float) -> None:
        """So many pictures did not fit into the device's memory."""
        with self._lock:
            self._fits[batch_key] = (pictures + 1) // 2, now

    def bytes_per_picture(self, batch_key: str) -> float:
        """As measured; 0 where it was not, as on a CPU."""
        return self._bytes.get(batch_key, 0.0)

    def useful(self, batch_key: str, *, mixed: bool, now: float) -> int:
        """Pictures that a pass of several jobs should have at most."""
        with self._lock:
            return self._useful(batch_key, mixed, now)

    def size(self, batch_key: str, now: float) -> int:
        """The same for the kind of pass that was shared last."""
        with self._lock:
            return self._useful(batch_key, self._latest.get(batch_key, True), now)

    def sizes(self, now: float) -> dict[str, int]:
        """`size` by batch key, for all that were measured."""
        with self._lock:
            keys = dict.fromkeys(key for key, _ in self._speeds)
            return {key: self._useful(key, self._latest.get(key, True), now) for key in keys}

    def _useful(self, batch_key: str, mixed: bool, now: float) -> int:
        most = self._limit
        fits = self._fits.get(batch_key)
        if fits is not None:
            if now - fits[1] > FORGET_SECONDS:
                del self._fits[batch_key]
            else:
                most = min(most, fits[0])
        if self._measured:
            speeds = self._speeds.get((batch_key, mixed))
            most = min(most, speeds.useful(now) if speeds else 1)
        return most
