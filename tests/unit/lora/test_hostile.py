"""Hostile files: any header and any tensors are read or refused in one sentence, in memory bound to the file's size."""

from __future__ import annotations

import copy
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as reference_load
from safetensors.torch import save
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.formats.applied import APPLIED
from farm.lora.formats.header import parse_header
from farm.lora.formats.inspect import inspect
from farm.lora.formats.match import check, match
from farm.lora.formats.suffixes import ALIASES
from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import load
from tests.unit.lora.test_algorithms import OF, Small

FUZZ = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SEED = save(
    {"lora_unet_linear.lora_up.weight": torch.ones(10, 2), "lora_unet_linear.lora_down.weight": torch.ones(2, 6)},
    {"ss_output_name": "ink"},
)  # fmt: skip

# headers ----------------------------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [None, True, False, -1, 0, 1, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "F32", "F8_E4M3",
     "BOOL", "\0", "\u202e", "\ud800", "a" * 600, [], {}, [[]], [0], [0, 0], [-1, 4], [4, 0], [0, 2**64], [1] * 6]
)  # fmt: skip
NAMES = st.sampled_from(["", "\n", "\x1b[31m", "\u202eetad", "a" * 513, "__metadata__", "dtype", "lora_unet_linear.alpha"]) | st.text(max_size=6)  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """The seed with its header's JSON changed in places, its length lied about, and bytes flipped, cut off or added."""
    length = int.from_bytes(SEED[:8], "little")
    document: Any = json.loads(SEED[8 : 8 + length])
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from(_places(document)))
        change = draw(st.sampled_from(["set", "drop", "rename", "copy"]))
        if change == "set":
            holder[key] = draw(ODD)
        elif isinstance(holder, dict) and key in holder:
            value = copy.deepcopy(holder[key]) if change == "copy" else holder.pop(key)
            if change != "drop":
                holder[draw(NAMES)] = value
    text = json.dumps(document)
    if draw(st.booleans()):  # a doubled key, at any depth
        at = text.index("{", draw(st.integers(0, text.rindex("{"))))
        text = text[: at + 1] + draw(st.sampled_from(['"a": 1, "a": 2, ', '"dtype": "F32", ', '"x": ' + "[" * 50 + "]" * 50 + ", "])) + text[at + 1 :]  # fmt: skip
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    size = max(0, len(raw) + draw(st.sampled_from([0, 0, 0, -1, 1, 8, -len(raw), 2**40, 2**63])))
    whole = bytearray(struct.pack("<Q", size % 2**64) + raw + SEED[8 + length :])
    for place, bit in draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 7)), max_size=2)
    ):
        whole[place] ^= 1 << bit
    tail = draw(st.sampled_from([0, 0, 0, -1, -50, 1, 9]))
    return bytes(whole[:tail]) if tail < 0 else bytes(whole) + bytes(tail)


