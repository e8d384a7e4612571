"""A queue of very many jobs, made inside the database by one statement: for plans, pages and figures at scale."""

from __future__ import annotations

from sqlalchemy import Integer, String, case, cast, func, insert, literal, select, text
from sqlalchemy.orm import Session

from farm.db.models import Batch, Job
from tests.support.jobs import MODEL, MODEL_KEY, NOW, OWNER, STRANGER

#: every so many-th job has failed, and has succeeded; the others wait
FAILED, SUCCEEDED = 50, 7
SPEC = {
    "prompt": "a fox in the snow <lora:ink:0.8>, at night, many small lights", "negative_prompt": "", "model": "tiny",
    "width": 512, "height": 512, "steps": 20, "guidance_scale": 7.0, "sampler": "euler", "seed": 7, "count": 1,
    "priority": "bulk", "tags": [], "webhook": None, "linear_curves": False,
}  # fmt: skip


def add_crowd(
    session: Session,
    rows: int,
    batches: int = 10,
    *,
    model: str = MODEL,
    owner: str = OWNER,
    stranger: str = STRANGER,
) -> list[str]:
    """`rows` jobs in `batches` batches of `owner`, every fourth one of a stranger without a batch; ids of the batches.

    Statistics are brought up to date, as autovacuum does in a database that lives longer than a test.
    """
    ids = [f"batch_{number:08}" for number in range(batches)]
    session.execute(
        insert(Batch),
        [
            {"id": batch_id, "owner_id": owner, "name": batch_id, "total": rows // batches, "created_at": NOW}
            for batch_id in ids
        ],
    )
    numbers = select(literal(0, Integer).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < rows - 1))
    n = numbers.c.n
    padded = (
        func.substr("00000000" + cast(n, String), -8)
        if _is_sqlite(session)
        else func.lpad(cast(n, String), 8, "0")
    )
    batch = "batch_" + (
        func.substr("00000000" + cast(n % batches, String), -8)
        if _is_sqlite(session)
        else func.lpad(cast(n % batches, String), 8, "0")
    )
    strange, failed, succeeded = n % 4 == 3, n % FAILED == 1, n % SUCCEEDED == 2
    kinds = Job.__table__.c
    values = {
        "id": "job_" + padded,
        "owner_id": case((strange, stranger), else_=owner),
        "batch_id": case((strange, None), else_=batch),
        "batch_index": n,
        "state": case((failed, "failed"), (succeeded, "succeeded"), else_="queued"),
        "error_code": case((failed, "bad_file"), else_=None),
        "error_message": case((failed, "the file is damaged"), else_=None),
        "result_attempt": case((failed, None), (succeeded, 1), else_=None),
        "attempt": literal(0),
        "hb_seq": literal(0),
        "priority": literal(2),
        "kind": literal("render"),
        "spec": literal(SPEC, kinds.spec.type),
        "clean_prompt": literal(SPEC["prompt"]),
        "networks": literal([], kinds.networks.type),
        "warnings": literal([], kinds.warnings.type),
        "model_id": literal(model),
        "model_key": literal(MODEL_KEY),
        "network_set": literal(""),
        "batch_key": "key " + cast(n % 3, String),
        "step": literal(0),
        "steps": literal(20),
        "count": literal(1),
        "crash_count": literal(0),
        "retry_count": literal(0),
        "sends": literal(0),
        "created_at": literal(NOW, kinds.created_at.type),
    }
    session.execute(insert(Job).from_select(list(values), select(*values.values())))
    session.commit()
    with session.get_bind().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("analyze" if _is_sqlite(session) else "vacuum (analyze) jobs"))
    return ids


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"
