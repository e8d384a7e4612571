"""A running average of a model's weights, which draws better than the weights of any one step."""

import torch


@torch.no_grad()
def follow(average: torch.nn.Module, live: torch.nn.Module, decay: float) -> None:
    """Move `average` a step towards `live`."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in live.parameters()], 1 - decay)
