"""Variational autoencoders (Kingma & Welling 2014), with fully connected or convolutional halves.

    x ─► encoder ─► mean, log variance ─► z ─► decoder ─► K numbers for each value of the image
         label ┘ (conditional)          label ┘

Letters: B images, L latent dimensions, K numbers of the likelihood (likelihood.py), C channels, Y X size.
"""

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.registry import register
from llmkit.vision import likelihood, noise
from llmkit.vision.layers import fill, fill_uniform, groups, kinds, one_hot
from llmkit.vision.likelihood import Likelihood


@register("model", "vae")
class Vae(nn.Module):
    """Encoder and decoder of one image; both are told the class if `conditional`."""

    spherical = True

    class Settings(Section):
        name: Literal["vae"] = "vae"
        net: Literal["mlp", "conv"] = Field("mlp", description="fully connected, or convolutions in stages")
        latent_dim: int = Field(16, gt=0, description="dimensions of the latent vector")
        width: int = Field(512, gt=0, description="mlp: hidden units; conv: channels of the first stage")
        layers: int = Field(1, gt=0, description="mlp: hidden layers; conv: stages, each halves the size")
        likelihood: Likelihood = Field("bernoulli", description="of a value, given the decoder's output")
        sigma: float = Field(1.0, gt=0, description="standard deviation of the gaussian, on [0, 1]")
        conditional: bool = Field(False, description="tell both halves the class, or the caption's words")
        size: int | None = Field(None, gt=0, description="height and width; default: the data's")
        channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
        classes: int | None = Field(None, ge=0, description="number of classes; default: the data's")
        words: tuple[str, ...] | None = Field(
            None, description="words of the captions that it is told in place of classes; default: the data's"
        )
        only_with = {"sigma": ("likelihood", "gaussian")}
        quick_values: ClassVar[dict[str, Any]] = {"width": 16, "latent_dim": 4}

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = s = settings
        self.shape = (s.channels, s.size, s.size)
        numbers = likelihood.NUMBERS[s.likelihood]
        halves = {"mlp": (MlpEncoder, MlpDecoder), "conv": (ConvEncoder, ConvDecoder)}[s.net]
        self.encoder = halves[0](s, 2 * s.latent_dim, kinds(s))
        self.decoder = halves[1](s, numbers, kinds(s))

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter from U(-b, b): as torch's layers start, b = 1 / sqrt(fan in), or by He's factor.

        He's is for weights that a rectifier follows, but for those that meet z. He's everywhere begins faster
        and ends a nat higher, torch's everywhere begins slowly (bench/vision_peers.md).
        """
        owner, _, leaf = name.rpartition(".")
        layer = self.get_submodule(owner)
        if isinstance(layer, nn.GroupNorm):
            return fill(name, p, generator)
        linear = isinstance(layer, nn.Linear)
        fan_in = layer.in_features if linear else layer.in_channels * math.prod(layer.kernel_size)
        plain = leaf == "bias" or owner.endswith("last") or owner in ("decoder.hidden.0", "decoder.first")
        fill_uniform(p, ((1 if plain else 6) / fan_in) ** 0.5, generator)

    def encode(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, Y, X) -> mean and log variance of q(z|x), each (B, L) fp32."""
        mean, log_var = self.encoder(x, self._class(label, x)).float().chunk(2, 1)
        return mean, log_var.clamp(-20, 20)

    def decode(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, L) -> (B, K, C, Y, X), the likelihood's numbers."""
        return self.decoder(z, self._class(label, z)).view(len(z), -1, *self.shape)

    def latents(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """z ~ N(0, truncation**2) of each key: (B,) -> (B, L)."""
        return truncation * noise.normal(key, "latent", (self.settings.latent_dim,))

    def render(self, latent: Tensor, label: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """The expected image at each z: (B, L) -> (B, C, Y, X) in [0, 1]."""
        return likelihood.mean(self.settings.likelihood, self.decode(latent, label))

    @torch.no_grad()
    def sample(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """The image of each key: (B,) -> (B, C, Y, X) in [0, 1]."""
        return self.render(self.latents(key, label, truncation), label)

    def _class(self, label: Tensor | None, like: Tensor) -> Tensor | None:
        s = self.settings
        return one_hot(label, kinds(s), len(like), like.device) if s.conditional else None


def joined(x: Tensor, known: Tensor | None) -> Tensor:
    return x if known is None else torch.cat([x, known], 1)


class MlpEncoder(nn.Module):
    def __init__(self, s: Vae.Settings, out: int, extra: int):
        super().__init__()
        widths = [s.channels * s.size**2 + extra, *[s.width] * s.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.last = nn.Linear(s.width, out)

    def forward(self, x: Tensor, known: Tensor | None) -> Tensor:
        """(B, C, Y, X) -> (B, out)"""
        x = joined(x.flatten(1), known)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.last(x)


class MlpDecoder(nn.Module):
    def __init__(self, s: Vae.Settings, numbers: int, extra: int):
        super().__init__()
        widths = [s.latent_dim + extra, *[s.width] * s.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.last = nn.Linear(s.width, numbers * s.channels * s.size**2)

    def forward(self, z: Tensor, known: Tensor | None) -> Tensor:
        """(B, L) -> (B, K * C * Y * X)"""
        z = joined(z, known)
        for layer in self.hidden:
            z = F.relu(layer(z))
        return self.last(z)


def stages(s: Vae.Settings) -> list[tuple[int, int]]:
    """(channels, size) from the image down to the smallest map: sizes are halved, rounded up."""
    out = [(s.channels, s.size)]
    for i in range(s.layers):
        out.append((s.width * 2**i, -(-out[-1][1] // 2)))
    return out


class ConvEncoder(nn.Module):
    """Strided convolutions and GroupNorm, which has no batch statistics."""

    def __init__(self, s: Vae.Settings, out: int, extra: int):
        super().__init__()
        maps = stages(s)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for (a, _), (b, _) in zip(maps, maps[1:]))
        self.norms = nn.ModuleList(nn.GroupNorm(groups(c), c) for c, _ in maps[1:])
        self.last = nn.Linear(maps[-1][0] * maps[-1][1] ** 2 + extra, out)

    def forward(self, x: Tensor, known: Tensor | None) -> Tensor:
        """(B, C, Y, X) -> (B, out)"""
        for conv, norm in zip(self.convs, self.norms):
            x = F.silu(norm(conv(x)))
        return self.last(joined(x.flatten(1), known))


class ConvDecoder(nn.Module):
    """Nearest-neighbour steps and convolutions, which leave no checkerboard (Odena et al. 2016)."""

    def __init__(self, s: Vae.Settings, numbers: int, extra: int):
        super().__init__()
        self.maps = stages(s)[::-1]
        channels, size = self.maps[0]
        self.first = nn.Linear(s.latent_dim + extra, channels * size**2)
        wide = [c for c, _ in self.maps[:-1]]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in zip(wide, [*wide[1:], wide[-1]]))
        self.norms = nn.ModuleList(nn.GroupNorm(groups(c), c) for c in wide)
        self.last = nn.Conv2d(wide[-1], numbers * s.channels, 3, 1, 1)

    def forward(self, z: Tensor, known: Tensor | None) -> Tensor:
        """(B, L) -> (B, K * C, Y, X)"""
        channels, size = self.maps[0]
        x = self.first(joined(z, known)).view(-1, channels, size, size)
        for norm, conv, (_, larger) in zip(self.norms, self.convs, self.maps[1:]):
            x = conv(F.interpolate(F.silu(norm(x)), larger))
        return self.last(F.silu(x))
