"""Base models, adapters, their versions and uploads under way."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from farm.db.models.base import Base


class Model(Base):
    """A base model: a diffusers folder or a single file, kept in the store as content-addressed files."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    #: the name without case; unique among what is not deleted
    name_key: Mapped[str] = mapped_column(unique=True)
    #: a `base_model` word such as sd1, sdxl, demo
    family: Mapped[str]
    #: hash of the manifest: what workers key their caches by
    sha256: Mapped[str] = mapped_column(index=True)
    #: [{"path", "sha256", "size"}]: files of the folder, or the one file
    manifest: Mapped[list[dict[str, Any]]]
    #: component configs from which the layout is made without weights
    configs: Mapped[dict[str, Any]]
    #: {"width", "height", "steps", "guidance_scale", "sampler"} and limits of this model
    defaults: Mapped[dict[str, Any]]
    bytes: Mapped[int]
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class Adapter(Base):
    """A named adapter; its content is its current version."""

    __tablename__ = "adapters"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    #: the name without case; unique (a deleted adapter's key gets its id appended)
    name_key: Mapped[str] = mapped_column(unique=True)
    current_version_id: Mapped[str] = mapped_column(index=True)
    #: of a tag that names none; None: the setting decides
    default_strength: Mapped[float | None]
    #: words typed in by a person; they replace the file's own when present
    trigger_words: Mapped[list[str]]
    notes: Mapped[str] = mapped_column(default="")
    uses: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class AdapterVersion(Base):
    """One file of an adapter, by content."""

    __tablename__ = "adapter_versions"

    id: Mapped[str] = mapped_column(primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"), index=True)
    sha256: Mapped[str] = mapped_column(index=True)
    size: Mapped[int]
    file_name: Mapped[str]
    #: most frequent algorithm: lora, locon, dora, …
    type: Mapped[str]
    base_model: Mapped[str]
    scheme: Mapped[str]
    #: farm.lora.formats.inspect.AdapterInfo as JSON
    info: Mapped[dict[str, Any]]
    #: the file's tensors, {key: [dtype, shape]}, so that fitting a model needs no file
    tensors: Mapped[dict[str, Any]]
    #: object key of a preview picture, if any
    preview_key: Mapped[str | None]
    created_at: Mapped[datetime]


class Upload(Base):
    """A presigned upload that was begun; completing it inspects the object and makes the adapter."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    #: name of the adapter to make
    name: Mapped[str]
    file_name: Mapped[str]
    size: Mapped[int]
    object_key: Mapped[str]
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
