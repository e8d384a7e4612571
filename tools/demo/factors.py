"""The adapters' algorithms as parametrisations: each replaces a frozen weight by one that a few factors change.

All begin as no change at all. `strength` (0 to 1) is a plain number that the trainer sets; `tensors()` gives the factors
under the suffixes that kohya's and LyCORIS' files use.
"""

import torch
from torch import Tensor, nn


class Factors(nn.Module):
    """Base: rank, alpha and strength of a change to one weight."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.shape = weight.shape
        self.rows, self.columns = weight.shape[0], weight[0].numel()
        self.rank, self.alpha, self.strength = rank, alpha, 1.0

    def delta(self) -> Tensor:
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.strength == 0 else weight + self.strength * self.delta().view(self.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"alpha": torch.tensor(float(self.alpha))}


class LoRA(Factors):
    """up @ down; for a convolution `down` holds the kernel (LoCon)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__(weight, rank, alpha)
        self.down = nn.Parameter(torch.randn(rank, self.columns) / self.columns**0.5)
        self.up = nn.Parameter(torch.zeros(self.rows, rank))

    def delta(self) -> Tensor:
        return self.alpha / self.rank * self.up @ self.down

    def tensors(self) -> dict[str, Tensor]:
        down, up = self.down.view(self.rank, *self.shape[1:]), self.up
        if len(self.shape) == 4:
            up = up[:, :, None, None]
        return {"lora_down.weight": down, "lora_up.weight": up, **super().tensors()}


class DoRA(LoRA):
    """LoRA for the direction of every output row, and its length learnt apart."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__(weight, rank, alpha)
        self.length = nn.Parameter(weight.detach().flatten(1).norm(dim=1, keepdim=True))

    def forward(self, weight: Tensor) -> Tensor:
        direction = weight.flatten(1) + self.delta()
        turned = (direction * self.length / direction.norm(dim=1, keepdim=True)).view(self.shape)
        return weight + self.strength * (turned - weight)

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "dora_scale": self.length.view(-1, *[1] * (len(self.shape) - 1))}


class LoHa(Factors):
    """The elementwise product of two low-rank products."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__(weight, rank, alpha)
        self.w1_a = nn.Parameter(torch.randn(self.rows, rank) * 0.3)
        self.w1_b = nn.Parameter(torch.randn(rank, self.columns) * 0.3)
        self.w2_a = nn.Parameter(torch.zeros(self.rows, rank))
        self.w2_b = nn.Parameter(torch.randn(rank, self.columns) * 0.3)

    def delta(self) -> Tensor:
        return self.alpha / self.rank * (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)

    def tensors(self) -> dict[str, Tensor]:
        names = ("w1_a", "w1_b", "w2_a", "w2_b")
        return {**{f"hada_{name}": getattr(self, name) for name in names}, **super().tensors()}


class LoKr(Factors):
    """The Kronecker product of a small full matrix and a low-rank one."""

    SIDE = 8

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__(weight, rank, alpha)
        if self.rows % self.SIDE or self.shape[1] % self.SIDE:
            raise ValueError(f"{tuple(self.shape)} does not divide by {self.SIDE}")
        self.w1 = nn.Parameter(torch.randn(self.SIDE, self.SIDE) * 0.3)
        self.w2_a = nn.Parameter(torch.zeros(self.rows // self.SIDE, rank))
        self.w2_b = nn.Parameter(
            torch.randn(rank, self.columns // self.SIDE) / (self.columns // self.SIDE) ** 0.5
        )

    def delta(self) -> Tensor:
        return self.alpha / self.rank * torch.kron(self.w1, self.w2_a @ self.w2_b)

    def tensors(self) -> dict[str, Tensor]:
        return {"lokr_w1": self.w1, "lokr_w2_a": self.w2_a, "lokr_w2_b": self.w2_b, **super().tensors()}
