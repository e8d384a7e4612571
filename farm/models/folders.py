"""Reads what a diffusers folder says of itself: pipeline, configs, files. No weights are opened and no torch is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.errors import BadRequest
from farm.models.layouts.blocks import Config

INDEX = "model_index.json"
_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
#: Components whose configs we read, with the stem of their weights; what else a folder holds stays unused.
WEIGHTS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "transformer_2": "diffusion_pytorch_model",
    **dict.fromkeys(_ENCODERS, "model"),
    "vae": "diffusion_pytorch_model",
}
TOKENIZERS: Mapping[str, str] = {name: name.replace("text_encoder", "tokenizer") for name in _ENCODERS}
#: Files of tokenizers, and of processors that stand in for one; one of the sets is needed, the rest comes along.
_VOCABULARIES = (
    {"tokenizer.json"},
    {"vocab.json", "merges.txt"},
    {"spiece.model"},
    {"tokenizer.model"},
    {"tekken.json"},
)
_BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_MAX_JSON_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A diffusers folder as it lies on disk."""

    #: class of the pipeline, as model_index.json names it
    pipeline: str
    index: Mapping[str, Any]
    #: config of each component and of the scheduler; `_class_name` says its class
    configs: Mapping[str, Config]
    #: what a worker needs, relative to the folder, in order
    files: tuple[str, ...]
    #: variant of each component's weights, such as `fp16`; "" for plain names
    variants: Mapping[str, str]
    #: parts that the pipeline names and Farm does not use: safety checkers, encoders of pictures
    unused: tuple[str, ...]


def read_folder(path: Path) -> Folder:
    """Return what the folder says.

    Raises:
        BadRequest: it is no diffusers folder, lacks a file, or keeps its weights in pickle files.
    """
    index = read_index(path)
    configs: dict[str, Config] = {}
    files: list[str] = [INDEX]
    variants: dict[str, str] = {}
    named = {name: _class_in(index, name) for name in index}
    used = {"scheduler", *WEIGHTS, *TOKENIZERS.values()}
    for name, stem in WEIGHTS.items():
        class_name = named.get(name)
        if class_name is None:
            continue
        configs[name] = {**read_json(path / name / "config.json"), "_class_name": class_name}
        weights, variants[name] = _weights(path, name, stem)
        files += [f"{name}/config.json", *weights]
    for encoder, tokenizer in TOKENIZERS.items():
        if encoder in configs:
            files += tokenizer_files(path, tokenizer)
    if named.get("scheduler") is not None:
        configs["scheduler"] = {
            "_class_name": named["scheduler"],
            **read_json(path / "scheduler" / "scheduler_config.json"),
        }
        files.append("scheduler/scheduler_config.json")
    return Folder(
        pipeline=str(index.get("_class_name", "")),
        index=index,
        configs=configs,
        files=tuple(files),
        variants=variants,
        unused=tuple(name for name, found in named.items() if found is not None and name not in used),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        BadRequest: no such file, too large, or no JSON object.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise BadRequest(f"{where} is larger than a config can be", code="bad_model")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadRequest(f"the model folder lacks {where}", code="bad_model") from None
    except (ValueError, RecursionError):
        raise BadRequest(f"{where} is no JSON", "copy the model again", code="bad_model") from None
    if not isinstance(document, dict):
        raise BadRequest(f"{where} holds no JSON object", code="bad_model")
    return document


def read_index(path: Path) -> dict[str, Any]:
    """Return model_index.json; raises as `read_folder`."""
    if (path / INDEX).is_file():
        return read_json(path / INDEX)
    held = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith(_PICKLES) for name in held):
        raise BadRequest(
            f"{path.name} has no {INDEX}, only pickle files, which Farm does not read",
            "save the model as safetensors",
            code="bad_model",
        )
    single = [name for name in held if name.endswith(".safetensors")]
    hint = f"give the file {single[0]} itself" if single else "give the folder that holds model_index.json"
    raise BadRequest(f"{path.name} is no diffusers folder: it has no {INDEX}", hint, code="bad_model")


def _class_in(index: Mapping[str, Any], name: str) -> str | None:
    """Return the class of a component, or None when the pipeline leaves it out."""
    entry = index.get(name)
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        return None
    return entry[1]


def _weights(path: Path, name: str, stem: str) -> tuple[list[str], str]:
    """Return the safetensors files of a component and their variant; full precision is preferred."""
    folder = path / name
    held = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    for variant in ("", "fp16", "bf16"):
        infix = f".{variant}" if variant else ""
        if f"{stem}{infix}.safetensors" in held:
            return [f"{name}/{stem}{infix}.safetensors"], variant
        index = f"{stem}.safetensors.index{infix}.json"
        if index in held:
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise BadRequest(f"{name}/{index} names no files", "copy the model again", code="bad_model")
            shards = sorted({str(shard) for shard in weight_map.values()})
            missing = [shard for shard in shards if shard not in held]
            if missing:
                raise BadRequest(f"the model folder lacks {name}/{missing[0]}", code="bad_model")
            return [f"{name}/{index}", *(f"{name}/{shard}" for shard in shards)], variant
    pickled = sorted(entry for entry in held if entry.endswith(_PICKLES))
    if pickled:
        raise BadRequest(
            f"the weights of {name} are a pickle file ({pickled[0]}), which Farm does not read",
            "save the model with safe_serialization=True",
            code="bad_model",
        )
    raise BadRequest(f"the model folder lacks {name}/{stem}.safetensors", code="bad_model")


def tokenizer_files(path: Path, name: str) -> list[str]:
    """Return the files of the tokenizer in folder `name`.

    Raises:
        BadRequest: its vocabulary is not there.
    """
    held = {entry.name for entry in (path / name).iterdir()} if (path / name).is_dir() else set()
    if not any(vocabulary <= held for vocabulary in _VOCABULARIES):
        raise BadRequest(
            f"the model folder lacks {name}/tokenizer.json",
            "vocab.json with merges.txt, spiece.model or tokenizer.model would do, too",
            code="bad_model",
        )
    known = sorted({*_BESIDE, *(file for vocabulary in _VOCABULARIES for file in vocabulary)})
    return [f"{name}/{file}" for file in known if file in held]
