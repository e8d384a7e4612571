"""Numbers, times and states in words, and the colour of an adapter: what templates show, said the same everywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from farm.models.samplers import LABELS

#: chosen so that the built-in adapters stand well apart
_COLOUR_SEED = 59673
HUES = 24

BASE_MODELS = {
    "sd1": "SD 1.5",
    "sd2": "SD 2",
    "sdxl": "SDXL",
    "sd3": "SD 3",
    "flux1": "Flux.1",
    "flux2": "Flux.2",
    "chroma": "Chroma",
    "wan": "Wan",
    "qwenimage": "Qwen-Image",
    "zimage": "Z-Image",
    "hunyuanvideo": "HunyuanVideo",
    "ltxv": "LTX-Video",
    "lumina2": "Lumina 2",
    "hidream": "HiDream",
    "auraflow": "AuraFlow",
    "sana": "Sana",
    "demo": "Demo",
    "unknown": "unknown base",
}
TYPES = {
    "lora": "LoRA",
    "dora": "DoRA",
    "locon": "LoCon",
    "loha": "LoHa",
    "lokr": "LoKr",
    "glora": "GLoRA",
    "ia3": "IA³",
    "oft": "OFT",
    "boft": "BOFT",
    "norm": "Norm",
    "full": "Full",
    "bias": "Bias",
}
STATES = {
    "queued": "waiting",
    "assigned": "waiting",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
STAGES = {
    "fetching": "fetching files",
    "loading": "loading the model",
    "patching": "patching weights",
    "sampling": "sampling",
    "extracting": "extracting",
    "uploading": "saving the result",
}
#: stages that go on step by step, and what a step is
COUNTED = {"sampling": "step", "extracting": "layer"}


def hue(name: str) -> int:
    """The hue of an adapter's colour, by its name alone (FNV-1a, folded); `colour.js` computes the same.

    >>> hue("ink"), hue("INK"), hue("gold")
    (245, 245, 50)
    """
    value = _COLOUR_SEED
    for byte in name.lower().encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return ((value ^ (value >> 15)) % HUES) * 15 + 5


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    >>> duration(0.04), duration(2.34), duration(20.4), duration(100), duration(7300), duration(None)
    ('0.04 s', '2.3 s', '20 s', '1 min 40 s', '2 h 1 min', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 0.005:
        return "0 s"
    if seconds < 0.1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"


def size(count: int | None) -> str:
    """Bytes as people say them.

    >>> size(512), size(1_500_000), size(6_400_000_000)
    ('512 B', '1.5 MB', '6.4 GB')
    """
    value = float(count or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def number(value: float | None) -> str:
    """A number without needless digits, a real minus sign, thin spaces between thousands.

    >>> number(0.8), number(1.0), number(-0.25), number(12345), number(None)
    ('0.8', '1', '−0.25', '12\\u202f345', '–')
    """
    if value is None:
        return "–"
    text = f"{abs(value):,.0f}" if float(value).is_integer() else f"{abs(value):,.4g}"
    return ("−" if value < 0 else "") + text.replace(",", "\u202f")


def plural(count: int, word: str, words: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "picture"), plural(3, "picture"), plural(0, "batch", "batches")
    ('1 picture', '3 pictures', '0 batches')
    """
    return f"{number(count)} {word if count == 1 else words or word + 's'}"


