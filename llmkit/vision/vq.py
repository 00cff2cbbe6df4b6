"""A vector-quantised autoencoder (van den Oord et al. 2017): an image as a small grid of codes.

    x ─► encoder ─► z (B, D, Y', X') ─► nearest of K codes ─► decoder ─► the likelihood's numbers

The gradient of the decoder passes the choice of the code straight through to the encoder. Codes learn by
gradient, or are moving averages of the vectors that choose them (`Averaged`), of which an optimiser knows
nothing.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.vision import likelihood, noise
from llmkit.vision.layers import Conv2d, ConvTranspose2d, fill
from llmkit.vision.likelihood import Likelihood

Levels = dict[str, tuple[Tensor, Tensor, Tensor]]
"""By level: what was coded and by which vectors, each (B, Y', X', D), and their numbers (B, Y', X')."""


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """z (B, Y', X', D), codebook (K, D) -> (B, Y', X') int64, which code is nearest."""
    flat = z.detach().flatten(0, 2)
    with torch.autocast(z.device.type, enabled=False):  # in bf16 another code is often nearest
        distance = torch.addmm(codebook.square().sum(1), flat, codebook.T, alpha=-2)
    return distance.argmin(1).view(z.shape[:3])


def coded(z: Tensor, codebook: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """z (B, Y', X', D) -> (z, codes, numbers), and the codes with z's gradient, straight through."""
    chosen = nearest(z, codebook)
    code = F.embedding(chosen, codebook)
    return (z, code, chosen), z + (code - z).detach()


