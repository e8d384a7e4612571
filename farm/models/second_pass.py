"""The second, larger pass over a finished run: its latents are enlarged, put under noise again and denoised anew.

Enlarging happens in the latents ("Latent" of AUTOMATIC1111's Hires. fix): bilinear, without a way through the VAE.
The noise is that of the same seeds, so the same job makes the same picture.
"""

from __future__ import annotations

from dataclasses import replace

from torch.nn.functional import interpolate

from farm.errors import Permanent
from farm.lora.schedule import StrengthPlan
from farm.models.hires import enlarged
from farm.models.machines import Machine
from farm.models.sampler import StepMachine
from farm.models.state import SampleSpec, SampleState, State


def second_spec(spec: SampleSpec, multiple: int) -> SampleSpec:
    """Return what the second pass of `spec` asks of the sampler; its sides are multiples of `multiple`."""
    hires = spec.hires
    if hires is None:
        raise ValueError("this job has no second pass")
    return replace(
        spec,
        width=enlarged(spec.width, hires.scale, multiple),
        height=enlarged(spec.height, hires.scale, multiple),
        steps=hires.steps,
        strength=hires.strength,
        hires=None,
    )


def begin_second(machine: Machine, first: State, plan: StrengthPlan) -> SampleState:
    """Return the state before step 1 of the second pass of `first`, whose steps are done.

    Raises:
        Permanent: the machine runs a pipeline that knows one pass only.
        BadRequest: the sampler cannot do this number of steps with this model.
    """
    if not (isinstance(machine, StepMachine) and isinstance(first, SampleState)):
        raise Permanent("this model cannot make a second pass", "leave hr_scale out")
    if not first.done:
        raise ValueError(f"only {first.step} of {first.steps} steps of the first pass are done")
    spec = second_spec(first.spec, machine.model.info.limits["multiple_of"])
    scale = machine.model.scale
    size = (spec.height // scale, spec.width // scale)
    start = interpolate(first.latents, size=size, mode="bilinear", align_corners=False)
    return machine.begin(spec, plan, first.adapters, start)
