"""How a model can be guided, from its configs alone: which scales it reads, and whether a negative prompt acts. Without torch."""

from __future__ import annotations

from collections.abc import Mapping

from farm.models.layouts.blocks import Config

#: families whose negative prompt acts by a scale of its own, because `guidance_scale` is a number that the model is told
_TRUE_SCALE = ("flux1", "hunyuanvideo")
#: encoders of models that were made without negative prompts
_WITHOUT_NEGATIVE = ("Mistral3ForConditionalGeneration",)


def further_scales(family: str, configs: Mapping[str, Config]) -> tuple[str, ...]:
    """Return the fields of a job beside `guidance_scale` that such a model reads.

    >>> further_scales("wan", {"transformer": {}, "transformer_2": {}}), further_scales("sd1", {"unet": {}})
    (('guidance_scale_2',), ())
    """
    if "transformer_2" in configs:
        return ("guidance_scale_2",)
    told = family == "qwenimage" and bool(configs.get("transformer", {}).get("guidance_embeds"))
    return ("true_cfg_scale",) if told or family in _TRUE_SCALE else ()


def why_no_negative(
    family: str, configs: Mapping[str, Config], guidance_scale: float, true_cfg_scale: float | None
) -> str:
    """Return what would make a negative prompt act; "" when it does.

    >>> why_no_negative("sd1", {"unet": {}}, 1.0, None)
    'give a guidance_scale above 1'
    """
    encoder = configs.get("text_encoder", {}).get("_class_name")
    if encoder in _WITHOUT_NEGATIVE or configs.get("unet", {}).get("time_cond_proj_dim") is not None:
        return "it was made without one"
    if "true_cfg_scale" in further_scales(family, configs):
        name, scale, least = "true_cfg_scale", true_cfg_scale or 1.0, 1
    else:
        # Z-Image's scale of g is what others call 1 + g
        name, scale, least = "guidance_scale", guidance_scale, 0 if family == "zimage" else 1
    return "" if scale > least else f"give a {name} above {least}"