def _one_sentence(error: BadRequest) -> None:
    assert error.hint
    assert "\n" not in error.message
    assert len(error.message) < 700


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every (object or list, key or index) in a JSON document."""
    keys = (
        list(document)
        if isinstance(document, dict)
        else range(len(document) if isinstance(document, list) else 0)
    )
    found = [(document, key) for key in keys]
    return found + [place for _, key in list(found) for place in _places(document[key])] or [({}, "")]


@settings(FUZZ, max_examples=300)
@given(mutants())
def test_mutants_are_read_as_the_reference_reads_them_or_refused(raw: bytes) -> None:
    try:
        header = parse_header(raw, len(raw))
        info = inspect(header)
    except BadRequest as error:
        _one_sentence(error)
        return
    assert json.dumps(info.as_dict())
    tensors = reference_load(raw)  # what we accept, the reference accepts, with the same shapes
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        n: i.shape for n, i in header.tensors.items()
    }


# tensors ----------------------------------------------------------------------------------------------------------------

LAYERS = [layer.path for layer in OF.layers.values()]
SHAPES = st.one_of(
    st.sampled_from([(), (1,), (6,), (10,), (10, 1), (1, 6), (10, 2), (2, 6), (6, 2), (2, 2), (2, 2, 3, 3), (2, 6, 3, 3), (10, 6),
                     (10, 6, 3, 3), (3, 2, 2), (5, 2, 2), (1, 5, 2, 2), (1, 3, 2, 2), (2, 3), (5, 2), (3, 1), (6, 6), (2, 2, 1, 1)]),
    st.lists(st.integers(1, 10), max_size=5).map(tuple),
)  # fmt: skip
DTYPES = st.sampled_from(
    [torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.int16,
     torch.uint8, torch.bool]
)  # fmt: skip
VALUES = st.sampled_from([0.3, 0.3, 1.0, 0.0, -1.0, 1e4, 3e38, -3e38, torch.inf, torch.nan])
_SPELLINGS = {suffix: aliases[0] for suffix, aliases in ALIASES.items()} | {
    w: w for w in ("weight", "bias", "scale")
}


@st.composite
def adapters(draw: st.DrawFn) -> dict[str, Tensor]:
    """Modules with suffixes that belong together more often than not, in shapes that fit more often than not."""
    tensors: dict[str, Tensor] = {}
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=2, unique=True)):
        words = sorted(APPLIED[draw(st.sampled_from(sorted(APPLIED)))])
        for word in draw(st.lists(st.sampled_from(words), min_size=1, max_size=7, unique=True)):
            name = _SPELLINGS[word] + draw(
                st.sampled_from(["", "", "", "", ".scale_weight", "_weight_scale"])
            )
            if word in ("lora_up", "lora_down") and draw(st.integers(0, 4)) == 0:
                name = f"lora_{'B' if word == 'lora_up' else 'A'}.{draw(st.integers(0, 2))}"
            value, dtype, shape = draw(VALUES), draw(DTYPES), draw(SHAPES)
            if not dtype.is_floating_point:
                value = 1
            torch.manual_seed(len(tensors))
            tensors[f"lora_unet_{layer}.{name}"] = (torch.randn(shape) * value).to(dtype) if abs(value) < 2 else torch.full(shape, value).to(dtype)  # fmt: skip
    return tensors


SIGNS: list[dict[str, tuple[int, ...]]] = [
    {"lora_up": (10, 2), "lora_down": (2, 6)}, {"lora_up": (10, 2), "lora_mid": (2, 2), "lora_down": (2, 6)},
    {"hada_w1_a": (10, 2), "hada_w1_b": (2, 6), "hada_w2_a": (10, 2), "hada_w2_b": (2, 6)},
    {"hada_w1_a": (2, 10), "hada_t1": (2, 2, 1, 1), "hada_w1_b": (2, 6), "hada_w2_a": (10, 2), "hada_w2_b": (2, 6)},
    {"lokr_w1": (2, 3), "lokr_w2": (5, 2)}, {"lokr_w1_a": (2, 2), "lokr_w1_b": (2, 3), "lokr_w2": (5, 2)},
    {"lokr_w1": (2, 3), "lokr_w2_a": (2, 5), "lokr_t2": (2, 2, 1, 1), "lokr_w2_b": (2, 2)},
    {"a1": (6, 2), "a2": (2, 6), "b1": (10, 2), "b2": (2, 6)}, {"a1": (2, 6), "a2": (6, 2), "b1": (2, 6), "b2": (10, 2)},
    {"weight": (10,), "on_input": ()}, {"ia3_l": (10, 1)}, {"oft_blocks": (5, 2, 2)}, {"oft_diag": (5, 2, 2)}, {"oft_r": (3, 1)},
    {"oft_blocks": (1, 5, 2, 2)}, {"boft_r": (1, 3, 2, 2), "boft_s": (10, 1)}, {"diff": (10, 6)}, {"set_weight": (10, 6)},
]  # fmt: skip
EXTRAS = ("alpha", "scale", "dora_scale", "lora_magnitude", "bias", "diff_b", "rescale", "bias_values", "bm", "lora_e", "reshape_weight")  # fmt: skip


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Tensor]:
    """A sound adapter of one layer with up to two things changed."""
    layer = draw(st.sampled_from(["linear", "pointwise", "conv", "norm"]))
    shapes: dict[str, tuple[int, ...]] = dict(draw(st.sampled_from(SIGNS)))
    for word in draw(st.lists(st.sampled_from([*shapes, *EXTRAS]), max_size=2)):
        shapes[word] = draw(SHAPES)
    found = {}
    for i, (word, shape) in enumerate(shapes.items()):
        torch.manual_seed(i)
        found[f"lora_unet_{layer}.{_SPELLINGS[word]}"] = torch.randn(shape) * draw(
            st.sampled_from([1.0, 1.0, 1.0, 1e20])
        )
    return found


@settings(FUZZ, max_examples=250)
@given(tensors=nearly_right() | nearly_right() | adapters(), rank=st.sampled_from([None, 1, 3]))
def test_any_tensors_are_applied_and_taken_back_or_refused(
    tensors: dict[str, Tensor], rank: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(tensors))
    try:
        adapter = load(path, OF, sha256="a")
    except BadRequest as error:
        _one_sentence(error)
        return
    parts = {"unet": Small().requires_grad_(False)}
    patcher = Patcher(parts, OF)
    before = patcher.fingerprint()
    strengths = dict.fromkeys(OF.regions(), (0.7,))
    schedule = AdapterSchedule(sha256="a", strengths=strengths, max_rank=rank)
    patcher.apply(StrengthPlan(steps=1, adapters=(schedule,)), {"a": adapter}, 1)
    patcher.restore()
    assert patcher.fingerprint() == before


# memory -----------------------------------------------------------------------------------------------------------------


def bombs() -> dict[str, tuple[dict[str, tuple[int, ...]], str]]:
    """A few kilobytes that describe a change of any size, and what they are refused with."""
    return {
        "lokr": ({"lokr_w1": (100, 100), "lokr_w2": (100, 100)}, "gives 10000x10000"),
        "loha": ({"hada_w1_a": (9000, 1), "hada_w1_b": (1, 9000), "hada_w2_a": (9000, 1), "hada_w2_b": (1, 9000)}, "gives 9000x9000"),
        "lora": ({"lora_up": (9000, 1), "lora_down": (1, 9000)}, "gives 9000x9000"),
        "rank": ({"lora_up": (10, 5000), "lora_down": (5000, 6)}, "rank is 5000, more than 4096"),
        "tucker": ({"lora_up": (10, 9), "lora_mid": (9, 9, 60, 60), "lora_down": (9, 6)}, "gives 10x6x60x60"),
        "lokr core": ({"lokr_w1": (2, 3), "lokr_w2_a": (9, 90), "lokr_t2": (9, 9, 30, 30), "lokr_w2_b": (9, 90)}, "gives 180x243000"),
        "glora": ({"a1": (9000, 1), "a2": (1, 9000), "b1": (10, 1), "b2": (1, 6)}, r"input factors have \[9000\]"),
        "oft": ({"oft_blocks": (2, 300, 300)}, "rotates 2 blocks of 300x300"),
        "peft oft": ({"oft_r": (1, 500 * 499 // 2)}, "no rotation of 54 inputs"),
        "boft": ({"oft_blocks": (1000, 5, 2, 2)}, "1000 stages"),
        "weights": ({"lora_up": (10, 400), "lora_mid": (400, 400, 3, 3), "lora_down": (400, 6)}, "larger than any change"),
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_from_the_header_alone(name: str) -> None:
    shapes, words = bombs()[name]
    entries, end = {}, 0
    for word, shape in shapes.items():
        size = 4
        for dimension in shape:
            size *= dimension
        entries[f"lora_unet_conv.{_SPELLINGS[word]}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}  # fmt: skip
        end += size
    raw = json.dumps(entries).encode()
    head = parse_header(struct.pack("<Q", len(raw)) + raw, 8 + len(raw) + end)  # there are no data at all
    with pytest.raises(BadRequest, match=words):
        check(inspect(head), match(head.tensors, {}, OF), OF, "bomb")


@pytest.mark.parametrize(
    ("shapes", "multiple"),
    [
        ({"lora_up": (10, 4), "lora_down": (4, 54)}, 4),
        ({"hada_w1_a": (10, 2), "hada_w1_b": (2, 54), "hada_w2_a": (10, 2), "hada_w2_b": (2, 54)}, 4),
        ({"hada_w1_a": (2, 10), "hada_t1": (2, 2, 3, 3), "hada_w1_b": (2, 6), "hada_w2_a": (10, 2), "hada_w2_b": (2, 54)}, 4),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (5, 1), "lokr_w2_b": (1, 18)}, 4),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (2, 5), "lokr_t2": (2, 2, 3, 3), "lokr_w2_b": (2, 2)}, 4),
        ({"a1": (6, 2), "a2": (2, 6), "b1": (10, 2), "b2": (2, 54)}, 4),
        ({"oft_blocks": (2, 5, 5)}, 4),
        ({"diff": (10, 54)}, 1),
        ({"oft_r": (9, 15)}, 4 * 2 * 6 / 5),
        ({"lora_up": (10, 1), "lora_mid": (1, 1, 3, 3), "lora_down": (1, 6)}, 4 * 9),
    ],
)  # fmt: skip
def test_what_is_kept_is_a_stated_multiple_of_an_eight_bit_file(
    shapes: dict[str, tuple[int, ...]], multiple: float, tmp_path: Path
) -> None:
    tensors = {f"lora_unet_conv.{_SPELLINGS[word]}": torch.ones(shape).to(torch.float8_e4m3fn) for word, shape in shapes.items()}  # fmt: skip
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(tensors))
    assert load(path, OF).bytes <= multiple * sum(t.numel() for t in tensors.values())


#: run in a process of its own: forks one for each file, and prints how much memory reading took at the worst moment
_MEASURE = """
import os, sys
from pathlib import Path
from farm.errors import BadRequest
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect

