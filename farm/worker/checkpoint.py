"""A render in the middle as bytes: what a later attempt needs to go on bit for bit, and what has to agree for that.

The file is safetensors: the states of the job's parts as `SampleState.save` writes them, and the rest in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import diffusers
import numpy as np
import torch
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from farm.errors import BadRequest, Permanent
from farm.lora.formats.header import parse_header
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter
from farm.models.load import LoadedModel
from farm.models.machines import Machine
from farm.models.sampler import SampleState, StepMachine
from farm.models.second_pass import second_spec
from farm.models.state import SampleSpec
from farm.worker.device import Device
from farm.worker.mode import Mode

_VERSION = 1
_FIELD = "farm_checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What has to be the same for the same bits, beside the job itself."""

    #: the files of the base model
    model: str
    device: str
    dtype: str
    torch: str
    diffusers: str
    compiled: bool

    @classmethod
    def of(cls, key: str, model: LoadedModel, device: Device, *, compiled: bool) -> Facts:
        """The facts of a device; of a CPU its threads too, because sums are cut among them."""
        threads = "" if device.name != "cpu" else f", {torch.get_num_threads()} threads"
        return cls(
            model=key,
            device=f"{device.title}{threads}",
            dtype=str(model.dtype).removeprefix("torch."),
            torch=torch.__version__,
            diffusers=diffusers.__version__,
            compiled=compiled,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a job stands. Its pictures are sampled in parts: one, or two after memory ran out."""

    facts: Facts
    #: how its adapters are applied; the two ways differ in rounding
    mode: Mode
    #: last states of the parts that are done, whose pictures are still to be decoded
    finished: tuple[bytes, ...]
    #: the state of the part in work
    running: bytes
    #: the part in work is in its second pass
    second: bool
    #: seconds that its steps took so far
    seconds: float

    def pack(self) -> bytes:
        """The checkpoint as a file."""
        parts = {str(number): _array(data) for number, data in enumerate((*self.finished, self.running))}
        about = {
            "version": _VERSION, "facts": asdict(self.facts), "mode": self.mode, "second": self.second,
            "seconds": self.seconds,
        }  # fmt: skip
        return bytes(write_arrays(parts, metadata={_FIELD: json.dumps(about)}))

    @classmethod
    def unpack(cls, data: bytes) -> Checkpoint:
        """The checkpoint that `pack` wrote.

        Raises:
            Permanent: it is of another version.
        """
        about = json.loads(parse_header(data, len(data)).metadata.get(_FIELD, "{}"))
        if about.get("version") != _VERSION:
            raise Permanent("its checkpoint was written by another version of Farm")
        arrays = read_arrays(data)
        parts = [arrays[str(number)].tobytes() for number in range(len(arrays))]
        return cls(
            facts=Facts(**about["facts"]),
            mode=about["mode"],
            finished=tuple(parts[:-1]),
            running=parts[-1],
            second=about["second"],
            seconds=about["seconds"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A checkpoint come to life in a machine."""

    checkpoint: Checkpoint
    finished: tuple[SampleState, ...]
    running: SampleState
    #: seeds of the pictures that no part has begun
    left: tuple[int, ...]

    def in_words(self) -> str:
        """Where the job goes on, for its history."""
        state = self.running
        words = f"went on from step {state.step} of {state.steps}"
        if self.checkpoint.second:
            words += " of the second pass"
        if self.finished or self.left:
            before = sum(len(done.spec.seeds) for done in self.finished)
            last = before + len(state.spec.seeds)
            many = f"pictures {before + 1} to {last}" if last > before + 1 else f"picture {last}"
            words += f" of {many}"
        return words


def restore(
    data: bytes,
    facts: Facts,
    machine: Machine,
    spec: SampleSpec,
    plans: tuple[StrengthPlan, StrengthPlan | None],
    adapters: Mapping[str, Adapter],
) -> Restored:
    """Bring a checkpoint to life for the job that asks for `spec` with the plans of its two passes.

    Raises:
        Permanent: something differs from what the checkpoint was made with, so bits might.
    """
    if not isinstance(machine, StepMachine):
        raise Permanent(cannot_save(machine))
    try:
        checkpoint = Checkpoint.unpack(data)
    except (BadRequest, KeyError, TypeError) as error:
        raise Permanent(f"its checkpoint cannot be read: {error}") from error
    differs = [
        f"{name} is {now!r}, was {was!r}"
        for (name, was), now in zip(asdict(checkpoint.facts).items(), asdict(facts).values(), strict=True)
        if was != now
    ]
    if differs:
        raise Permanent(f"its checkpoint was made elsewhere: {'; '.join(differs)}")
    try:
        *finished, running = (
            SampleState.restore(part, machine, adapters)
            for part in (*checkpoint.finished, checkpoint.running)
        )
    except (BadRequest, KeyError, TypeError) as error:
        raise Permanent(f"its checkpoint does not fit: {error}") from error
    in_second = [plans[1] is not None] * len(finished) + [checkpoint.second]
    for state, second in zip((*finished, running), in_second, strict=True):
        _check_asked(state, spec, plans[1] if second else plans[0], machine, second=second)
    seeds = _begun((*finished, running))
    if seeds != spec.seeds[: len(seeds)]:
        raise Permanent("its checkpoint has other seeds")
    return Restored(
        checkpoint=checkpoint, finished=tuple(finished), running=running, left=spec.seeds[len(seeds) :]
    )


def cannot_save(machine: Machine) -> str:
    """Why the jobs of a machine cannot be saved."""
    model = getattr(machine, "model", None)
    return f"the pipeline of {model.family if model else 'this model'} cannot be saved"


def _check_asked(
    state: SampleState, spec: SampleSpec, plan: StrengthPlan | None, machine: StepMachine, *, second: bool
) -> None:
    asked = second_spec(spec, machine.model.info.limits["multiple_of"]) if second else spec
    if {**asdict(state.spec), "seeds": ()} != {**asdict(asked), "seeds": ()}:
        raise Permanent("its checkpoint is of another request")
    if state.plan != plan:
        raise Permanent("its checkpoint has other strengths")


def _begun(states: Sequence[SampleState]) -> tuple[int, ...]:
    return tuple(seed for state in states for seed in state.spec.seeds)


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)
