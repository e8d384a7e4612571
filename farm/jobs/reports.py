"""What a worker tells with each heartbeat: what it holds, how fast it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

#: hashes of files on disk that a report names at most
MAX_DISK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """State of one worker, as it goes into `workers.report`."""

    #: model keys that are loaded, the latest used last
    models: tuple[str, ...] = ()
    #: sha256s of adapters in memory
    adapters: tuple[str, ...] = ()
    #: sha256s of files on disk, the latest used last, and keys of models that lie there whole; at most `MAX_DISK`
    disk: tuple[str, ...] = ()
    #: `cpu`, `cuda:0`, …
    device: str = ""
    #: as the vendor calls it
    device_name: str = ""
    #: bytes of the device, or of the host for a CPU
    memory_total: int = 0
    memory_free: int = 0
    #: bytes of adapters in memory
    adapter_bytes: int = 0
    #: for jobs that ask for them
    tags: tuple[str, ...] = ()
    #: by batch key, as measured
    seconds_per_step: Mapping[str, float] = field(default_factory=dict)
    #: by model key, as measured
    load_seconds: Mapping[str, float] = field(default_factory=dict)
    #: of downloads, as measured; None: not yet
    fetch_bytes_per_second: float | None = None
    #: to parse an adapter that is on disk and put it into the weights, as measured; None: not yet
    adapter_seconds: float | None = None
    #: by batch key: pictures that it is worth denoising in one forward pass, of any jobs; 1 where it is not there
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    #: since the worker started
    cache_hits: int = 0
    cache_misses: int = 0
    bytes_fetched: int = 0
    #: of files of jobs that were only expected
    bytes_prefetched: int = 0
    #: such files that a job then found ready
    prefetch_hits: int = 0
    jobs_done: int = 0
    #: ids of the jobs it works on
    current: tuple[str, ...] = ()
    #: why it takes no jobs at the moment, in a sentence; empty while it does
    blocked: str = ""
    version: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; `disk` is cut to the `MAX_DISK` latest."""
        row = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        row["disk"] = row["disk"][-MAX_DISK:]
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> WorkerReport:
        """The report in `row`; fields that this version does not know are left out.

        >>> WorkerReport.from_dict({"models": ["m"], "jobs_done": 2, "later": 1}).models
        ('m',)
        """
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in row.items()
            if key in known
        }
        return cls(**values)
