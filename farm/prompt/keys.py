"""The keys of a tag: which exist, how their values are read, and what to answer to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from farm.prompt.blocks import PRESETS, read_blocks, read_lbw
from farm.prompt.curves import Curve, Position, read_position
from farm.prompt.mistakes import Mistake, shown
from farm.prompt.numbers import read_count

MOST_RANKS = 4096
#: keys whose value is a curve, in the order in which they are written
CURVES = ("te", "te1", "te2", "te3", "unet", "in", "mid", "out", "hr", "hrte", "hrunet")
#: bare words, and the component that they mean
BARE: Mapping[str, str] = {"high": "transformer", "low": "transformer_2"}
#: words of `module` -> normal word
MODULES: Mapping[str, str] = {
    "te": "te",
    "te1": "text_encoder",
    "te2": "text_encoder_2",
    "te3": "text_encoder_3",
    "text_encoder": "text_encoder",
    "text_encoder_1": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "text_encoder_3": "text_encoder_3",
    "unet": "unet",
    "transformer": "transformer",
    "transformer_1": "transformer",
    "transformer_2": "transformer_2",
    "high": "transformer",
    "low": "transformer_2",
}

_Fields = Iterable[tuple[str, object]]


def split(item: str) -> tuple[str, str]:
    """Return key and value; the key is empty for a positional, the value for a bare word.

    >>> split("TE = 0.5"), split("high"), split("0.8")
    (('te', '0.5'), ('high', ''), ('', '0.8'))
    """
    word, equals, value = item.partition("=")
    if equals:
        return word.strip().casefold() or "=", value.strip()
    return (item.casefold(), "") if item.casefold() in BARE else ("", item)


def read(key: str, value: str, *, loractl: bool) -> _Fields:
    """Return the fields of a Tag that `key=value` gives; curves come under their key.

    Raises:
        Mistake: unknown key, or a value that does not parse.
    """
    if key in BARE and not value:
        return (("modules", (BARE[key],)),)
    reader = _READERS.get(key)
    if reader is None:
        raise Mistake("unknown_key", f"unknown key {shown(key)}", advice(key))
    if not value:
        raise Mistake("bad_value", f"{key} has no value", f"write {_EXAMPLES[key]}")
    return reader(key, value, loractl)


def public(name: str) -> str:
    """What a person calls the field `name` of a Tag."""
    return {"modules": "module", "first": "the first strength", "second": "the second strength"}.get(
        name, name
    )


def advice(word: str) -> str:
    """What to write instead of `word`, which is no key.

    >>> advice("unett")
    "did you mean 'unet'?"
    """
    if word.upper() in PRESETS:
        return f"write lbw={word.upper()}"
    if word.casefold() in MODULES and word.casefold() not in _READERS:
        return f"write module={word.casefold()}"
    near = difflib.get_close_matches(word.casefold()[:40], [*_READERS, *BARE], n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"keys are {', '.join(_READERS)}, high, low"


def check_window(start: Position | None, stop: Position | None) -> None:
    """Refuse a window that ends before it begins, as far as that shows without the number of steps."""
    if start is not None and stop is not None and start.unit == stop.unit and start.value > stop.value:
        raise Mistake(
            "bad_window", f"start {start} stands after stop {stop}", "write step=first-last, as step=5-10"
        )


def _curve(key: str, value: str, loractl: bool) -> _Fields:
    return ((key, Curve.parse(value, loractl=loractl)),)


def _module(key: str, value: str, loractl: bool) -> _Fields:
    found: list[str] = []
    for part in value.split(","):
        word = part.strip().casefold()
        if word not in MODULES:
            near = difflib.get_close_matches(word[:40], list(MODULES), n=1)
            names = "te, text_encoder, text_encoder_2, unet, transformer, transformer_2"
            raise Mistake(
                "unknown_component",
                f"module {shown(part)} is no component",
                f"did you mean {near[0]!r}?" if near else f"components are {names}",
            )
        found.append(MODULES[word])
    return (("modules", tuple(dict.fromkeys(found))),)


def _lbw(key: str, value: str, loractl: bool) -> _Fields:
    return (("lbw", read_lbw(value)),)


def _blocks(key: str, value: str, loractl: bool) -> _Fields:
    return (("blocks", read_blocks(value)),)


def _end(key: str, value: str, loractl: bool) -> _Fields:
    return ((key, _window_position(key, value)),)


def _step(key: str, value: str, loractl: bool) -> _Fields:
    first, dash, last = value.partition("-")
    if not dash or not first.strip() or not last.strip():
        raise Mistake(
            "bad_window", f"step {shown(value)} has no two ends", "write step=5-10, start=5 or stop=10"
        )
    start, stop = _window_position("start", first), _window_position("stop", last)
    check_window(start, stop)
    return (("start", start), ("stop", stop))


def _window_position(key: str, value: str) -> Position:
    """A whole number in a window is always a step; `start=0` means from the beginning."""
    position = read_position(value)
    if position.unit == "step" and position.value < 1:
        if key == "stop":
            raise Mistake(
                "bad_window", "stop 0 lies before the first step", "steps count from 1; remove the tag?"
            )
        return Position(1.0, "step")
    return position


def _dyn(key: str, value: str, loractl: bool) -> _Fields:
    return (("dyn", read_count(value, "dyn", least=1, most=MOST_RANKS)),)


_READERS: Mapping[str, Callable[[str, str, bool], _Fields]] = {
    **dict.fromkeys(CURVES, _curve),
    "module": _module,
    "lbw": _lbw,
    "blocks": _blocks,
    "start": _end,
    "stop": _end,
    "step": _step,
    "dyn": _dyn,
}
_EXAMPLES: Mapping[str, str] = {
    **{key: f"{key}=0.8" for key in CURVES},
    "module": "module=unet",
    "lbw": "lbw=INALL",
    "blocks": "blocks=0-5=0.5/6-11=1",
    "start": "start=5",
    "stop": "stop=10",
    "step": "step=5-10",
    "dyn": "dyn=8",
}
