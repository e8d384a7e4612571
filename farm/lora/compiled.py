"""Compiled models and adapters: values of weights and strengths change, code does not. What would bake them in is refused."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from farm.errors import BadRequest


def compile_in_place(module: nn.Module) -> None:
    """Let calls of `module` go through torch.compile; it stays the same object, its state dict has the same keys.

    Raises BadRequest when inductor is set to freeze weights.
    """
    module.compile()
    refuse_freezing([module])


def is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def refuse_freezing(modules: Iterable[nn.Module]) -> None:
    """Raise BadRequest when one of them is compiled while inductor's `freezing` is on: it would not see any adapter."""
    if not any(map(is_compiled, modules)):
        return
    from torch._inductor import config

    if config.freezing:
        raise BadRequest(
            "torch._inductor.config.freezing bakes weights into compiled code, where adapters cannot reach them",
            "switch it off (TORCHINDUCTOR_FREEZING=0), or do not compile",
            code="bad_setting",
        )
