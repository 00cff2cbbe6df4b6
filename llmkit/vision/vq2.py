"""VQ-VAE-2 (Razavi et al. 2019, algorithm 1): a small grid of codes for the whole, a larger one for detail.

x ─► b (Y', X') ─► t (Y'/2, X'/2) ─► top codes ─┬─► doubled ─┐
     └───────────────── beside ◄── decoded ◄────┘            ├─► decoder ─► the likelihood's numbers
                           └─► bottom codes ─────────────────┘
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.vision import likelihood
from llmkit.vision.layers import Conv2d, ConvTranspose2d, fill
from llmkit.vision.vq import Averaged, Levels, Residual, Vq, book, coded, vectors


class Settings(Vq.Settings):
    """As of one level; the top level is half the size of the bottom one."""

    name: Literal["vq2"] = "vq2"
    quick_values: ClassVar[dict[str, Any]] = {"width": 8, "codes": 16, "code_dim": 4, "layers": 1}


@register("model", "vq2")
class Vq2(nn.Module):
    """Two codebooks, each for one level."""

    Settings = Settings

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = s = settings
        if s.size % 2 ** (s.layers + 1):
            raise ConfigError(
                f"model.layers: {s.size} cannot be halved {s.layers + 1} times; set data.size or layers"
            )
        maps = [s.channels, *[s.width] * s.layers]
        self.down = nn.ModuleList(Conv2d(a, b, 4, 2, 1) for a, b in zip(maps, maps[1:]))
        self.inner = nn.ModuleList(Residual(s.width) for _ in range(s.blocks))
        self.to_top = Conv2d(s.width, s.width, 4, 2, 1)
        self.inner_top = nn.ModuleList(Residual(s.width) for _ in range(s.blocks))
        self.to_code_top = Conv2d(s.width, s.code_dim, 1)
        self.codebook_top = book(s)
        self.from_top = ConvTranspose2d(s.code_dim, s.width, 4, 2, 1)
        self.to_code = Conv2d(2 * s.width, s.code_dim, 1)
        self.codebook = book(s)
        self.doubled = ConvTranspose2d(s.code_dim, s.code_dim, 4, 2, 1)
        self.from_code = Conv2d(2 * s.code_dim, s.width, 3, 1, 1)
        self.outer = nn.ModuleList(Residual(s.width) for _ in range(s.blocks))
        maps = [*[s.width] * s.layers, likelihood.NUMBERS[s.likelihood] * s.channels]
        self.up = nn.ModuleList(ConvTranspose2d(a, b, 4, 2, 1) for a, b in zip(maps, maps[1:]))

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter; codes start on the scale of what the encoder puts out."""
        rectified = p.ndim == 4 and not name.startswith(("to_code", "up", "from_top", "doubled"))
        fill(name, p, generator, (2 / p[0].numel()) ** 0.5 if rectified else None)

    @property
    def books(self) -> dict[str, nn.Parameter | Averaged]:
        """The codebook of each level."""
        return {"": self.codebook, "top": self.codebook_top}

    def forward(self, x: Tensor) -> tuple[Tensor, Levels]:
        """x (B, C, Y, X) in [0, 1] -> the likelihood's numbers (B, K, C, Y, X), and what each level coded."""
        x = 2 * x - 1
        for conv in self.down:
            x = F.relu(conv(x))
        for block in self.inner:
            x = block(x)
        top = F.relu(self.to_top(x))
        for block in self.inner_top:
            top = block(top)
        of_top, passed_top = self._coded(self.to_code_top(top), self.codebook_top)
        told = F.relu(self.from_top(passed_top))
        of_bottom, passed = self._coded(self.to_code(torch.cat([x, told], 1)), self.codebook)
        x = self.from_code(torch.cat([self.doubled(passed_top), passed], 1))
        for block in self.outer:
            x = block(x)
        for conv in self.up:
            x = conv(F.relu(x))
        return x.unflatten(1, (-1, self.settings.channels)), {"": of_bottom, "top": of_top}

    def _coded(self, z: Tensor, codebook: nn.Parameter | Averaged):
        """z (B, D, Y', X') -> what was coded, and the codes (B, D, Y', X') with z's gradient."""
        level, passed = coded(z.permute(0, 2, 3, 1).float(), vectors(codebook))
        return level, passed.permute(0, 3, 1, 2)
