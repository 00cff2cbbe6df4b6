"""A small convolutional classifier: does a conditional model hit the class; features to compare images by."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.vision.layers import fill, groups


@register("model", "recogniser")
class Recogniser(nn.Module):
    """Convolutions in stages, a mean over positions, one linear layer."""

    class Settings(Section):
        name: Literal["recogniser"] = "recogniser"
        width: int = Field(
            32, gt=0, description="channels of the first stage; each next one has twice as many"
        )
        layers: int = Field(3, gt=0, description="stages, each halves the size")
        size: int | None = Field(None, gt=0, description="height and width; default: the data's")
        channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
        classes: int | None = Field(None, ge=0, description="number of classes; default: the data's")
        quick_values: ClassVar[dict[str, Any]] = {"width": 8}

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = s = settings
        if not s.classes:
            raise ConfigError("model: the images have no classes to recognise; give labelled ones")
        maps = [s.channels, *(s.width * 2**i for i in range(s.layers))]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in zip(maps, maps[1:]))
        self.norms = nn.ModuleList(nn.GroupNorm(groups(c), c) for c in maps[1:])
        self.last = nn.Linear(maps[-1], s.classes)

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter; convolutions are followed by a rectifier."""
        fill(name, p, generator, (2 / p[0].numel()) ** 0.5 if p.ndim == 4 else None)

    def features(self, x: Tensor) -> Tensor:
        """x (B, C, Y, X) in [0, 1] -> (B, D), what the last layer sees."""
        x = 2 * x - 1
        for conv, norm in zip(self.convs, self.norms):
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2, ceil_mode=True)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, Y, X) in [0, 1] -> (B, classes) logits."""
        return self.last(self.features(x))
