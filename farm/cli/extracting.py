"""Extract one LoRA file: out of adapters on a model, or out of the difference of two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from farm.cli.adapters import base_name, plan_of, read_adapters
from farm.errors import BadRequest
from farm.jobs.ingest import file_sha256
from farm.lora.budget import Budget
from farm.lora.changes import changed_layers, of_adapters, of_models
from farm.lora.extract import Report, extract
from farm.lora.formats.provenance import Made, Source
from farm.lora.saving import save_lora
from farm.models.stored import StoredModel, open_stored

#: told (layers done, layers in all)
OnLayer = Callable[[int, int], None]


def extract_adapters(
    model: Path,
    wanted: Sequence[tuple[Path, float]],
    budget: Budget,
    out: Path,
    now: datetime,
    on_layer: OnLayer,
) -> dict[str, Any]:
    """Write the sum of adapters as one LoRA.

    Raises:
        BadRequest: `out` exists, an adapter does not fit the model, or the budget makes no sense.
    """
    _check(out, budget)
    stored = open_stored(model)
    given = read_adapters(wanted, stored.layout)
    plan = plan_of(given, stored.layout)
    adapters = {each.source.sha256: each.adapter for each in given}
    count = len(changed_layers(plan, adapters, stored.layout))
    changes = of_adapters(plan, adapters, stored.layout, stored.read)
    kept, report = extract(changes, budget, lambda done: on_layer(done, count))
    words = [word for each in given for word in each.adapter.info.trigger_words]
    made = _made(out, stored, now, [each.source for each in given], words)
    save_lora(out, kept, stored.layout, made)
    return _answer(model, budget, out, report) | {"adapters": [each.row() for each in given]}


def extract_difference(
    model: Path, other: Path, budget: Budget, out: Path, now: datetime, on_layer: OnLayer
) -> dict[str, Any]:
    """Write what turns `model` into `other` as one LoRA.

    Raises:
        BadRequest: `out` exists, the models are not of one architecture or are equal, or the budget makes no sense.
    """
    _check(out, budget)
    first, second = open_stored(model), open_stored(other)
    if first.family != second.family:
        raise BadRequest(
            f"{other} is a {second.family} model, {model} is {first.family}",
            "give two models of one architecture",
            code="other_model",
        )
    layout = first.layout
    changes = of_models(layout, first.read, second.read)
    kept, report = extract(changes, budget, lambda done: on_layer(done, len(layout.layers)))
    made = _made(out, first, now, [Source(name=other.name, sha256=_hash(second), strength="1")], ())
    save_lora(out, kept, layout, made)
    return _answer(model, budget, out, report) | {"from": str(other)}


def _check(out: Path, budget: Budget) -> None:
    budget.check()
    if out.suffix != ".safetensors":
        raise BadRequest(f"{out} does not end in .safetensors", "name such a file", code="bad_name")
    if out.exists():
        raise BadRequest(f"{out} exists already", "name a file that does not", code="exists")


def _made(
    out: Path, base: StoredModel, now: datetime, sources: Sequence[Source], words: Sequence[str]
) -> Made:
    return Made(
        title=out.stem,
        family=base.family,
        date=now,
        sources=sources,
        base=base_name(base.path),
        trigger_words=words,
    )


def _hash(model: StoredModel) -> str:
    """Of a checkpoint its file's; of a folder its denoiser's first file's, which is what sets it apart."""
    names = sorted(model.files, key=lambda name: (name.split("/")[0] not in model.layout.denoisers, name))
    return file_sha256(model.path / names[0] if model.format == "diffusers" else model.path)


def _answer(model: Path, budget: Budget, out: Path, report: Report) -> dict[str, Any]:
    return {
        "model": str(model),
        "out": str(out),
        **asdict(budget),
        "total": report.summary(),
        "layers": [asdict(each) for each in report.layers],
    }
