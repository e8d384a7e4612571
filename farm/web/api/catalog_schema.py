"""Shapes of answers about adapters, models, pictures, presets and workers, for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from farm.web.api.schema import Page


class AdapterView(BaseModel):
    """An adapter, with the facts of its current file."""

    id: str
    name: str
    sha256: str
    size: int
    file_name: str
    type: str
    base_model: str
    types: list[str]
    scheme: str
    ranks: list[int]
    layers: int
    components: list[str]
    title: str
    description: str
    problems: list[str]
    trigger_words: list[str]
    default_strength: float
    notes: str
    uses: int
    owner: str
    created_at: datetime
    hot_on: list[str] = Field(description="Names of workers that have it in memory.")
    preview: str | None


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
    format: str
    pipeline: str
    defaults: dict[str, Any]
    limits: dict[str, Any]
    second_pass: bool = Field(description="Whether a job may ask for `hr_scale`.")
    files: int
    owner: str
    created_at: datetime
    hot_on: list[str]


class ModelList(BaseModel):
    items: list[ModelView]


class SamplerView(BaseModel):
    key: str
    label: str


class SamplerList(BaseModel):
    items: list[SamplerView]


class UserView(BaseModel):
    id: str
    name: str
    role: Literal["admin", "operator", "artist"]
    share_weight: float
    running_limit: int | None = Field(
        description="Jobs on workers at once; 0: no limit, null: the setting's."
    )
    created_at: datetime


class UserList(BaseModel):
    items: list[UserView]


class KeyView(BaseModel):
    """An API key without its secret."""

    id: str
    prefix: str
    label: str
    running_limit: int | None = Field(description="Jobs sent with it that may be on workers at once.")
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class KeyMade(KeyView):
    key: str = Field(description="The key itself; only this answer has it.")


class KeyList(BaseModel):
    items: list[KeyView]


class PresetView(BaseModel):
    id: str
    name: str
    spec: dict[str, Any]
    created_at: datetime


class PresetList(BaseModel):
    items: list[PresetView]


class ImageView(BaseModel):
    """A finished picture or video."""

    id: str
    job: str
    batch: str | None
    index: int
    seed: int
    width: int
    height: int
    sha256: str
    size: int
    starred: bool
    created_at: datetime
    media_type: str = Field(description="`image/png` or `video/webm`.")
    frames: int
    fps: float | None
    duration: float | None = Field(description="Seconds of a video.")
    info: dict[str, Any]
    url: str
    poster: str | None = Field(description="Where the still of a video is.")


class ImagePage(Page):
    items: list[ImageView]


class ImageMetadata(BaseModel):
    """What stands in a picture's file."""

    info: dict[str, Any]
    parameters: str


class InspectedImage(BaseModel):
    """The job that a picture was made from, as far as it tells."""

    spec: dict[str, Any]


class WorkerView(BaseModel):
    """A worker, as it last reported."""

    id: str
    name: str
    state: Literal["up", "draining", "gone"]
    device: str
    device_name: str
    tags: list[str] = Field(description="For jobs that ask for them with `worker_tags`.")
    memory_total: int
    memory_free: int
    models: list[dict[str, Any]]
    adapters: list[dict[str, Any]]
    hit_rate: float | None
    jobs: list[dict[str, Any]]
    jobs_done: int
    last_seen: datetime


class WorkerList(BaseModel):
    items: list[WorkerView]


class StatsView(BaseModel):
    """The queue in numbers."""

    waiting: int
    exact: bool = Field(
        description="Whether all were counted; of a very long queue the numbers are the least."
    )
    running: int
    workers: int
    seconds: float | None = Field(description="Until the queue is empty.")
    sentence: str
    all: dict[str, int]
    mine: dict[str, int]


class PauseBody(BaseModel):
    """What to pause or resume."""

    kind: Literal["queue", "model", "user"]
    name: str = Field("", max_length=200, description="Name or id of the model or user.")


class PauseView(BaseModel):
    """Something that an operator has paused."""

    kind: Literal["queue", "model", "user"]
    name: str
    by: str
    at: datetime


class PauseList(BaseModel):
    items: list[PauseView]
