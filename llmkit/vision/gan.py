"""Generators and discriminators: fully connected, DCGAN (Radford 2016) and residual (Miyato et al. 2018).

    z, label ─► g ─► image in [-1, 1] ─► d ─► one score        a model of two nets: parts g and d

The class enters g beside z as an embedding, or as scale and shift of every norm (`class_in`), and d as a
projection (Miyato & Koyama 2018, eq. 3): the score gains the inner product of an embedding of the label and
the last features. GroupNorm, and no norm in d,
keep a loss free of batch statistics; `norm: batch` is DCGAN's own and costs that.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.vision import noise
from llmkit.vision.layers import Spectral, fill, groups


class Settings(Section):
    """Both nets."""

    name: Literal["gan"] = "gan"
    net: Literal["mlp", "dcgan", "resnet"] = Field("dcgan", description="kind of both nets")
    latent_dim: int = Field(64, gt=0, description="dimensions of the noise")
    width: int = Field(64, gt=0, description="channels of the largest maps; mlp: hidden units")
    layers: int = Field(2, gt=0, description="stages, each doubles (halves) the size; mlp: hidden layers")
    norm: Literal["batch", "group", "none"] = Field(
        "group", description="in g; dcgan's d has it too if batch"
    )
    spectral: bool = Field(False, description="spectral normalisation of d's weights")
    conditional: bool = Field(False, description="tell both nets the class")
    class_in: Literal["input", "norm"] = Field(
        "input", description="g is told it by an embedding beside z, or by scale and shift of every norm"
    )
    size: int | None = Field(None, gt=0, description="height and width; default: the data's")
    channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
    classes: int | None = Field(None, ge=0, description="number of classes; default: the data's")
    only_with = {"class_in": ("conditional",), "norm": ("net", "dcgan", "resnet")}
    quick_values: ClassVar[dict[str, Any]] = {"width": 8, "latent_dim": 8}


def labels(s: Settings) -> int:
    """How many classes the nets are told of; 0 if of none. ConfigError if the images have none."""
    if s.conditional and not s.classes:
        raise ConfigError("model.conditional: the images have no classes; set it to false")
    return s.classes if s.conditional else 0


def smallest(s: Settings) -> int:
    """Height of the smallest maps. ConfigError if the images cannot be halved so often."""
    if s.size % 2**s.layers:
        raise ConfigError(
            f"model.layers: {s.size} cannot be halved {s.layers} times; set data.size or layers"
        )
    return s.size // 2**s.layers


def plain(layer: nn.Module) -> nn.Module:
    return layer


def normed(kind: str, channels: int, affine: bool = True) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=affine)
    return nn.GroupNorm(groups(channels), channels, affine=affine) if kind == "group" else nn.Identity()


class ClassNorm(nn.Module):
    """A norm whose scale and shift are the class's own (de Vries et al. 2017)."""

    def __init__(self, kind: str, channels: int, classes: int):
        super().__init__()
        self.norm = normed(kind, channels, affine=False)
        self.scale = nn.Parameter(torch.empty(classes, channels))
        self.shift = nn.Parameter(torch.empty(classes, channels))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(B, D, Y, X), (B,) -> (B, D, Y, X)"""
        return self.norm(x) * self.scale[label][:, :, None, None] + self.shift[label][:, :, None, None]


def norm_of(s: Settings, channels: int) -> nn.Module:
    """A norm of g. ConfigError if the class is to enter by a norm that is none."""
    if not labels(s) or s.class_in == "input":
        return normed(s.norm, channels)
    if s.norm == "none":
        raise ConfigError("model.class_in: norm needs one; set model.norm=group, or class_in=input")
    return ClassNorm(s.norm, channels, labels(s))


def applied(norm: nn.Module, x: Tensor, label: Tensor | None) -> Tensor:
    """The norm of x, which may be told the class."""
    return norm(x, label) if isinstance(norm, ClassNorm) else norm(x)


# ---- generators --------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Noise, and a class if conditional, to an image."""

    spherical = True

    def __init__(self, s: Settings):
        super().__init__()
        self.settings = s
        beside = labels(s) if s.class_in == "input" else 0
        self.embed = nn.Embedding(beside, s.latent_dim) if beside else None
        body = {"mlp": MlpGenerator, "dcgan": DeconvGenerator, "resnet": ResGenerator}[s.net]
        self.body = body(s, s.latent_dim * (2 if beside else 1))

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter: DCGAN's N(0, 0.02), else by fan in; norms begin without a class."""
        if name.endswith((".scale", ".shift")):
            nn.init.constant_(p, float(name.endswith("scale")))
            return
        fill(name, p, generator, 0.02 if self.settings.net == "dcgan" else None)

    def forward(self, z: Tensor, label: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """z (B, L), label (B,) -> (B, C, Y, X) in [-1, 1]. `key` is for nets that draw more noise than z."""
        if self.embed is not None:
            z = torch.cat([z, self.embed(label)], 1)
        return self.body(z, label).tanh()

    def latents(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """The noise of each key, from N(0, truncation**2): (B,) -> (B, L)."""
        return truncation * noise.normal(key, "latent", (self.settings.latent_dim,))

    def render(self, latent: Tensor, label: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, C, Y, X) in [0, 1]"""
        return (self(latent, label).float() + 1) / 2

    @torch.no_grad()
    def sample(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """The image of each key: (B,) -> (B, C, Y, X) in [0, 1]."""
        return self.render(self.latents(key, label, truncation), label)


class MlpGenerator(nn.Module):
    def __init__(self, s: Settings, inputs: int):
        super().__init__()
        widths = [inputs, *[s.width] * s.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.last = nn.Linear(s.width, s.channels * s.size**2)
        self.shape = (s.channels, s.size, s.size)
        if labels(s) and s.class_in == "norm":
            raise ConfigError("model.class_in: net mlp has no norms; set class_in=input, or another net")

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        for layer in self.hidden:
            z = F.leaky_relu(layer(z), 0.2)
        return self.last(z).view(-1, *self.shape)


class DeconvGenerator(nn.Module):
    """A linear layer to the smallest maps, then transposed convolutions that double them."""

    def __init__(self, s: Settings, inputs: int):
        super().__init__()
        wide = [s.width * 2**i for i in reversed(range(s.layers))]
        self.start = (wide[0], smallest(s), smallest(s))
        self.first = nn.Linear(inputs, wide[0] * smallest(s) ** 2)
        self.norms = nn.ModuleList(norm_of(s, c) for c in wide)
        maps = [*wide, s.channels]
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in zip(maps, maps[1:]))

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        x = self.first(z).view(-1, *self.start)
        for norm, conv in zip(self.norms, self.convs):
            x = conv(F.relu(applied(norm, x, label)))
        return x


class ResGenerator(nn.Module):
    """Residual blocks at one width, each doubling the size (SNGAN's for CIFAR-10)."""

    def __init__(self, s: Settings, inputs: int):
        super().__init__()
        self.start = (s.width, smallest(s), smallest(s))
        self.first = nn.Linear(inputs, s.width * smallest(s) ** 2)
        self.blocks = nn.ModuleList(UpBlock(s) for _ in range(s.layers))
        self.norm = norm_of(s, s.width)
        self.last = nn.Conv2d(s.width, s.channels, 3, 1, 1)

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        x = self.first(z).view(-1, *self.start)
        for block in self.blocks:
            x = block(x, label)
        return self.last(F.relu(applied(self.norm, x, label)))


class UpBlock(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        width = s.width
        self.norm1, self.norm2 = norm_of(s, width), norm_of(s, width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))
        self.skip = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """(B, D, Y, X) -> (B, D, 2Y, 2X)"""
        h = self.conv1(F.interpolate(F.relu(applied(self.norm1, x, label)), scale_factor=2))
        h = self.conv2(F.relu(applied(self.norm2, h, label)))
        return h + self.skip(F.interpolate(x, scale_factor=2))


# ---- discriminators ----------------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """An image, and its class if conditional, to a score: above 0 is real."""

    def __init__(self, s: Settings):
        super().__init__()
        self.settings = s
        bodies = {"mlp": MlpDiscriminator, "dcgan": ConvDiscriminator, "resnet": ResDiscriminator}
        self.body = bodies[s.net](s)
        wrap = Spectral if s.spectral else plain
        self.last = wrap(nn.Linear(self.body.width, 1))
        self.embed = nn.Embedding(labels(s), self.body.width) if labels(s) else None

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter: DCGAN's N(0, 0.02), else by fan in; the projection starts small."""
        small = 0.02 if self.settings.net == "dcgan" else None
        fill(name.replace("embed", "projection"), p, generator, small)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, Y, X) in [-1, 1], label (B,) -> (B,) scores."""
        return self.judged(self.body(x), label)

    def judged(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """The score of the body's features (B, D)."""
        score = self.last(features)[:, 0]
        return score if self.embed is None else score + (self.embed(label) * features).sum(1)


class MlpDiscriminator(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        self.width = s.width
        wrap = Spectral if s.spectral else plain
        widths = [s.channels * s.size**2, *[s.width] * s.layers]
        self.hidden = nn.ModuleList(wrap(nn.Linear(a, b)) for a, b in zip(widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, D)"""
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), 0.2)
        return x


class ConvDiscriminator(nn.Module):
    """Strided convolutions; BatchNorm between them, but not after the first, if the generator has it."""

    def __init__(self, s: Settings):
        super().__init__()
        wrap = Spectral if s.spectral else plain
        maps = [s.channels, *(s.width * 2**i for i in range(s.layers))]
        self.convs = nn.ModuleList(wrap(nn.Conv2d(a, b, 4, 2, 1)) for a, b in zip(maps, maps[1:]))
        kinds = ["none", *["batch" if s.norm == "batch" else "none"] * (s.layers - 1)]
        self.norms = nn.ModuleList(normed(kind, c) for kind, c in zip(kinds, maps[1:]))
        self.width = maps[-1] * smallest(s) ** 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, D)"""
        for conv, norm in zip(self.convs, self.norms):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return x.flatten(1)


class ResDiscriminator(nn.Module):
    """Residual blocks that halve the size, one that does not, and a sum over positions."""

    def __init__(self, s: Settings):
        super().__init__()
        maps = [s.channels, *[s.width] * s.layers]
        self.blocks = nn.ModuleList(DownBlock(a, s.width, s.spectral, True) for a in maps[:-1])
        self.blocks.append(DownBlock(s.width, s.width, s.spectral, False))
        self.width = s.width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, D)"""
        for block in self.blocks:
            x = block(x)
        return F.relu(x).sum((2, 3))


class DownBlock(nn.Module):
    def __init__(self, inputs: int, width: int, spectral: bool, halve: bool):
        super().__init__()
        wrap = Spectral if spectral else plain
        self.conv1 = wrap(nn.Conv2d(inputs, width, 3, 1, 1))
        self.conv2 = wrap(nn.Conv2d(width, width, 3, 1, 1))
        self.skip = wrap(nn.Conv2d(inputs, width, 1))
        self.is_first, self.halve = inputs != width, halve

    def forward(self, x: Tensor) -> Tensor:
        """(B, D', Y, X) -> (B, D, Y/2, X/2), or of the same size."""
        h = self.conv2(F.relu(self.conv1(x if self.is_first else F.relu(x))))
        x = self.skip(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(x, 2) if self.halve else h + x


@register("model", "gan")
class Gan:
    """The two nets of a GAN; checkpoints keep them side by side, and what samples is g."""

    Settings = Settings
    parts: ClassVar[dict[str, type]] = {"g": Generator, "d": Discriminator}
