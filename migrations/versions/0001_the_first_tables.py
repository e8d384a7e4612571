"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from farm.db.types import Json, UtcDateTime

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", Json(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_user_id", "audit", ["user_id"], unique=False)

    op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("epoch", INTEGER, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("share_weight", sa.Double(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("drain_requested", sa.Boolean(), nullable=False),
        sa.Column("report", Json(), nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("last_seen", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        sa.UniqueConstraint("name", name=op.f("uq_workers_name")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "adapters",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("current_version_id", sa.String(), nullable=False),
        sa.Column("default_strength", sa.Double(), nullable=True),
        sa.Column("trigger_words", Json(), nullable=False),
        sa.Column("notes", sa.String(), nullable=False),
        sa.Column("uses", INTEGER, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_adapters_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("name_key", name=op.f("uq_adapters_name_key")),
    )
    op.create_index("ix_adapters_current_version_id", "adapters", ["current_version_id"], unique=False)

    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"], unique=False)

    op.create_table(
        "batches",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("total", INTEGER, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("cancel_requested_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_batches_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_owner_id", "batches", ["owner_id"], unique=False)

    op.create_table(
        "idempotency_keys",
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("status", INTEGER, nullable=False),
        sa.Column("response", Json(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_idempotency_keys_owner_id_users")),
        sa.PrimaryKeyConstraint("owner_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("manifest", Json(), nullable=False),
        sa.Column("configs", Json(), nullable=False),
        sa.Column("defaults", Json(), nullable=False),
        sa.Column("bytes", INTEGER, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_models_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name_key", name=op.f("uq_models_name_key")),
    )
    op.create_index("ix_models_sha256", "models", ["sha256"], unique=False)

    op.create_table(
        "presets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", Json(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_presets_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_presets")),
        sa.UniqueConstraint("owner_id", "name", name=op.f("uq_presets_owner_id_name")),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("file_name", sa.String(), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("object_key", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_uploads_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_table(
        "adapter_versions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("adapter_id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("file_name", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("scheme", sa.String(), nullable=False),
        sa.Column("info", Json(), nullable=False),
        sa.Column("tensors", Json(), nullable=False),
        sa.Column("preview_key", sa.String(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.id"], name=op.f("fk_adapter_versions_adapter_id_adapters")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapter_versions")),
    )
    op.create_index("ix_adapter_versions_adapter_id", "adapter_versions", ["adapter_id"], unique=False)
    op.create_index("ix_adapter_versions_sha256", "adapter_versions", ["sha256"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("batch_id", sa.String(), nullable=True),
        sa.Column("batch_index", INTEGER, nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("worker_id", sa.String(), nullable=True),
        sa.Column("hb_seq", INTEGER, nullable=False),
        sa.Column("priority", INTEGER, nullable=False),
        sa.Column("spec", Json(), nullable=False),
        sa.Column("clean_prompt", sa.String(), nullable=False),
        sa.Column("networks", Json(), nullable=False),
        sa.Column("warnings", Json(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("model_key", sa.String(), nullable=False),
        sa.Column("network_set", sa.String(), nullable=False),
        sa.Column("batch_key", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=True),
        sa.Column("step", INTEGER, nullable=False),
        sa.Column("steps", INTEGER, nullable=False),
        sa.Column("count", INTEGER, nullable=False),
        sa.Column("crash_count", INTEGER, nullable=False),
        sa.Column("retry_count", INTEGER, nullable=False),
        sa.Column("sends", INTEGER, nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("wait_reason", sa.String(), nullable=True),
        sa.Column("estimated_start", UtcDateTime(), nullable=True),
        sa.Column("cancel_requested_at", UtcDateTime(), nullable=True),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("result_attempt", INTEGER, nullable=True),
        sa.Column("webhook", sa.String(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("assigned_at", UtcDateTime(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "(state = 'succeeded') = (result_attempt is not null)", name=op.f("ck_jobs_result")
        ),
        sa.CheckConstraint(
            "(state in ('assigned','running')) = (worker_id is not null)", name=op.f("ck_jobs_worker")
        ),
        sa.CheckConstraint("state <> 'queued' or cancel_requested_at is null", name=op.f("ck_jobs_cancel")),
        sa.CheckConstraint(
            "state in ('queued','assigned','running','succeeded','failed','cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_jobs_batch_id_batches")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_jobs_model_id_models")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_jobs_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index("ix_jobs_batch_state", "jobs", ["batch_id", "state"], unique=False)
    op.create_index("ix_jobs_owner_list", "jobs", ["owner_id", "id"], unique=False)
    op.create_index("ix_jobs_owner_state", "jobs", ["owner_id", "state", "id"], unique=False)
    op.create_index("ix_jobs_waiting", "jobs", ["state", "priority", "id"], unique=False)
    op.create_index("ix_jobs_worker", "jobs", ["worker_id", "state"], unique=False)

    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("worker_id", sa.String(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("timings", Json(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_attempts")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("index", INTEGER, nullable=False),
        sa.Column("seed", INTEGER, nullable=False),
        sa.Column("width", INTEGER, nullable=False),
        sa.Column("height", INTEGER, nullable=False),
        sa.Column("object_key", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("info", Json(), nullable=False),
        sa.Column("starred", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_images_job_id_jobs")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_images_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("job_id", "index", name=op.f("uq_images_job_id_index")),
    )
    op.create_index("ix_images_job_id", "images", ["job_id"], unique=False)
    op.create_index("ix_images_owner_list", "images", ["owner_id", "id"], unique=False)

    op.create_table(
        "job_events",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("transition", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id"], unique=False)

    op.create_table(
        "outbox",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("payload", Json(), nullable=False),
        sa.Column("tries", INTEGER, nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("delivered_at", UtcDateTime(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_outbox_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_job_id", "outbox", ["job_id"], unique=False)
    op.create_index("ix_outbox_not_before", "outbox", ["not_before"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_outbox_not_before", table_name="outbox")
    op.drop_index("ix_outbox_job_id", table_name="outbox")

    op.drop_table("outbox")
    op.drop_index("ix_job_events_job_id", table_name="job_events")

    op.drop_table("job_events")
    op.drop_index("ix_images_owner_list", table_name="images")
    op.drop_index("ix_images_job_id", table_name="images")

    op.drop_table("images")
    op.drop_table("attempts")
    op.drop_index("ix_jobs_worker", table_name="jobs")
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.drop_index("ix_jobs_owner_state", table_name="jobs")
    op.drop_index("ix_jobs_owner_list", table_name="jobs")
    op.drop_index("ix_jobs_batch_state", table_name="jobs")

    op.drop_table("jobs")
    op.drop_index("ix_adapter_versions_sha256", table_name="adapter_versions")
    op.drop_index("ix_adapter_versions_adapter_id", table_name="adapter_versions")

    op.drop_table("adapter_versions")
    op.drop_table("uploads")
    op.drop_table("presets")
    op.drop_index("ix_models_sha256", table_name="models")

    op.drop_table("models")
    op.drop_table("idempotency_keys")
    op.drop_index("ix_batches_owner_id", table_name="batches")

    op.drop_table("batches")
    op.drop_index("ix_api_keys_user_id", table_name="api_keys")

    op.drop_table("api_keys")
    op.drop_index("ix_adapters_current_version_id", table_name="adapters")

    op.drop_table("adapters")
    op.drop_table("workers")
    op.drop_table("users")
    op.drop_table("leases")
    op.drop_index("ix_audit_user_id", table_name="audit")

    op.drop_table("audit")
