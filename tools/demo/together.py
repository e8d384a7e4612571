"""Trains one model in several processes of one thread each, which average their gradients after every step.

On a machine that others use too this is quicker than one process of several threads: those wait for each other at
every operation, these once a step.
"""

import os
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import distributed, nn

PORT = "29517"


def run(workers: int, function: Callable[..., None], *arguments: object) -> None:
    """Call `function(rank, *arguments)` in so many new processes, and wait for all of them."""
    torch.multiprocessing.spawn(_begin, (workers, function, arguments), nprocs=workers)


def _begin(rank: int, workers: int, function: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=PORT)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=workers, timeout=timedelta(hours=1))
    function(rank, *arguments)
    distributed.destroy_process_group()


def agree(model: nn.Module, done: bool) -> bool:
    """Average the gradients of `model` over the processes; True once any of them is `done`."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients] + [torch.tensor([float(done)])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    parts = flat[:-1].split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return flat[-1].item() > 0