def memory(word):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(word))

for path in map(Path, sys.argv[1:]):
    if os.fork():
        os.wait()
        continue
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    try:
        inspect(read_header(path))
        verdict = "read"
    except BadRequest:
        verdict = "refused"
    print(verdict, max(0, memory("VmHWM") - before), path.stat().st_size, flush=True)
    os._exit(0)
"""


def _worst(folder: Path) -> list[Path]:
    entry = '"{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}}'
    empty = '"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    many = "{" + ",".join(entry.format(f"lora_unet_{i}.diff", i, i + 1) for i in range(32_768)) + "}"
    texts = {
        "full": (many, 32_768),
        "100000 tensors": ("{" + ",".join(entry.format(i, i, i + 1) for i in range(100_000)) + "}", 100_000),
        "empty tensors": ("{" + ",".join(empty.format(i) for i in range(120_000)) + "}", 0),
        "metadata": (json.dumps({"__metadata__": {str(i): "x" * 30 for i in range(100_000)}, "a": {}}), 4),
        "nested": ('{"a":' * 1_300_000, 0),
        "lists": ("{" + '"a":[[[[' * 800_000, 0),
        "numbers": ('{"a":{"dtype":"F32","shape":[' + "1," * 3_000_000 + "1]}}", 4),
        "digits": ('{"a":{"dtype":"F32","shape":[' + "9" * 8_000_000 + "]}}", 4),
        "escapes": ('{"a":"' + "\\\\u0041" * 1_000_000 + '"}', 4),
        "strings": ("{" + '"",' * 2_700_000, 4),
        "quotes": ('{"a":"' + '\\\\"' * 4_000_000, 4),
    }
    paths = []
    for name, (text, data) in texts.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(data))
        paths.append(path)
    return paths


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures by Linux' /proc")
def test_reading_a_header_takes_three_times_the_file_and_64_megabytes_at_most(tmp_path: Path) -> None:
    paths = _worst(tmp_path)
    found = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line.split() for line in found.stdout.splitlines()]
    assert len(lines) == len(paths)
    assert [verdict for verdict, _, _ in lines] == ["read", *["refused"] * (len(paths) - 1)]
    for path, (_, grown, size) in zip(paths, lines, strict=True):
        assert int(grown) <= 3 * int(size) + 64 * 2**20, path.name
