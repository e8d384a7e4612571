"""A model with the real SD 1.5 layout and small adapters for it, as rows without files: what submission needs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session, sessionmaker

from farm.ids import AdapterId, ModelId, UserId
from farm.jobs import adapters, models
from farm.lora.formats.header import Header, TensorInfo
from farm.lora.formats.inspect import inspect
from farm.models.families import ModelInfo
from farm.models.layouts import known

LAYER = "lora_unet_down_blocks_0_attentions_{}_transformer_blocks_0_attn{}_to_k"


def add_model(sessions: sessionmaker[Session], owner: str, now: datetime, name: str = "Dreams") -> ModelId:
    info = ModelInfo(
        name=name, family="sd1", format="diffusers", pipeline="StableDiffusionPipeline",
        configs=known.BY_FAMILY["sd1"],
        defaults={"width": 512, "height": 512, "steps": 20, "guidance_scale": 7.0, "sampler": "euler"},
        limits={"multiple_of": 8, "min_size": 64}, files=("model_index.json",), bytes=1000,
    )  # fmt: skip
    manifest = [{"path": "model_index.json", "sha256": "d" * 64, "size": 1000}]
    with sessions.begin() as session:
        return models.register_model(
            session, UserId(owner), name=name, info=info, manifest=manifest, sha256="e" * 64, now=now
        )


def add_adapter(
    sessions: sessionmaker[Session],
    owner: str,
    now: datetime,
    name: str = "ink",
    *,
    context: int = 768,
    words: str = "",
    sha256: str = "",
) -> AdapterId:
    """A LoRA of two layers; `context` 768 fits SD 1.5, 2048 is SDXL's."""
    tensors: dict[str, TensorInfo] = {}
    place = 0

    def add(key: str, *shape: int) -> None:
        nonlocal place
        size = 2
        for side in shape:
            size *= side
        tensors[key] = TensorInfo(dtype="F16", shape=shape, begin=place, end=place + size)
        place += size

    for index in range(2):
        layer = LAYER.format(index, 2)
        add(f"{layer}.lora_down.weight", 4, context)
        add(f"{layer}.lora_up.weight", 320, 4)
        add(f"{layer}.alpha")
    metadata = {"ss_tag_frequency": f'{{"set": {{"{words}": 9}}}}'} if words else {}
    header = Header(tensors=tensors, metadata=metadata, size=place)
    with sessions.begin() as session:
        return adapters.register_adapter(
            session, owner, name=name, file_name=f"{name}.safetensors", sha256=sha256 or f"{hash(name) % 16**12:064x}",
            size=place, header=header, info=inspect(header, name), now=now,
        )  # fmt: skip
