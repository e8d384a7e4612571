"""Names of the samplers: keys that are stored, labels that people read, spellings that people bring."""

from __future__ import annotations

from difflib import get_close_matches

from farm.errors import BadRequest, Problem

#: label of each sampler by its key
LABELS: dict[str, str] = {
    "ddim": "DDIM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "heun": "Heun",
    "unipc": "UniPC",
    "lcm": "LCM",
    "flow_euler": "Flow Euler",
}
SAMPLERS: tuple[str, ...] = tuple(LABELS)
#: families that predict noise; every other one predicts the flow from noise to picture
_NOISE_FAMILIES = ("sd1", "sd2", "sdxl", "demo", "unknown")
_OF_NOISE = tuple(key for key in SAMPLERS if key != "flow_euler")
_OF_FLOW = ("flow_euler", "unipc")
#: families that are meant to be sampled by yet another one
_MORE = {"sana": ("dpmpp_2m",)}
#: other names, after `_plain`
_OTHER = {
    "eulerancestral": "euler_a",
    "keuler": "euler",
    "keulera": "euler_a",
    "kheun": "heun",
    "dpmsolver++": "dpmpp_2m",
    "dpm++2mkarras": "dpmpp_2m_karras",
    "dpmsolvermultistep": "dpmpp_2m",
    "unipcmultistep": "unipc",
    "floweulerdiscrete": "flow_euler",
    "flowmatcheuler": "flow_euler",
    "flowmatch": "flow_euler",
}
#: sampler of a diffusers scheduler class, for the default of a model
OF_SCHEDULER = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "HeunDiscreteScheduler": "heun",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "FlowMatchEulerDiscreteScheduler": "flow_euler",
}


def normalise_sampler(name: str) -> str:
    """Return the key of the sampler that a person calls `name`.

    Raises:
        BadRequest: no sampler has this name; the hint names near ones.

    >>> normalise_sampler("DPM++ 2M Karras"), normalise_sampler("euler-ancestral"), normalise_sampler("UniPC")
    ('dpmpp_2m_karras', 'euler_a', 'unipc')
    """
    found = _SPELLINGS.get(_plain(name))
    if found is not None:
        return found
    near = get_close_matches(_plain(name), _SPELLINGS, n=2, cutoff=0.6)
    words = dict.fromkeys(_SPELLINGS[spelling] for spelling in near)
    hint = f"did you mean {' or '.join(words)}?" if words else f"one of {', '.join(SAMPLERS)}"
    raise BadRequest.of(
        (Problem(code="unknown_sampler", message=f"unknown sampler {name!r}", hint=hint, pointer="/sampler"),)
    )


def fits(family: str) -> tuple[str, ...]:
    """Return the keys of the samplers that can sample a model of this family.

    >>> fits("flux1"), "euler_a" in fits("sdxl")
    (('flow_euler', 'unipc'), True)
    """
    return _OF_NOISE if family in _NOISE_FAMILIES else (*_MORE.get(family, ()), *_OF_FLOW)


def check_fits(sampler: str, family: str) -> None:
    """Raise BadRequest, with the samplers that do fit, when `sampler` cannot sample a model of this family."""
    keys = fits(family)
    if sampler not in keys:
        word = "noise" if family in _NOISE_FAMILIES else "flow"
        labels = ", ".join(LABELS[key] for key in keys)
        problem = Problem(
            code="bad_sampler",
            message=f"{sampler_label(sampler)} does not fit a {family} model, which predicts {word}",
            hint=f"one of {labels}",
            pointer="/sampler",
        )
        raise BadRequest.of((problem,))


def sampler_label(key: str) -> str:
    """Return the name that people read.

    >>> sampler_label("dpmpp_2m_karras")
    'DPM++ 2M Karras'
    """
    return LABELS[key]


def _plain(name: str) -> str:
    """Return `name` without case, blanks and separators, as people differ in these."""
    kept = "".join(char for char in name.casefold() if char.isalnum() or char == "+")
    return kept.replace("pp", "++").removesuffix("scheduler").removesuffix("discrete")


_SPELLINGS = {_plain(word): key for key, label in LABELS.items() for word in (key, label)} | _OTHER
