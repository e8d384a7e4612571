"""Shapes of answers, for the OpenAPI document. Field names are those of the command line, JSON lines, CSV and SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

State = Literal["queued", "assigned", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["fetching", "loading", "patching", "sampling", "extracting", "uploading"]
Priority = Literal["interactive", "normal", "bulk"]


class ProblemItem(BaseModel):
    """One mistake: where it stands and what would be right."""

    code: str
    message: str
    hint: str
    pointer: str = Field(description="JSON pointer into the request, such as /rows/3/steps.")
    tag: str = Field(description="The whole tag, for mistakes inside a prompt's tag.")
    item: str = Field(description="The offending item of the tag, or the field's name.")
    column: int = Field(description="Column in the prompt, from 1; 0 when it does not apply.")


class ProblemDetails(BaseModel):
    """RFC 9457, with every mistake in `errors`."""

    type: str = Field(description="urn:farm:problem:<code>")
    title: str
    status: int
    code: str
    detail: str
    instance: str
    request_id: str
    errors: list[ProblemItem]


class Page(BaseModel):
    """One page of a list."""

    next_cursor: str | None = Field(None, description="Send as `cursor` for the next page; null on the last.")


class JobError(BaseModel):
    code: str
    message: str


class NetworkView(BaseModel):
    """An adapter that a job uses, pinned by content."""

    name: str
    sha256: str
    size: int
    file_name: str
    type: str
    base_model: str
    adapter_id: str
    default_strength: float


class JobImage(BaseModel):
    id: str
    seed: int
    sha256: str
    width: int
    height: int
    url: str
    media_type: str = Field(description="`image/png` or `video/webm`.")
    frames: int
    fps: float | None
    duration: float | None = Field(description="Seconds of a video.")
    poster: str | None = Field(description="Where the still of a video is.")


class ExtractView(BaseModel):
    """What an extraction shall make."""

    name: str
    rank: int | None
    energy: float | None
    max_rank: int | None


class ExtractedAdapter(BaseModel):
    id: str
    name: str
    sha256: str
    size: int


class ExtractResult(BaseModel):
    """What an extraction has made, and how near it is."""

    adapter: ExtractedAdapter
    report: dict[str, Any] = Field(
        description="`layers`, `error` and `energy` of all together, ranks, and the `worst` layers."
    )


class JobView(BaseModel):
    """A job: what was asked, where it stands, what came of it. Fields of pictures are null in an extraction."""

    id: str
    kind: Literal["render", "extract"]
    state: State
    stage: Stage | None
    step: int
    steps: int
    total_steps: int = Field(description="Those of a second pass included: what `step` counts up to.")
    position: int | None = Field(
        description="Jobs of everybody that stand before it; null once it has started."
    )
    estimated_start: datetime | None
    estimated_low: datetime | None = Field(description="Four of five starts come after this…")
    estimated_high: datetime | None = Field(
        description="… and before this, by how good the latest estimates were."
    )
    waiting_because: str | None
    worker: str | None
    attempt: int
    batch: str | None
    owner: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    crash_count: int
    retry_count: int
    error: JobError | None
    images: list[JobImage]
    extract: ExtractView | None
    result: ExtractResult | None
    networks: list[NetworkView]
    timings: dict[str, Any]
    warnings: list[str]
    prompt: str
    negative_prompt: str
    model: str
    width: int | None
    height: int | None
    guidance_scale: float | None
    sampler: str | None
    seed: int | None
    count: int
    priority: Priority
    tags: list[str]
    worker_tags: list[str] = Field(description="Tags that its worker must have.")
    min_memory: int | None = Field(description="Bytes that its worker's device must have.")
    webhook: str | None
    linear_curves: bool
    frames: int | None
    fps: float | None
    hr_scale: float | None
    hr_steps: int | None
    hr_strength: float | None


class AttemptView(BaseModel):
    """One try of a job on one worker."""

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    detail: str | None
    timings: dict[str, Any]
    expected_wait: float | None = Field(
        description="Seconds that the job was first expected to wait; of a first attempt that had to."
    )
    waited: float | None = Field(description="Seconds that it did wait, from that estimate on.")


class JobEventView(BaseModel):
    """One transition of a job."""

    at: datetime
    transition: str
    state: State
    attempt: int
    detail: str | None


class JobDetail(JobView):
    """A job with its history."""

    clean_prompt: str = Field(description="The prompt without tags, with trigger words: what is encoded.")
    attempts: list[AttemptView]
    events: list[JobEventView]


class JobPage(Page):
    items: list[JobView]


class EstimateView(BaseModel):
    """How long a job will take and when it starts, from measured rates."""

    seconds: float | None
    starts_in: float | None
    worker: str | None
    sentence: str


class Validation(BaseModel):
    """A spec with every default filled in, and what its tags mean; or what is wrong with it."""

    valid: bool
    errors: list[ProblemItem]
    spec: dict[str, Any] | None = None
    prompt: str | None = Field(None, description="The prompt without tags.")
    networks: list[NetworkView] = []
    warnings: list[str] = []
    explain: dict[str, Any] | None = Field(
        None,
        description="Strength per adapter, component, block and step; of the second pass in `second_pass`.",
    )
    estimate: EstimateView | None = None


class JobEventList(BaseModel):
    items: list[JobEventView]


class BatchView(BaseModel):
    """Many jobs of one request."""

    id: str
    name: str
    total: int
    owner: str
    states: dict[str, int] = Field(description="Jobs by state.")
    done: int = Field(description="Jobs that have ended, in whatever way.")
    created_at: datetime
    cancel_requested_at: datetime | None


class BatchPage(Page):
    items: list[BatchView]


class BatchChecked(BaseModel):
    """Answer to a dry run: every row is right."""

    total: int
    dry_run: Literal[True]
    images: int
    steps: int
    groups: int
    warnings: list[str]


class BatchAccepted(BatchView):
    """A batch that was accepted, with what it will cost."""

    images: int
    steps: int
    groups: int = Field(
        description="Distinct pairs of model and adapters; each is loaded and patched once at best."
    )
    warnings: list[str]


class Cancelled(BaseModel):
    id: str
    cancelled: int


class Retried(BaseModel):
    id: str
    retried: int
