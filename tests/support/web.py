"""The web application under test: real Valkey, real S3, SQLite; two users, a model and an adapter, no torch."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.db.models import Base
from farm.embedded.servers import SeaweedServer
from farm.jobs import models, users
from farm.lora.layout import Layout
from farm.models.families import ModelInfo, layout
from farm.settings import Settings
from farm.web.app import create_app
from farm.web.build import ensure_user
from farm.web.services import Services

API = "/api/v1"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [16, 32, 32, 32],
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
CONFIGS: dict[str, Any] = {"unet": UNET}
DEFAULTS = {
    "width": 64, "height": 64, "steps": 20, "guidance_scale": 4.5, "sampler": "ddim", "negative_prompt": "",
}  # fmt: skip
STILL = b"RIFF a still WEBP"
LIMITS = {"multiple_of": 8, "min_size": 8, "max_steps": 1000}


def model_info(name: str = "demo") -> ModelInfo:
    """A tiny UNet without weights; what the web process needs of a model."""
    return ModelInfo(
        name=name,
        family="demo",
        format="diffusers",
        pipeline="StableDiffusionPipeline",
        configs=CONFIGS,
        defaults=DEFAULTS,
        limits=LIMITS,
        files=("unet/config.json",),
        bytes=1000,
    )


def demo_layout() -> Layout:
    return layout("demo", CONFIGS)


def safetensors(tensors: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> bytes:
    """A sound safetensors file of zeros."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, shape in tensors.items():
        size = 4
        for dimension in shape:
            size *= dimension
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * position


def lora_file(rank: int = 2, layers: int = 3, **metadata: str) -> bytes:
    """A kohya LoRA that fits the model of `model_info`."""
    tensors: dict[str, tuple[int, ...]] = {}
    linear = [
        layer for layer in demo_layout().layers.values() if layer.kind == "linear" and "attn" in layer.path
    ]
    for layer in linear[:layers]:
        key = "lora_unet_" + layer.path.replace(".", "_")
        out, into = layer.shape
        tensors[f"{key}.lora_down.weight"] = (rank, into)
        tensors[f"{key}.lora_up.weight"] = (out, rank)
        tensors[f"{key}.alpha"] = (1,)
    return safetensors(tensors, metadata)


