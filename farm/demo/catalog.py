"""What the built-in model and its adapters are, without loading them; free of torch."""

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent

MODEL_NAME = "demo"
#: A diffusers folder, as `StableDiffusionPipeline.from_pretrained` reads it.
MODEL_DIR = _HERE / "model"
#: Width and height in pixels; the model knows no other.
SIZE = 64
STEPS = 20
GUIDANCE = 4.5
SAMPLER = "ddim"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoAdapter:
    """A style adapter that comes with the farm."""

    name: str
    description: str
    #: Words that may stand in a prompt; the style shows without them too.
    trigger_words: tuple[str, ...]
    default_strength: float = 1.0

    @property
    def path(self) -> Path:
        return _HERE / "adapters" / f"{self.name}.safetensors"

    @property
    def preview(self) -> Path:
        """A picture of the same house in every style."""
        return _HERE / "adapters" / f"{self.name}.webp"


ADAPTERS: tuple[DemoAdapter, ...] = (
    DemoAdapter(name="ink", description="Black ink lines on warm paper.", trigger_words=("ink style",)),
    DemoAdapter(name="neon", description="Glowing outlines in the dark.", trigger_words=("neon style",)),
    DemoAdapter(name="gold", description="Gold leaf on dark lacquer.", trigger_words=("gold style",)),
    DemoAdapter(
        name="blueprint",
        description="White lines on blue paper with a faint grid.",
        trigger_words=("blueprint style",),
    ),
    DemoAdapter(
        name="mosaic", description="Small square tiles with dark joints.", trigger_words=("mosaic style",)
    ),
    DemoAdapter(
        name="candy", description="Pinks and creams with plum outlines.", trigger_words=("candy style",)
    ),
)

#: Four scenes, each plain and with adapters; together they use every mechanism of the tag language once.
EXAMPLE_PROMPTS: tuple[str, ...] = (
    "a house with a red roof and a tree at sunset",
    "a house with a red roof and a tree at sunset <lora:ink:0.8>",
    "a house with a red roof and a tree at sunset <lora:neon:1>",
    "a house with a red roof and a tree at sunset <lora:gold:1>",
    "a boat on the sea",
    "a boat on the sea <lora:blueprint>",
    "a boat on the sea <lora:mosaic:1>",
    "a boat on the sea <lora:candy:1>",
    "a cat face on a teal background",
    "a cat face on a teal background <lora:ink:te=0.3:unet=1>",
    "a cat face on a teal background <lora:neon:in=0.2:mid=1:out=1>",
    "a cat face on a teal background <lora:gold:0@1,1@10>",
    "a yellow flower on a blue background",
    "a yellow flower on a blue background <lora:ink:0.2@1,0.9@8>",
    "a yellow flower on a blue background <lora:neon:0~0.0,1~1.0>",
    "a yellow flower on a blue background <lora:ink:0.5> <lora:gold:0.6>",
)
