"""How much of each layer's change an extraction keeps: ranks, or a share of its energy (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from farm.errors import BadRequest
from farm.lora.formats.shapes import MAX_RANK


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Either `rank`, or `energy` with an optional `max_rank`. A layer never takes more ranks than its change has.

    Energy is the sum of squared singular values: keeping a share e of it leaves a relative error of √(1 - e) in the
    Frobenius norm, and no matrix of the same rank is nearer (Eckart and Young, 1936).
    """

    #: ranks of every layer
    rank: int | None = None
    #: share of each layer's energy, above 0 and at most 1: the fewest ranks that hold it are kept
    energy: float | None = None
    #: cap of the ranks that `energy` may take
    max_rank: int | None = None

    @property
    def most(self) -> int | None:
        """Ranks that no layer exceeds; None for any."""
        return self.rank if self.rank is not None else self.max_rank

    def check(self) -> Budget:
        """Itself. Raises BadRequest when the numbers make no sense, or not together."""
        if (self.rank is None) == (self.energy is None):
            found = "neither rank nor energy" if self.rank is None else "both rank and energy"
            raise _wrong(
                f"an extraction got {found}", "give one: a rank such as 16, or an energy such as 0.99"
            )
        for name, value in (("rank", self.rank), ("max_rank", self.max_rank)):
            if value is not None and not 1 <= value <= MAX_RANK:
                raise _wrong(f"{name} is {value}", f"give 1 to {MAX_RANK}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise _wrong(f"energy is {self.energy:g}", "give a share above 0 and at most 1, such as 0.99")
        if self.rank is not None and self.max_rank is not None:
            raise _wrong("max_rank stands beside a rank", "it is a cap for an energy: leave it out")
        return self


def _wrong(message: str, hint: str) -> BadRequest:
    return BadRequest(message, hint, code="bad_budget")
