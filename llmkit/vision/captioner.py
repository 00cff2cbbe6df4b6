"""A captioner: an encoder-decoder that reads an image, patch by patch, and writes what it shows.

    image (C, Y, X) ─► N patches of P x P ─► z0 = [x1 E; ...; xN E] + E_pos ─► encoder ─► memory ─┐
    tokens  <s> red ───────────────────────────────────────────────────────► decoder ◄───────────┘ ─► heart

The embedding is that of the vision transformer (Dosovitskiy et al. 2021, equation 1, without its class
token: a decoder looks at the patches themselves, as in PaLI, Chen et al. 2022). The rest is `encdec`'s.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from llmkit.config import Field
from llmkit.errors import ConfigError
from llmkit.models import encdec
from llmkit.registry import register


class Settings(encdec.Settings):
    """An encoder-decoder's settings, and the images'. `context` counts the caption's tokens."""

    name: Literal["captioner"] = "captioner"
    patch: int = Field(4, gt=0, description="height and width P of a patch; divides the image's")
    start: Literal["pad", "bos", "eos"] | None = Field(
        "bos", description="piece that the decoder reads first"
    )
    context: int = Field(64, description="longest caption in tokens", gt=0)
    size: int | None = Field(None, gt=0, description="height and width; default: the data's")
    channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
    fit: Literal["crop", "pad"] | None = Field(
        None, description="how other images are brought to this size; default: as the data's were"
    )
    quick_values: ClassVar[dict] = {**encdec.Settings.quick_values, "context": 64}


@register("model", "captioner")
class Captioner(encdec.EncDec):
    """`source` is uint8 images (B, C, Y, X) everywhere; all else is as in `EncDec`."""

    Settings: Any = Settings
    predicts = "caption"

    def __init__(self, settings: Settings):
        super().__init__(settings)
        s = settings
        if s.size % s.patch:
            raise ConfigError(
                f"model.patch: {s.patch} does not divide the images' size of {s.size}; take one that does"
            )
        self.patches = (s.size // s.patch) ** 2
        if s.style == "bart" and self.patches > s.context:
            raise ConfigError(
                f"model.context: {s.context} is less than the {self.patches} patches, which style=bart has "
                "places for; raise it, or model.patch"
            )
        self.embed_patches = nn.Linear(s.channels * s.patch**2, s.width)
        self.embed_places = nn.Embedding(self.patches, s.width)

    def embed_source(self, source: Tensor) -> Tensor:
        """Images (B, C, Y, X) uint8 -> (B, N, D), row by row from the top left."""
        P, weight = self.settings.patch, self.embed_patches.weight
        x = source.to(weight.dtype) / 127.5 - 1
        x = x.unfold(2, P, P).unfold(3, P, P)  # (B, C, Y/P, X/P, P, P)
        return (
            self.embed_patches(x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
            + self.embed_places.weight
        )

    def one_document(self, source: Tensor) -> Tensor:
        """(B, N): an image is one document of patches."""
        return torch.ones(len(source), self.patches, dtype=torch.int32, device=source.device)
