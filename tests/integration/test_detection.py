"""Detection of a large file in a real store: what is read of it."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from farm.store.s3 import Store
from farm.web.uploads import inspect_object

#: bytes of the body of the made file; a real adapter of this many layers is as large
SIZE = 48 * 1024 * 1024


def flux_header() -> bytes:
    """Header of a LoRA of all layers of a Flux.1, whose data fill up SIZE."""
    modules = [f"double_blocks.{n}.{side}_{part}" for n in range(19) for side in ("img", "txt")
               for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin")]  # fmt: skip
    modules += [
        f"single_blocks.{n}.{part}" for n in range(38) for part in ("linear1", "linear2", "modulation.lin")
    ]
    names = [
        f"lora_unet_{module.replace('.', '_')}.{side}"
        for module in modules
        for side in ("lora_up.weight", "lora_down.weight")
    ]
    entries: dict[str, Any] = {
        "__metadata__": {
            "ss_output_name": "ink",
            "ss_tag_frequency": json.dumps({"a": {f"tag {n}": 9 for n in range(9000)}}),
        }
    }
    size = SIZE // len(names) // 8 * 8
    for n, name in enumerate(names):
        shape = [size // 8, 4] if name.endswith("up.weight") else [4, size // 8]
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [n * size, (n + 1) * size]}
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size * len(names))


def test_a_few_hundred_kilobytes_of_a_large_file_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"tests/{secrets.token_hex(8)}"
    data = flux_header()
    length = 8 + int.from_bytes(data[:8], "little")
    assert 150_000 < length < 400_000
    store.put_bytes(key, data)
    answers: list[Any] = []
    answer = store._client._endpoint.http_session.send  # type: ignore[attr-defined]

    def counted(request: Any) -> Any:
        answers.append(answer(request))
        return answers[-1]

    monkeypatch.setattr(store._client._endpoint.http_session, "send", counted)  # type: ignore[attr-defined]
    info = inspect_object(store, key, len(data), "ink.safetensors")
    assert (info.base_model, info.scheme, info.layers, info.title) == ("flux1", "kohya", 304, "ink")
    assert info.trigger_words[0] == "tag 0"
    assert len(answers) == 2
    # what came over the wire
    assert sum(found.raw.tell() for found in answers) == length
    store.delete(key)