@dataclass
class WebFarm:
    """The application with its users; requests carry the owner's key unless told otherwise."""

    app: Flask
    key: str
    stranger_key: str
    owner_id: str
    stranger_id: str
    folder: Path
    http: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = self.app.test_client(use_cookies=False)

    @property
    def services(self) -> Services:
        return cast(Services, self.app.extensions["farm"])

    def request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> TestResponse:
        headers = {
            "Authorization": f"Bearer {self.key if key is None else key}",
            **options.pop("headers", {}),
        }
        if path.startswith("/") and not path.startswith((API, "/healthz", "/readyz", "/login")):
            path = API + path
        return self.http.open(path, method=method, headers=headers, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> TestResponse:
        if "data" not in options:
            options["json"] = {} if body is None else body
        return self.request("POST", path, **options)

    def browser(self) -> FlaskClient:
        """A browser of the owner's, logged in by the link that `farm up` prints."""
        browser = self.app.test_client()
        assert browser.get(f"/login?token={self.key}&next=/").status_code == 302
        return browser

    def add_adapter(
        self, name: str = "ink", *, key: str | None = None, data: bytes | None = None
    ) -> dict[str, Any]:
        """Upload an adapter through the API."""
        import io

        content = lora_file(ss_tag_frequency=json.dumps({"x": {"ink style": 9}})) if data is None else data
        answer = self.post(
            "/loras", data={"name": name, "file": (io.BytesIO(content), f"{name}.safetensors")}, key=key
        )
        assert answer.status_code == 201, answer.text
        return cast("dict[str, Any]", answer.get_json())


def web_app(folder: Path, database: Path, redis_url: str, seaweed: SeaweedServer, **overrides: Any) -> Flask:
    """The application of a farm in `folder`; `database` is a migrated SQLite file that is copied."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, folder / "farm.db")
    settings = Settings(
        data_dir=folder,
        database_url=f"sqlite:///{folder / 'farm.db'}",
        redis_url=redis_url,  # type: ignore[arg-type]
        s3_endpoint=seaweed.endpoint,
        s3_access_key=seaweed.access_key,  # type: ignore[arg-type]
        s3_secret_key=seaweed.secret_key,  # type: ignore[arg-type]
        s3_bucket=seaweed.bucket,
        **overrides,
    )
    return create_app(settings)


def fresh_farm(app: Flask) -> WebFarm:
    """`app` with nothing in its database but two users and one model: making an application takes longer than most tests."""
    services: Services = app.extensions["farm"]
    services.stopping.clear()
    services.failures._hits.clear()
    services.streams._open.clear()
    with services.sessions.begin() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
    ensure_user(services)
    with services.sessions.begin() as session:
        owner_id, _ = users.ensure_single_user(session, NOW)
        stranger_id = users.create_user(session, "stranger", "artist", NOW)
        stranger_key = users.create_key(session, stranger_id, "test", NOW)
        models.register_model(
            session,
            owner_id,
            name="demo",
            info=model_info(),
            manifest=[{"path": "unet/config.json", "sha256": "b" * 64, "size": 10}],
            sha256="a" * 64,
            now=NOW,
        )
    return WebFarm(
        app=app,
        key=(services.data_dir / "api-key").read_text().strip(),
        stranger_key=stranger_key,
        owner_id=owner_id,
        stranger_id=stranger_id,
        folder=services.data_dir,
    )


def render(
    farm: WebFarm, job_id: str, content: bytes = b"\x89PNG picture", *, video: tuple[int, float] | None = None
) -> str:
    """Do what scheduler and worker do to a queued job, without rendering; returns the id of its picture.

    `video`: frames and frames a second; then `content` is kept as WebM, with a still beside it.
    """
    import hashlib

    from sqlalchemy import select

    from farm.db.models import Image, Job, Lease
    from farm.store import keys
    from tests.support import jobs

    sessions = farm.services.sessions
    with sessions.begin() as session:
        if session.get(Lease, "scheduler") is None:
            session.add(Lease(name="scheduler", holder="test", epoch=jobs.EPOCH, seq=0))
    worker_id = jobs.add_worker(sessions, "gpu 1: cuda:0")
    attempt = jobs.start(sessions, job_id, worker_id)
    owner_id = jobs.job_row(sessions, job_id).owner_id
    object_key = keys.result(owner_id, job_id, attempt, 0, "webm" if video else "png")
    more: dict[str, Any] = {}
    if video:
        poster_key = keys.result(owner_id, job_id, attempt, 0, "webp")
        more = {"media_type": "video/webm", "frames": video[0], "fps": video[1], "poster_key": poster_key}
        farm.services.store.put_bytes(poster_key, STILL, "image/webp")
    farm.services.store.put_bytes(object_key, content, more.get("media_type", "image/png"))
    image = jobs.attempts.NewImage(
        index=0, seed=7, width=64, height=64, object_key=object_key, sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        info={
            "prompt": "a fox", "negative_prompt": "", "seed": 7, "steps": 4, "sampler": "euler", "guidance_scale": 5.0,
            "width": 64, "height": 64, "model": {"name": "demo", "family": "demo", "sha256": "a" * 64}, "networks": [],
        },
        **more,
    )  # fmt: skip
    with sessions.begin() as session:
        assert jobs.attempts.succeed(session, job_id, attempt, [image], {"sampling": 1.0}, NOW)
    with sessions() as session:
        assert session.get(Job, job_id) is not None
        return str(session.scalars(select(Image.id).where(Image.job_id == job_id)).one())
