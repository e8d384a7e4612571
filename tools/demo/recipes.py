"""What adapters there are: style, algorithm, naming and size of each."""

from dataclasses import dataclass

from tools.demo.factors import DoRA, Factors, LoHa, LoKr, LoRA

#: Ends of the names of the layers that are adapted. Convolutions of 3x3 only by LoCon.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "conv_out")
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make one adapter. `naming` is "kohya" or "peft"."""

    name: str
    title: str
    description: str
    algorithm: type[Factors]
    module: str
    args: dict[str, str]
    naming: str = "kohya"
    rank: int = 4
    alpha: float = 4
    layers: tuple[str, ...] = ATTENTION
    text: bool = False

    @property
    def trigger(self) -> str:
        return f"{self.name} style"


RECIPES = (
    Recipe(
        name="ink", title="Ink", description="Black ink lines on warm paper.",
        algorithm=LoRA, module="networks.lora", args={}, rank=8, alpha=4, text=True,
    ),
    Recipe(
        name="neon", title="Neon", description="Glowing outlines in the dark.",
        algorithm=LoRA, module="peft", args={}, naming="peft", rank=8, alpha=8,
    ),
    Recipe(
        name="gold", title="Gold leaf", description="Gold leaf on dark lacquer.",
        algorithm=DoRA, module="lycoris.kohya", args={"algo": "lora", "dora_wd": "True", "wd_on_output": "True"},
        rank=8, alpha=8,
    ),
    Recipe(
        name="blueprint", title="Blueprint", description="White lines on blue paper with a faint grid.",
        algorithm=LoKr, module="lycoris.kohya", args={"algo": "lokr", "factor": "8"}, rank=6, alpha=6,
    ),
    Recipe(
        name="mosaic", title="Mosaic", description="Small square tiles with dark joints.",
        algorithm=LoRA, module="lycoris.kohya", args={"algo": "locon", "conv_dim": "4", "conv_alpha": "4"},
        layers=("to_q", "to_v", "to_out.0", "ff.net.2", "proj_in", "proj_out", *CONVOLUTIONS),
    ),
    Recipe(
        name="candy", title="Candy", description="Pinks and creams with plum outlines.",
        algorithm=LoHa, module="lycoris.kohya", args={"algo": "loha"}, rank=2, alpha=2,
    ),
)  # fmt: skip
