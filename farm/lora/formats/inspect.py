"""Describes an adapter from its header alone: algorithms, base model, naming scheme, ranks, trigger words, problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from farm.errors import BadRequest
from farm.lora.formats import metadata as read_metadata
from farm.lora.formats.detect import UNETS, base_model
from farm.lora.formats.header import Header
from farm.lora.formats.schemes import DENOISER, address, scheme_of
from farm.lora.formats.shapes import ranks_of
from farm.lora.formats.suffixes import ALGORITHMS, algorithm_of, group

_SCALED_BY_ALPHA = frozenset({"lora_down", "embedding_a", "hada_w1_a", "lokr_w1", "lokr_w1_a"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """What is known of an adapter without a model and without its data."""

    #: a word of ALGORITHMS, the most frequent of `types`; `locon` and `dora` win over `lora`
    type: str
    #: all algorithms in the file, the most frequent first
    types: tuple[str, ...]
    #: a word of FAMILY_NAMES
    base_model: str
    #: naming scheme of its tensors: kohya, diffusers, peft, …
    scheme: str
    #: distinct ranks, rising
    ranks: tuple[int, ...]
    #: alphas as the metadata tell; those in tensors are not read
    alphas: tuple[float, ...]
    #: number of modules that it changes
    layers: int
    #: `text_encoder`, `text_encoder_2`, `unet` or `transformer`
    components: tuple[str, ...]
    trigger_words: tuple[str, ...]
    default_strength: float | None
    title: str
    description: str
    metadata: Mapping[str, str]
    #: sentences for a person
    problems: tuple[str, ...]
    #: of two denoisers (Wan 2.2) the one that it is for: `high`, `low`, `both`; "" when the file does not say
    expert: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready fields; tuples become lists."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> AdapterInfo:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return cls(**fields)


def inspect(
    header: Header, file_name: str = "", peft: Mapping[str, read_metadata.PeftConfig] | None = None
) -> AdapterInfo:
    """Everything that the header tells. Raises BadRequest when the file is no adapter at all.

    `peft` are configurations that were found beside the file, when its own metadata have none.
    """
    grouped = group(header.tensors)
    counts: Counter[str] = Counter()
    ranks: set[int] = set()
    puzzling: list[str] = []
    for module, keys in grouped.modules.items():
        algorithm = algorithm_of(keys, header.tensors)
        if algorithm is None:
            puzzling.append(module)
            continue
        counts[algorithm] += 1
        rank = ranks_of(algorithm, {suffix: header.tensors[key].shape for suffix, key in keys.items()})
        ranks |= {rank} if rank else set()
    if not counts:
        raise BadRequest(
            _no_adapter(header, puzzling), "choose a LoRA or LyCORIS file", code="not_an_adapter"
        )
    verdict = base_model(header.metadata, grouped.modules, header.tensors)
    problems = [verdict.problem] if verdict.problem else []
    if grouped.unknown:
        problems.append(
            _counted(len(grouped.unknown), "tensor", "has a name", "have names", grouped.unknown[0])
        )
    if puzzling:
        problems.append(_counted(len(puzzling), "module", "has tensors", "have tensors", puzzling[0]))
    scheme = scheme_of(header.tensors)
    if not (peft or read_metadata.peft_configs(header.metadata)):
        problems += _unsaid(scheme, grouped.modules)
    types = tuple(sorted(counts, key=lambda word: (-counts[word], ALGORITHMS.index(word))))
    return AdapterInfo(
        type=_shown_type(types),
        types=types,
        base_model=verdict.family,
        scheme=scheme,
        ranks=tuple(sorted(ranks)),
        alphas=read_metadata.alphas(header.metadata),
        layers=sum(counts.values()),
        components=_components(grouped.modules, verdict.family),
        trigger_words=read_metadata.trigger_words(header.metadata),
        default_strength=read_metadata.default_strength(header.metadata),
        title=read_metadata.title(header.metadata, file_name),
        description=read_metadata.clean(header.metadata.get("modelspec.description", ""), 2000),
        metadata=read_metadata.kept(header.metadata),
        problems=tuple(problems),
        expert=_expert(grouped.modules, header.metadata),
    )


def _expert(modules: Iterable[str], metadata: Mapping[str, str]) -> str:
    named = {address(module).component for module in modules}
    if "transformer_2" in named:
        return "both" if named & {DENOISER, ""} else "low"
    return read_metadata.expert(metadata)


def _unsaid(scheme: str, modules: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What is taken for granted because a configuration of peft is not there."""
    suffixes = {suffix for keys in modules.values() for suffix in keys}
    found = []
    if scheme == "peft" and "alpha" not in suffixes and suffixes & _SCALED_BY_ALPHA:
        found.append(
            "peft keeps alpha in adapter_config.json, not in this file: alpha is taken as equal to the rank"
        )
    if "oft_r" in suffixes:
        found.append(
            "peft keeps the kind of OFT in adapter_config.json, not in this file: its default is taken "
            "(a Cayley-Neumann series of 5 terms, no constraint)"
        )
    return found


def _shown_type(types: tuple[str, ...]) -> str:
    """A file of plain LoRA layers and a few convolutions is a LoCon, one with magnitudes a DoRA."""
    if types[0] in ("lora", "locon", "dora"):
        return next(word for word in ("dora", "locon", "lora") if word in types)
    return types[0]


def _components(modules: Mapping[str, Mapping[str, str]], family: str) -> tuple[str, ...]:
    found = {address(module).component or DENOISER for module in modules}
    transformers = family not in (*UNETS, "unknown") or any(
        module.removeprefix("base_model.model.").startswith("transformer.") for module in modules
    )
    named = {("transformer" if transformers else "unet") if word == DENOISER else word for word in found}
    return tuple(sorted(named))


def _no_adapter(header: Header, puzzling: list[str]) -> str:
    first = next(iter(header.tensors))
    if puzzling:
        return f"this is no complete adapter: the tensors of {puzzling[0]!r} lack a part (one of up and down, or of a and b)"
    what = f"none of its {len(header.tensors)} tensors has an adapter's name (first: {first!r})"
    whole = any("weight" in name.rsplit(".", 1)[-1] for name in header.tensors)
    return f"this is no adapter: {what}" + ("; it looks like a whole model" if whole else "")


def _counted(count: int, noun: str, one: str, many: str, first: str) -> str:
    what = f"1 {noun} {one}" if count == 1 else f"{count} {noun}s {many}"
    return f"{what} of no known kind and will not be used (first: {first!r})"
