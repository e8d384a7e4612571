"""Diffusers' schedulers as our samplers: made from a model's config, folded to the person's steps, saved between steps."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.models.hires import schedule_steps
from farm.models.layouts.blocks import Config

#: class and fixed fields of each sampler; all other fields are the model's
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
    ),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}),
}
#: fields of a sampler for a model that predicts the flow, beside those of `_CLASSES`
_OF_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_FLOW = {"unipc": _OF_FLOW, "dpmpp_2m": _OF_FLOW}
#: Latents are not bounded as pixels are, so a config that does not speak of clipping means none.
_LATENT = {"clip_sample": False}
_MISSING = object()


def make_scheduler(
    sampler: str, config: Config, steps: int, device: torch.device, strength: float = 1.0, **timing: Any
) -> Any:
    """Return a scheduler of its own for one run of `steps` steps.

    With a `strength` below 1 they are the last `steps` of a longer schedule, which begins at so much noise. `timing` is
    what the family's pipeline tells `set_timesteps` beside the number of steps: `sigmas`, `mu`.

    Raises:
        BadRequest: the sampler cannot do this number of steps with this model.
    """
    scheduler = bare_scheduler(sampler, config)
    whole = schedule_steps(steps, strength)
    if sampler == "lcm":
        timing["original_inference_steps"] = max(whole, scheduler.config.original_inference_steps)
    try:
        with np.errstate(invalid="ignore"):
            scheduler.set_timesteps(whole, device=device, **timing)
    except ValueError as error:
        line = str(error).splitlines()[0][:200]
        raise BadRequest(
            f"{sampler} cannot do {steps} steps: {line}", "ask for fewer steps", code="bad_steps"
        ) from None
    if bool(torch.isnan(scheduler.timesteps).any()):
        # a schedule that is stretched to its last step has none to stretch where the first is the last
        raise BadRequest(
            f"{sampler} cannot do {steps} steps with this model", "ask for more steps", code="bad_steps"
        )
    if hasattr(scheduler, "set_begin_index"):
        # otherwise the index is searched by timestep, which fails where the first two are equal
        scheduler.set_begin_index(len(scheduler.timesteps) - call_bounds(scheduler, steps)[-1])
    return scheduler


def bare_scheduler(sampler: str, config: Config) -> Any:
    """Return the sampler's scheduler for a model with this scheduler config, before it knows of steps."""
    class_name, fixed = _CLASSES[sampler]
    cls = getattr(diffusers, class_name)
    fields = {**_LATENT, **config, **_flow_fields(sampler, config), **fixed}
    known = inspect.signature(cls.__init__).parameters
    # those with an underscore tell which fields were not set but are another class's defaults
    return cls.from_config({key: value for key, value in fields.items() if key in known or key[0] == "_"})


def _flow_fields(sampler: str, config: Config) -> dict[str, Any]:
    """Return the fields that make a sampler one of flows, where the model's config is of a flow.

    The shift of the schedule is called `shift` by one class and `flow_shift` by the others.
    """
    of_flow = str(config.get("_class_name", "")).startswith("FlowMatch") or config.get("use_flow_sigmas")
    if not of_flow:
        return {}
    shift = config.get("shift", config.get("flow_shift", 1.0))
    return {**_FLOW.get(sampler, {}), "shift": shift, "flow_shift": shift}


def shift_mu(config: Any, tokens: int) -> float:
    """Return by how much the schedule is shifted for a picture of `tokens` patches: a line through two points, as in
    the reference code of Flux.1 and Stable Diffusion 3.
    """
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (most - least)
    return float(tokens * slope + (low - slope * least))


def call_bounds(scheduler: Any, steps: int) -> tuple[int, ...]:
    """Return how many model calls are done after each step of the person's count, `bounds[0] == 0`.

    Heun calls the model twice a step but once in the last: after n steps 2n - 1 calls. A schedule of more steps is
    entered so late that `steps` of them are left.
    """
    order = int(getattr(scheduler, "order", 1))
    whole = -(-len(scheduler.timesteps) // order)
    total = len(scheduler.timesteps) - (whole - steps) * order
    return (*(min(step * order, total) for step in range(steps)), total)


def noised(scheduler: Any, noise: Tensor, start: Tensor | None, calls: int) -> Tensor:
    """Return the latents that a run of `calls` model calls begins with: noise alone, or `start` under so much noise."""
    if start is None:
        pure: Tensor = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        return pure
    first = scheduler.timesteps[-calls:][:1].repeat(len(noise))
    mixed: Tensor = scheduler.add_noise(start, noise, first)
    return mixed


def step_options(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Return what this scheduler's step takes beyond the usual: the generators of its noise, no added noise for DDIM."""
    accepted = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {}
    if "eta" in accepted:
        options["eta"] = 0.0
    if "generator" in accepted:
        options["generator"] = generators
    return options


def denoised(scheduler: Any, output: Any, latents: Tensor, predicted: Tensor) -> Tensor | None:
    """Return the picture (as latents) that the model saw in the noise at the last call, where it is known.

    `latents` are those before the call and `output` is what the scheduler's step returned.
    """
    if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        flown: Tensor = latents - scheduler.sigmas[scheduler.step_index - 1].to(latents) * predicted
        return flown
    for name in ("denoised", "pred_original_sample"):
        found = getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    kept = getattr(scheduler, "model_outputs", None)
    return kept[-1] if kept and isinstance(kept[-1], Tensor) else None


def capture(scheduler: Any, fresh: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `scheduler` remembers of its run: plain values as JSON knows them, and tensors by name.

    `fresh` is the same scheduler before its first step: only what differs from it is history.
    """
    values: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in vars(scheduler).items():
        if name != "_internal_dict" and not _same(value, vars(fresh).get(name, _MISSING)):
            values[name] = _encode(value, name, tensors)
    return values, tensors


def recall(scheduler: Any, values: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> None:
    """Put captured history into a fresh scheduler."""
    for name, value in values.items():
        setattr(scheduler, name, _decode(value, tensors, device))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.equal(left.cpu(), right.cpu())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return False
    return bool(left is right or left == right)


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        # a scalar of the host (a sigma) stays there: mixed with it, results may differ in the last bit
        return {"tensor": name, "host": value.dim() == 0 and value.device.type == "cpu"}
    if isinstance(value, list | tuple):
        return [_encode(entry, f"{name}.{i}", tensors) for i, entry in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"scheduler state {name} is a {type(value).__name__}, which cannot be saved")


def _decode(value: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    if isinstance(value, dict):
        tensor = tensors[value["tensor"]]
        return tensor if value["host"] else tensor.to(device)
    if isinstance(value, list):
        return [_decode(entry, tensors, device) for entry in value]
    return value