class Averaged(nn.Module):
    """A codebook of moving averages (van den Oord et al. 2017, eq. 6 to 8), with restarts of dead codes.

    `vectors` (K, D) are `sums` (K, D) over `uses` (K,): averages of what a step's z that choose a code sum to
    and of how many they are. Buffers: they are saved, and every rank holds the same.
    """

    def __init__(self, codes: int, code_dim: int):
        super().__init__()
        self.register_buffer("vectors", torch.empty(codes, code_dim))
        self.register_buffer("sums", torch.empty(codes, code_dim))
        self.register_buffer("uses", torch.empty(codes))
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Codes on the scale of what an encoder puts out, each as if it were used once."""
        if not self.uses.is_meta:
            codes, dim = self.vectors.shape
            drawn = noise.normal(noise.keys(0, codes), "codebook", (dim,)) / dim**0.5
            self.vectors.copy_(drawn)
            self.sums.copy_(drawn)
            nn.init.ones_(self.uses)

    def tally(
        self, z: Tensor, chosen: Tensor, key: Tensor, valid: Tensor, places: Tensor
    ) -> dict[str, Tensor]:
        """What a step has to sum over its images before `absorb`: of z (B, Y', X', D), coded as `chosen`.

        `places` is how many vectors z the step has in all, so that each code gets a Poisson(1) number of
        them offered: which ones is a function of the images' keys.
        """
        codes = len(self.uses)
        lot = (noise.bits(key, "offered", z.shape[1:3]) >> 1) & ((1 << 62) - 1)
        to = lot % places.long().clamp(min=codes)
        counted = valid[:, None, None].expand_as(chosen)
        z = z.detach()
        return {
            "uses": into(codes, chosen, counted, z.new_ones(z.shape[:3])),
            "sums": into(codes, chosen, counted, z),
            "offers": into(codes, to, counted & (to < codes), z.new_ones(z.shape[:3])),
            "offered": into(codes, to, counted & (to < codes), z),
        }

    @torch.no_grad()
    def absorb(self, seen: dict[str, Tensor], decay: float, restart: float) -> None:
        """One step of the averages, given the sums of `tally` over all images of the step.

        A code with fewer than `restart` uses a step on average becomes the vector that it was offered, if
        that was exactly one: the choice of a random z that sums alone can make. ConfigError in bf16.
        """
        if self.uses.dtype != torch.float32:
            raise ConfigError("parallel.weights: bf16 would round averaged codebooks away; set it to fp32")
        self.uses.lerp_(seen["uses"].to(self.uses), 1 - decay)
        self.sums.lerp_(seen["sums"].to(self.sums), 1 - decay)
        reborn = (self.uses < restart) & (seen["offers"].to(self.uses) == 1)
        self.uses.masked_fill_(reborn, restart)
        self.sums.copy_(torch.where(reborn[:, None], restart * seen["offered"].to(self.sums), self.sums))
        known = self.uses[:, None] > 1e-6  # a code that is never used stays where it is
        self.vectors.copy_(torch.where(known, self.sums / self.uses[:, None].clamp(min=1e-6), self.vectors))


def into(codes: int, where: Tensor, counted: Tensor, values: Tensor) -> Tensor:
    """Sum `values` (B, Y', X', ...) into the rows of a (codes, ...) table that `where` says, if `counted`."""
    rows = torch.where(counted, where, codes).flatten()
    table = values.new_zeros(codes + 1, *values.shape[3:])
    return table.index_add_(0, rows, values.flatten(0, 2))[:codes]


def book(s: Any) -> nn.Parameter | Averaged:
    """An empty codebook of the kind that the settings ask for."""
    if s.codebooks == "average":
        return Averaged(s.codes, s.code_dim)
    return nn.Parameter(torch.empty(s.codes, s.code_dim))


def vectors(codebook: nn.Parameter | Averaged) -> Tensor:
    """The codes (K, D) of either kind."""
    return codebook.vectors if isinstance(codebook, Averaged) else codebook


@register("model", "vq")
class Vq(nn.Module):
    """Encoder, codebook, decoder."""

    class Settings(Section):
        name: Literal["vq"] = "vq"
        codes: int = Field(128, gt=1, description="entries of the codebook")
        code_dim: int = Field(16, gt=0, description="dimensions of a code")
        codebooks: Literal["gradient", "average"] = Field(
            "gradient", description="how codes learn: by gradient, or as averages of what chooses them"
        )
        width: int = Field(64, gt=0, description="channels")
        layers: int = Field(2, gt=0, description="stages, each halves the size")
        blocks: int = Field(2, ge=0, description="residual blocks at the smallest size, on either side")
        likelihood: Likelihood = Field("gaussian", description="of a value, given the decoder's output")
        sigma: float = Field(1.0, gt=0, description="standard deviation of the gaussian, on [0, 1]")
        size: int | None = Field(None, gt=0, description="height and width; default: the data's")
        channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
        only_with = {"sigma": ("likelihood", "gaussian")}
        quick_values: ClassVar[dict[str, Any]] = {"width": 8, "codes": 16, "code_dim": 4}

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = s = settings
        if s.size % 2**s.layers:
            raise ConfigError(
                f"model.layers: {s.size} cannot be halved {s.layers} times; set data.size or layers"
            )
        maps = [s.channels, *[s.width] * s.layers]
        self.down = nn.ModuleList(Conv2d(a, b, 4, 2, 1) for a, b in zip(maps, maps[1:]))
        self.inner = nn.ModuleList(Residual(s.width) for _ in range(s.blocks))
        self.to_code = Conv2d(s.width, s.code_dim, 1)
        self.codebook = book(s)
        self.from_code = Conv2d(s.code_dim, s.width, 3, 1, 1)
        self.outer = nn.ModuleList(Residual(s.width) for _ in range(s.blocks))
        numbers = likelihood.NUMBERS[s.likelihood] * s.channels
        maps = [*[s.width] * s.layers, numbers]
        self.up = nn.ModuleList(ConvTranspose2d(a, b, 4, 2, 1) for a, b in zip(maps, maps[1:]))

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter; codes start on the scale of what the encoder puts out."""
        rectified = p.ndim == 4 and not name.startswith(("to_code", "up"))
        fill(name, p, generator, (2 / p[0].numel()) ** 0.5 if rectified else None)

    @property
    def books(self) -> dict[str, nn.Parameter | Averaged]:
        """The codebook of each level."""
        return {"": self.codebook}

    def encode(self, x: Tensor) -> Tensor:
        """x (B, C, Y, X) in [0, 1] -> (B, Y', X', D) fp32, not yet quantised."""
        x = 2 * x - 1
        for conv in self.down:
            x = F.relu(conv(x))
        for block in self.inner:
            x = block(x)
        return self.to_code(x).permute(0, 2, 3, 1).float()

    def forward(self, x: Tensor) -> tuple[Tensor, Levels]:
        """x (B, C, Y, X) in [0, 1] -> the likelihood's numbers (B, K, C, Y, X), and what was coded."""
        level, passed = coded(self.encode(x), vectors(self.codebook))
        return self.decode(passed), {"": level}

    def decode(self, code: Tensor) -> Tensor:
        """Code vectors (B, Y', X', D) -> (B, K, C, Y, X), the likelihood's numbers."""
        x = self.from_code(code.permute(0, 3, 1, 2))
        for block in self.outer:
            x = block(x)
        for conv in self.up:
            x = conv(F.relu(x))
        return x.unflatten(1, (-1, self.settings.channels))


class Residual(nn.Module):
    """ReLU, 3 x 3, ReLU, 1 x 1."""

    def __init__(self, width: int):
        super().__init__()
        self.conv, self.mix = Conv2d(width, width, 3, 1, 1), Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.relu(self.conv(F.relu(x))))