def moment(value: datetime | str | None) -> datetime | None:
    """A time of a view, whichever way it came."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC) if value is not None else None


def ago(value: datetime | str | None, now: datetime) -> str:
    """How long ago `value` was, in words; `times.js` keeps it true on an open page."""
    at = moment(value)
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    if seconds < 5:
        return "just now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    days = int(seconds // 86400)
    return "yesterday" if days == 1 else f"{days} days ago" if days < 30 else at.strftime("%-d %B %Y")


def title(job: dict[str, Any]) -> str:
    """A short name of a job: how its prompt begins, without tags.

    >>> title({"prompt": "a fox <lora:ink:0.8>, in the snow"})
    'a fox, in the snow'
    """
    if job.get("extract"):
        return f"Extract {job['extract']['name']}"
    text = job.get("clean_prompt") or _without_tags(str(job.get("prompt") or ""))
    return (text[:79] + "…" if len(text) > 80 else text) or "(empty prompt)"


def _without_tags(prompt: str) -> str:
    kept, depth = [], 0
    for char in prompt:
        if char == "<":
            depth += 1
        elif char == ">" and depth:
            depth -= 1
        elif not depth:
            kept.append(char)
    return " ".join("".join(kept).split()).replace(" ,", ",").strip(" ,")


def sampler(key: str | None) -> str:
    """The usual name of a sampler."""
    return LABELS.get(key or "", key or "the model's own")


def progress(job: dict[str, Any]) -> int:
    """Percent of a job's steps that are done.

    >>> progress({"state": "running", "step": 5, "total_steps": 20}), progress({"state": "succeeded"})
    (25, 100)
    """
    if job["state"] == "succeeded":
        return 100
    return round(100 * (job.get("step") or 0) / max(1, job.get("total_steps") or 1))


def job_words(job: dict[str, Any]) -> str:
    """Where a job stands, in a few words; `live.js` says the same as it goes on."""
    state, stage = job["state"], job.get("stage")
    if state == "running":
        where = f" on {job['worker']}" if job.get("worker") else ""
        if stage in COUNTED:
            return f"{COUNTED[stage]} {job.get('step') or 0} of {job['total_steps']}{where}"
        return f"{STAGES.get(stage or '', 'starting')}{where}"
    if state in {"queued", "assigned"}:
        return str(
            job.get("waiting_because")
            or ("about to start" if state == "assigned" else "waiting for a worker")
        )
    return STATES[state]


def starts(value: datetime | str | None, now: datetime) -> str:
    """When something is expected to begin."""
    at = moment(value)
    if at is None:
        return "unknown"
    seconds = (at - now).total_seconds()
    return "any moment" if seconds < 2 else f"in about {roughly(seconds)}"


def roughly(seconds: float) -> str:
    """Seconds without digits that nobody can know.

    >>> roughly(7.3), roughly(47), roughly(100), roughly(400), roughly(5000)
    ('7 s', '45 s', '2 min', '7 min', '1.4 h')
    """
    if seconds < 90:
        return f"{round(seconds)} s" if seconds < 10 else f"{5 * round(seconds / 5)} s"
    return f"{round(seconds / 60)} min" if seconds < 4500 else f"{number(round(seconds / 3600, 1))} h"


def between(low: datetime | str | None, high: datetime | str | None, now: datetime) -> str:
    """How sure a start is, as roughly as it is known; empty when it is any moment."""
    first, last = moment(low), moment(high)
    if first is None or last is None:
        return ""
    return span(max(0.0, (first - now).total_seconds()), (last - now).total_seconds())


def span(low: float, high: float) -> str:
    """Two times in seconds, as one says them of something uncertain.

    >>> span(40, 95), span(61, 250), span(0.4, 45), span(4000, 9000), span(1, 3), span(20, 22)
    ('40 s – 2 min', '1 – 5 min', '0 – 45 s', '1 – 3 h', '0 – 5 s', '20 – 25 s')
    """
    if high < 2:
        return ""
    unit, word = (60, "min") if high >= 90 else (5, "s")
    if high >= 5400:
        unit, word = 3600, "h"
    top = -int(-high // unit) * (5 if word == "s" else 1)
    if low < unit and word != "s":
        smaller, small = (1, "s") if word == "min" else (60, "min")
        return f"{round(low / smaller)} {small} – {top} {word}" if low >= smaller else f"0 – {top} {word}"
    return f"{int(low // unit) * (5 if word == 's' else 1)} – {top} {word}"


TRANSITIONS = {
    "submit": "asked for",
    "assign": "given to a worker",
    "claim": "begun",
    "unassign": "taken off its worker",
    "resume": "resumed",
    "preempt": "asked to give way",
    "succeed": "succeeded",
    "retry_later": "put off after a passing error",
    "hand_back": "handed back by its worker",
    "lose": "lost with its worker, waits again",
    "quarantine": "set aside: it keeps bringing down its workers",
    "fail": "failed",
    "cancel": "cancelled",
    "request_cancel": "asked to stop",
    "cancelled": "stopped",
    "retry": "queued again",
}


def transition(name: str) -> str:
    """A transition of `farm.jobs.states` in words."""
    return TRANSITIONS.get(name, name)
