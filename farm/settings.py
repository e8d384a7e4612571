"""Every setting of Farm in one table: `FARM_…` in the environment, a default, a sentence.

Only `farm.cli` and the entry points of web, scheduler and worker see `Settings`; below them values are arguments.
The documentation page and `farm doctor` are made from this class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from farm.errors import BadRequest

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """Values of one process. Unknown `FARM_…` names are refused by `farm doctor`, not here."""

    model_config = SettingsConfigDict(env_prefix="FARM_", extra="ignore", frozen=True)

    # where things are
    data_dir: Path = Field(
        Path("farm-data"), description="Folder for everything that the embedded stack and the caches keep."
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL of the database; empty: SQLite in the data folder."
    )
    redis_url: SecretStr = Field(
        SecretStr(""), description="redis:// URL; empty: `farm up` starts an embedded server."
    )
    s3_endpoint: str = Field(
        "", description="URL of the S3-compatible store; empty: `farm up` starts an embedded one."
    )
    s3_access_key: SecretStr = Field(SecretStr(""), description="Access key of the store.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret key of the store.")
    s3_bucket: str = Field("farm", description="Bucket that holds adapters, models and pictures.")
    s3_region: str = Field("us-east-1", description="Region that requests are signed for.")
    s3_public_endpoint: str = Field(
        "",
        description="Address of the store as browsers reach it, for uploads and downloads; empty: the endpoint itself.",
    )

    # web
    host: str = Field("127.0.0.1", description="Address on which the dashboard listens.")
    port: int = Field(8484, ge=0, le=65535, description="Port of the dashboard; 0: any free one (`farm up`).")
    web_threads: Count = Field(
        64, description="Threads of a web process; each open page holds one for its event stream."
    )
    secret_key: SecretStr = Field(
        SecretStr(""), description="Signs session cookies; empty: made once and kept in the data folder."
    )
    allowed_hosts: str = Field(
        "127.0.0.1,localhost,[::1]",
        description="Host names under which the dashboard may be reached, comma-separated.",
    )
    url: str = Field(
        "", description="Address of a running farm, for the command line; empty: taken from the data folder."
    )
    api_key: SecretStr = Field(
        SecretStr(""), description="Key for the API, for the command line; empty: taken from the data folder."
    )

    # limits of what may be asked for
    max_steps: Count = Field(500, description="Most steps of one job.")
    max_pixels: Count = Field(4_194_304, description="Most pixels of one picture (width times height).")
    max_count: Count = Field(64, description="Most pictures of one job.")
    max_frames: Count = Field(257, description="Most frames of one video.")
    max_batch_rows: Count = Field(100_000, description="Most jobs of one batch.")
    max_prompt_chars: Count = Field(16_384, description="Longest prompt, in characters.")
    max_tags: Count = Field(64, description="Most adapter tags of one prompt.")
    max_upload_bytes: Count = Field(4 * 1024**3, description="Largest adapter file, in bytes.")

    # adapters
    lora_in_memory_limit: int = Field(8, ge=0, description="Adapters kept in a worker's memory between jobs.")
    lora_cache_bytes: int = Field(
        4 * 1024**3, ge=0, description="Most bytes of adapters kept in a worker's memory."
    )
    lora_apply_tags: int = Field(
        0,
        ge=-1,
        description="Trigger words put into the prompt: 0 none, n the first n of each adapter, -1 all.",
    )
    lora_default_strength: float = Field(1.0, description="Strength of a tag that names none.")
    lora_linear_curves: bool = Field(
        False, description="`@` interpolates linearly with steps counted from 0, as loractl does."
    )
    lora_mode: Literal["auto", "patch", "branch"] = Field(
        "auto",
        description="How adapters are applied: patch writes them into the weights, branch lets them act beside frozen"
        " layers, auto takes what measures cheaper for a job.",
    )
    lora_force_reload: bool = Field(False, description="Read adapters from the store for every job.")
    lora_fuse_native: bool = Field(
        False,
        description="Keep no second copy of the weights that adapters change: they are put back from the model's file, "
        "bit for bit, which takes less memory and, on a GPU, more time a change.",
    )
    lora_force_diffusers: bool = Field(
        False, description="Apply adapters by diffusers' own loader instead of Farm's engine."
    )
    lora_fuse_diffusers: bool = Field(
        False,
        description="With lora_force_diffusers: merge adapters into the weights instead of running them beside.",
    )

    # worker
    worker_name: str = Field("", description="Name of this worker; empty: the host's name and its device.")
    worker_tags: str = Field(
        "",
        description="Tags of this worker, comma-separated, for jobs that ask for them, such as a100,studio.",
    )
    device: str = Field("auto", description="Device of this worker: auto, cpu, cuda:0, …")
    dtype: str = Field(
        "auto",
        description="Weights of the model: auto (bfloat16 on CUDA, float32 on CPU), float32, float16, bfloat16.",
    )
    compile: bool = Field(
        False,
        description="Compile the denoiser with torch.compile; the first step of a new size takes minutes.",
    )
    cache_dir: Path | None = Field(
        None, description="Folder of the disk cache; empty: `cache` in the data folder."
    )
    disk_cache_bytes: int = Field(
        50 * 1024**3, ge=0, description="Most bytes of models and adapters kept on disk."
    )
    model_cache_count: Count = Field(1, description="Base models kept loaded.")
    batch_limit: Count = Field(
        8,
        description="Most pictures of several jobs that a worker denoises in one forward pass; 1, or with compile: jobs "
        "never share one.",
    )
    batch_measured: bool = Field(
        True,
        description="Share a forward pass as far as it makes more pictures a second on this device, as measured; false: "
        "as far as the limit allows.",
    )
    torch_threads: int = Field(0, ge=0, description="CPU threads of torch; 0: torch's own choice.")
    preview_every: int = Field(2, ge=0, description="Steps between live previews; 0: none.")
    checkpoint_seconds: float = Field(
        30.0,
        ge=0,
        description="Seconds between two checkpoints of a job, from which another worker goes on; 0: none but when a "
        "worker stops or a job gives way.",
    )
    drain_seconds: Seconds = Field(
        25.0, description="Time that a stopping worker gives its job to finish before it hands it back."
    )
    poll_seconds: Seconds = Field(
        10.0, description="Period of a worker's own look into SQL for its jobs, should Redis be deaf."
    )

    # scheduler
    window: Count = Field(2, description="Jobs assigned to a worker ahead of time.")
    running_limit: int = Field(
        0, ge=0, description="Jobs that one user may have on workers at once; 0: no limit."
    )
    round_seconds: Seconds = Field(1.0, description="Longest pause between two rounds of planning.")
    heartbeat_seconds: Seconds = Field(5.0, description="Period of a worker's heartbeat.")
    lease_seconds: Seconds = Field(
        30.0, description="A running job whose heartbeat stands still this long is queued again."
    )
    leader_lease_seconds: Seconds = Field(
        5.0, description="A leading scheduler that is silent this long is replaced."
    )
    claim_seconds: Seconds = Field(
        15.0, description="An assigned job not claimed in this time is sent again."
    )
    crash_limit: Count = Field(3, description="A job that was lost with its worker this often fails.")
    webhook_private: bool = Field(
        False, description="Allow webhooks to private and loopback addresses, over plain http too."
    )

    log_level: str = Field("INFO", description="Least severity that is logged: DEBUG, INFO, WARNING, ERROR.")
    lora_debug: bool = Field(
        False,
        validation_alias=AliasChoices("FARM_LORA_DEBUG", "SD_LORA_DEBUG", "lora_debug"),
        description="Log per layer what an adapter matched or missed, at which strength and in which time; "
        "SD_LORA_DEBUG is understood as well.",
    )

    def resolved_database_url(self) -> str:
        """The database, with SQLite in the data folder as the default."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'farm.db').absolute()}"

    def resolved_cache_dir(self) -> Path:
        return self.cache_dir or self.data_dir / "cache"


def load_settings(**overrides: object) -> Settings:
    """Settings of this process; overrides win over the environment.

    Raises:
        BadRequest: a value is wrong; the message names the variable.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "FARM_" + "_".join(str(part) for part in first["loc"]).upper()
        raise BadRequest(f"{name}: {first['msg']}", f"found {first['input']!r}", code="bad_setting") from None
