"""Shapes of answers, for the OpenAPI document. Field names are those of the command line, JSON lines, CSV and SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

State = Literal["queued", "assigned", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["fetching", "loading", "patching", "sampling", "uploading"]
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


class JobImage(BaseModel):
    id: str
    seed: int
    sha256: str
    width: int
    height: int
    url: str


class JobView(BaseModel):
    """A job: what was asked, where it stands, what came of it."""

    id: str
    state: State
    stage: Stage | None
    step: int
    steps: int
    position: int | None = Field(
        description="How many of your jobs and others' stand before it; null once it has started."
    )
    estimated_start: datetime | None
    waiting_because: str | None
    worker: str | None
    attempt: int
    batch: str | None
    owner: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: JobError | None
    images: list[JobImage]
    networks: list[NetworkView]
    timings: dict[str, Any]
    warnings: list[str]
    prompt: str
    negative_prompt: str
    model: str
    width: int
    height: int
    guidance_scale: float
    sampler: str
    seed: int
    count: int
    priority: Priority
    tags: list[str]


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
        None, description="Strength per adapter, component, block and step."
    )
    estimate: EstimateView | None = None


class JobEventView(BaseModel):
    """One transition of a job."""

    at: datetime
    transition: str
    state: State
    attempt: int
    detail: str | None


class JobEventList(BaseModel):
    items: list[JobEventView]


class BatchView(BaseModel):
    """Many jobs of one request."""

    id: str
    name: str
    total: int
    states: dict[str, int] = Field(description="Jobs by state.")
    created_at: datetime


class BatchPage(Page):
    items: list[BatchView]


class BatchChecked(BaseModel):
    """Answer to a dry run: every row is right."""

    total: int
    dry_run: Literal[True]


class Cancelled(BaseModel):
    id: str
    cancelled: int


class Retried(BaseModel):
    id: str
    retried: int


class AdapterView(BaseModel):
    """An adapter, with the facts of its current file."""

    id: str
    name: str
    sha256: str
    size: int
    file_name: str
    type: str
    base_model: str
    trigger_words: list[str]
    default_strength: float
    notes: str
    uses: int
    created_at: datetime


class AdapterPage(Page):
    items: list[AdapterView]


class UploadTarget(BaseModel):
    method: Literal["PUT"]
    url: str
    headers: dict[str, str]


class UploadBegun(BaseModel):
    """Where to put the file; then POST /loras/{id}:complete."""

    id: str
    upload: UploadTarget


class ModelView(BaseModel):
    id: str
    name: str
    family: str
    sha256: str
    bytes: int
    defaults: dict[str, Any]


class ModelList(BaseModel):
    items: list[ModelView]


class SamplerView(BaseModel):
    key: str
    label: str


class SamplerList(BaseModel):
    items: list[SamplerView]


class PresetView(BaseModel):
    id: str
    name: str
    spec: dict[str, Any]
    created_at: datetime


class PresetList(BaseModel):
    items: list[PresetView]


class ImageView(BaseModel):
    """A finished picture."""

    id: str
    job: str
    index: int
    seed: int
    width: int
    height: int
    sha256: str
    starred: bool
    created_at: datetime
    url: str


class ImagePage(Page):
    items: list[ImageView]


class WorkerView(BaseModel):
    id: str
    name: str
    state: Literal["up", "draining", "gone"]
    device: str


class WorkerList(BaseModel):
    items: list[WorkerView]
