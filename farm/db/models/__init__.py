"""Tables, one module per subject. Importing this package registers all of them with `Base.metadata`."""

from farm.db.models.adapters import Adapter, AdapterVersion, Model, Upload
from farm.db.models.base import Base
from farm.db.models.fleet import Lease, Pause, Worker
from farm.db.models.jobs import Attempt, Batch, Image, Job, JobEvent, Outbox
from farm.db.models.people import ApiKey, Audit, IdempotencyKey, Preset, User
from farm.db.models.tallies import Forecast, Tally, TallyChange

__all__ = [
    "Adapter",
    "AdapterVersion",
    "ApiKey",
    "Attempt",
    "Audit",
    "Base",
    "Batch",
    "Forecast",
    "IdempotencyKey",
    "Image",
    "Job",
    "JobEvent",
    "Lease",
    "Model",
    "Outbox",
    "Pause",
    "Preset",
    "Tally",
    "TallyChange",
    "Upload",
    "User",
    "Worker",
]
