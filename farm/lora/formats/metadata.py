"""What trainers write into a file's metadata: title, trigger words, strengths, ranks and alphas of peft adapters."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

#: one of two denoisers: for the noisy steps, for the rest; "" where nothing tells
Expert = Literal["high", "low", ""]
MAX_TRIGGER_WORDS = 32
#: entries that hold a name which a person gave
_NAMES = ("modelspec.title", "ss_output_name", "name", "ss_sd_model_name", "ss_base_model_version")
_EXPERT = re.compile(r"(?:[^a-z0-9](high|low)|(?:^|[^a-z0-9])(high|low)[^a-z0-9]?noise)(?=[^a-z0-9]|$)")
#: metadata kept with an adapter: shown on its page, so bounded
_KEPT_ENTRIES = 120
_KEPT_LETTERS = 2000
#: diffusers' entry with the peft configuration of every component, as JSON
PEFT_ENTRY = "lora_adapter_metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """What the peft configuration of one component says about the meaning of its tensors."""

    rank: float | None = None
    alpha: float | None = None
    rslora: bool = False
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    #: OFT: whether a series stands for the inverse, and of how many terms; whether Q is shrunk, and to what
    neumann: bool = True
    neumann_terms: int = 5
    coft: bool = False
    coft_eps: float = 6e-5
    #: (IA)³: ends of the names of layers whose inputs are scaled; None when it does not say
    feedforward: tuple[str, ...] | None = None

    def is_feedforward(self, path: str) -> bool | None:
        return None if self.feedforward is None else path.endswith(self.feedforward)

    def scale_of(self, path: str, rank: int | None) -> float | None:
        """Scale of a layer whose tensors have this rank (None: they have none); None when the configuration does not
        say."""
        alpha = _by_pattern(self.alpha_pattern, path, self.alpha)
        divisor = rank or _by_pattern(self.rank_pattern, path, self.rank)
        if alpha is None or not divisor or divisor < 0:
            return None
        return alpha / (math.sqrt(divisor) if self.rslora else divisor)


def peft_configs(metadata: Mapping[str, str]) -> Mapping[str, PeftConfig]:
    """Component ("" for a file without components) -> its configuration."""
    document = _json(metadata.get(PEFT_ENTRY, ""))
    if not isinstance(document, dict):
        return {}
    entries: dict[str, dict[str, Any]] = {}
    for name, value in document.items():
        component, _, key = name.rpartition(".")
        entries.setdefault(component, {})[key] = value
    return {component: peft_config(entry) for component, entry in entries.items()}


def peft_config(entry: Mapping[str, Any]) -> PeftConfig:
    """Configuration from the fields of a peft `adapter_config.json`; what is not as peft writes it counts as unsaid."""
    return PeftConfig(
        rank=_number(entry.get("r")),
        # LoHa and LoKr say `alpha`, LoRA says `lora_alpha`
        alpha=_number(entry.get("lora_alpha", entry.get("alpha"))),
        rslora=entry.get("use_rslora") is True,
        rank_pattern=_numbers(entry.get("rank_pattern")),
        alpha_pattern=_numbers(entry.get("alpha_pattern")),
        neumann=entry.get("use_cayley_neumann") is not False,
        neumann_terms=_terms(entry.get("num_cayley_neumann_terms")),
        coft=entry.get("coft") is True,
        coft_eps=_or(_number(entry.get("eps")), 6e-5),
        feedforward=_names(entry.get("feedforward_modules")),
    )


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Words that call the adapter up, the surest first: the trigger phrase, tags by frequency, folder names."""
    phrase = (word.strip() for word in metadata.get("modelspec.trigger_phrase", "").split(","))
    found = dict.fromkeys(word for word in phrase if word)
    counts: Counter[str] = Counter()
    for tag, count in _tag_counts(_json(metadata.get("ss_tag_frequency", ""))):
        counts[tag] += count
    found |= dict.fromkeys(tag for tag, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    if not found:
        found = dict.fromkeys(_folder_words(_json(metadata.get("ss_dataset_dirs", ""))))
    return tuple(clean(word, 200) for word in found)[:MAX_TRIGGER_WORDS]


def title(metadata: Mapping[str, str], file_name: str) -> str:
    stem = file_name.rsplit("/", 1)[-1].removesuffix(".safetensors")
    words = (metadata.get(key, "").strip() for key in ("modelspec.title", "ss_output_name"))
    return clean(next((word for word in words if word), stem), 200)


def expert_in(text: str) -> Expert:
    """Which of Wan 2.2's two denoisers a name asks for; "" when it says neither or both.

    >>> expert_in("wan_high_noise.safetensors"), expert_in("wan22-LowNoise"), expert_in("highlands")
    ('high', 'low', '')
    """
    words = {one or other for one, other in _EXPERT.findall(text.casefold())}
    return cast(Expert, words.pop()) if len(words) == 1 else ""


def expert(metadata: Mapping[str, str]) -> Expert:
    """The same of the names that trainers keep in a file, the most deliberate one first."""
    found = (expert_in(metadata.get(key, "")) for key in _NAMES)
    return next((word for word in found if word), "")


def default_strength(metadata: Mapping[str, str]) -> float | None:
    """Strength that the author recommends, when it is a sensible number."""
    for key in ("farm.default_strength", "modelspec.preferred_weight", "preferred_weight"):
        found = _number(metadata.get(key))
        if found is not None and abs(found) <= 10:
            return found
    return None


def alphas(metadata: Mapping[str, str]) -> tuple[float, ...]:
    """Alphas that the metadata tell; the tensors themselves may hold others."""
    said = [_number(metadata.get("ss_network_alpha"))]
    said += [config.alpha for config in peft_configs(metadata).values()]
    return tuple(sorted({alpha for alpha in said if alpha is not None}))


def kept(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Metadata short enough to store and show; longer entries are cut and end in an ellipsis."""
    return {clean(key, 200): clean(metadata[key], _KEPT_LETTERS) for key in sorted(metadata)[:_KEPT_ENTRIES]}


def clean(text: str, letters: int) -> str:
    """Text without control characters (databases refuse NUL), cut to a length."""
    shown = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
    return shown if len(shown) <= letters else shown[: letters - 1] + "…"


def _tag_counts(found: Any) -> Iterator[tuple[str, int]]:
    """(tag, count) of kohya's {folder: {tag: count}}, or of a flat {tag: count}."""
    if not isinstance(found, dict):
        return
    for key, value in found.items():
        if isinstance(value, dict):
            yield from _tag_counts(value)
        elif type(value) is int and value > 0 and key.strip():
            yield key.strip(), value


def _folder_words(found: Any) -> Iterator[str]:
    """`10_inkstyle` -> `inkstyle`: kohya's folders are named by repeats and words."""
    for name in found if isinstance(found, dict) else ():
        repeats, _, word = name.partition("_")
        if repeats.isdecimal() and word.strip():
            yield word.strip()


def _by_pattern(patterns: Mapping[str, float], path: str, default: float | None) -> float | None:
    """peft's rule: a pattern is a module's name, or the end of one."""
    dotted = f".{path}"
    return next(
        (value for name, value in patterns.items() if dotted.endswith(f".{name.lstrip('^')}")), default
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _number(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        value = float(found)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _numbers(found: Any) -> Mapping[str, float]:
    pairs = ((key, _number(value)) for key, value in found.items()) if isinstance(found, dict) else ()
    return {key: value for key, value in pairs if value is not None}


def _or(found: float | None, default: float) -> float:
    return default if found is None else found


def _terms(found: Any) -> int:
    """Terms of a series: peft's default for what is no sensible number of them."""
    return found if type(found) is int and 1 <= found <= 64 else 5


def _names(found: Any) -> tuple[str, ...] | None:
    """A list of names; a regular expression out of a file is not run."""
    is_list = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return tuple(found) if is_list else None
