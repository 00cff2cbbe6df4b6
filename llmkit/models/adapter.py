"""What a low-rank adapter is: its settings, the layers it goes on, its names in a checkpoint, its sum.

    LoRA   y = W x + scale B A x                                 A (rank, in), B (out, rank)   Hu et al. 2021
    DoRA   y = m * (W + scale B A) x / |W + scale B A| by row    m (out,)                      Liu et al. 2024

            in memory (peft's names)                      in a checkpoint
    W       layers.0.mlp.up_proj.base_layer.weight        not there: it is the base's
    A, B    layers.0.mlp.up_proj.lora_A.NAME.weight       layers.0.mlp.up_proj.lora_A.weight
    m       ...up_proj.lora_magnitude_vector.NAME.weight  ...up_proj.lora_magnitude_vector.weight

Nothing here needs peft, which takes seconds to import; models/lora.py does.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import model_validator

from llmkit.config import Field, Section
from llmkit.errors import ConfigError

PARTS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
"""The linear layers of our text nets by what they are part of; cross-attention is attention."""

_PART = re.compile(r"\.(lora_A|lora_B|lora_magnitude_vector)\.(?:[^.]+\.)?weight$")


class Adapter(Section):
    """A low-rank adapter on a frozen base: what learns instead of the net's own weights."""

    name: str = Field(
        "default",
        pattern=r"^[A-Za-z][\w-]*$",
        description="what it is called where several stand side by side",
    )
    kind: Literal["lora", "dora"] = Field(
        "lora", description="dora: magnitude and direction learn apart (Liu et al. 2024)"
    )
    rank: int = Field(16, gt=0, description="inner width of the two factors")
    alpha: float = Field(32.0, gt=0, description="the factors' product counts alpha / rank")
    rslora: bool = Field(False, description="alpha / sqrt(rank) instead (Kalajdzievski 2023)")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability, on what the adapter reads")
    targets: Literal["attention", "mlp", "all"] = Field(
        "all", description="linear layers it goes on: attention, mlp, or all of both"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_quantised_base(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("kind") == "qlora":
            raise ValueError("kind: qlora is not built: a 4-bit base needs bitsandbytes on a GPU; use lora")
        return given

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def modules(self) -> list[str]:
        """The names of the linear layers that it goes on."""
        return [name for part, names in PARTS.items() if self.targets in (part, "all") for name in names]


def check(settings: Adapter, model: Section) -> None:
    """ConfigError for a model whose layers cannot take this adapter."""
    if getattr(model, "mup_width", None):
        raise ConfigError(
            "adapter: muP scales learning rates by the shape of a net's own matrices, and says nothing of an "
            "adapter's; start from a model without mup_width, or leave the adapter out"
        )
    if getattr(model, "experts", 0) and settings.targets != "attention":
        raise ConfigError(
            f"adapter.targets: {settings.targets} would be on experts, no linear layers; use attention"
        )


# ---- names -------------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    """A parameter's name in a checkpoint, from its name in a net with an adapter; others stay."""
    return _PART.sub(r".\1.weight", name.replace(".base_layer.", "."))


def is_part(name: str) -> bool:
    """Whether a parameter is an adapter's own."""
    return _PART.search(name) is not None


def owner(name: str) -> str:
    """The weight that a part of an adapter belongs to, both by their names in a checkpoint."""
    return _PART.sub(".weight", name)


def is_magnitude(name: str) -> bool:
    """Whether a parameter is DoRA's vector of row lengths."""
    return ".lora_magnitude_vector." in name


def kept(net: Any, pieces: Iterable[tuple]) -> Iterator[tuple]:
    """Of the pieces (name, ...) of `net` those that its checkpoints hold, under the names they have there."""
    borrowed = getattr(net, "borrowed", ())
    return ((canonical(name), *rest) for name, *rest in pieces if name not in borrowed)


# ---- the sum -----------------------------------------------------------------------------------------------


def merged(weight: Any, a: Any, b: Any, magnitude: Any, scale: float) -> Any:
    """The weight (out, in) that computes alone what base and adapter compute together, in `weight`'s dtype.

    The sum is made in double precision. `magnitude` (out,) is DoRA's, None for LoRA.
    """
    whole = weight.double() + scale * (b.double() @ a.double())
    if magnitude is not None:
        whole = whole * (magnitude.double() / whole.norm(dim=1))[:, None]
    return whole.to(weight.dtype)
