"""StyleGAN2 (Karras et al. 2020b) in plain torch: every penalty can be differentiated twice, on any device.

    z ─► mapping ─► w ─► style of each layer       const 4 x 4 ─► [modulated conv, noise] ... ─► sum of RGBs
                                                   image ─► residual blocks ─► minibatch stddev ─► score

Learning rates are equalised: weights are drawn from N(0, 1) and scaled where they are used.
Letters: B images, D width of maps, W of styles, C channels, Y X size.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.models.blocks import fill_normal
from llmkit.registry import register
from llmkit.vision import noise

GAIN = math.sqrt(2)
"""What leaky_relu(0.2) is multiplied by to keep the variance."""
MEAN_OF = 4096
"""Draws of z behind the mean w that truncation leads to."""


class Common(Section):
    """Of both nets, in any StyleGAN."""

    latent_dim: int = Field(64, gt=0, description="dimensions of z and of w")
    mapping: int = Field(2, gt=0, description="layers of the mapping network")
    width: int = Field(32, gt=0, description="channels of the largest maps; doubled at each smaller size")
    widest: int = Field(512, gt=0, description="most channels of any map")
    stddev_group: int = Field(4, ge=0, description="images of a minibatch-stddev group; 0: none")
    conditional: bool = Field(False, description="tell both nets the class")
    size: int | None = Field(None, gt=0, description="height and width, 4 times a power of two")
    channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
    classes: int | None = Field(None, ge=0, description="number of classes; default: the data's")
    quick_values: ClassVar[dict[str, Any]] = {"width": 4, "latent_dim": 8}


class Settings(Common):
    """Both nets."""

    name: Literal["stylegan"] = "stylegan"
    mixing: float = Field(
        0.9, ge=0, le=1, description="share of training images whose later layers follow a second w"
    )


def sizes(s: Common) -> list[tuple[int, int]]:
    """(size, channels) from 4 x 4 to the image's. ConfigError for an image of another size."""
    steps = int(math.log2(s.size / 4)) if s.size >= 4 else -1
    if steps < 0 or 4 * 2**steps != s.size:
        raise ConfigError(f"model.size: {s.size} is not 4 times a power of two; set data.size, data.fit=pad")
    return [(4 * 2**i, min(s.widest, s.width * 2 ** (steps - i))) for i in range(steps + 1)]


# ---- layers ------------------------------------------------------------------------------------------------


def upfirdn(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Put up - 1 zeros behind each value, pad, filter, keep each down-th: (B, D, Y, X) -> (B, D, Y', X').

    `kernel` (k, k) is applied as a convolution, flipped; `pad` goes to both axes. Y' is
    (Y up + both pads - k) / down + 1.
    """
    B, D, Y, X = x.shape
    x = F.pad(x.view(B, D, Y, 1, X, 1), (0, up - 1, 0, 0, 0, up - 1)).view(B, D, Y * up, X * up)
    x = F.pad(x, (*pad, *pad))
    weight = kernel.flip(0, 1).to(x.dtype).expand(D, 1, *kernel.shape)
    return F.conv2d(x, weight, stride=down, groups=D)


def blur_like(x: Tensor) -> Tensor:
    """The filter (1, 3, 3, 1) over both axes, summing to 1, on the device of x."""
    taps = torch.full((4,), 1 / 8, device=x.device)  # not copied from the host, which would wait for a GPU
    taps[1:3] = 3 / 8
    return taps[:, None] * taps[None]


def doubled(x: Tensor) -> Tensor:
    """(B, D, Y, X) -> (B, D, 2Y, 2X), interpolated by the blur filter."""
    return upfirdn(x, 4 * blur_like(x), up=2, pad=(2, 1))


def halved(x: Tensor) -> Tensor:
    """(B, D, Y, X) -> (B, D, Y/2, X/2), blurred before."""
    return upfirdn(x, blur_like(x), down=2, pad=(1, 1))


def modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
    """Convolve each image with its own weights (2020b, eq. 1, 3): w' = s_i w, w'' = w' / sqrt(sum w'^2 + e).

    x (B, I, Y, X), weight (O, I, k, k), style (B, I) -> (B, O, Y, X). Scaling the input by s and the output
    by the norm is the same, and needs no weights per image.
    """
    out = F.conv2d(x * style[:, :, None, None], weight, padding=weight.shape[2] // 2)
    if not demodulate:
        return out
    squares = weight.square().sum((2, 3))  # (O, I)
    return out * (style.square() @ squares.T + 1e-8).rsqrt()[:, :, None, None]


class Dense(nn.Module):
    """A linear layer with an equalised learning rate; `rate` multiplies it, `start` is the initial bias."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, start: float = 0.0):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.empty(outputs, inputs)),
            nn.Parameter(torch.empty(outputs)),
        )
        self.rate, self.start, self.scale = rate, start, rate / math.sqrt(inputs)

    def init_param(self, leaf: str, p: nn.Parameter, generator: torch.Generator) -> None:
        if leaf == "bias":
            nn.init.constant_(p, self.start / self.rate)
        else:
            fill_normal(p, 1 / self.rate, generator)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution with an equalised learning rate, then leaky_relu if `active`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True, active: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.scale, self.active = 1 / math.sqrt(inputs * kernel**2), active

    def init_param(self, leaf: str, p: nn.Parameter, generator: torch.Generator) -> None:
        fill_normal(p, float(leaf == "weight"), generator)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[2] // 2)
        return F.leaky_relu(x, 0.2) * GAIN if self.active else x


class Styled(nn.Module):
    """A modulated convolution, of the doubled map if `up`, noise, leaky_relu; `rgb`: without the last two."""

    def __init__(self, s: Common, inputs: int, outputs: int, kernel: int, up: bool, rgb: bool = False):
        super().__init__()
        self.affine = Dense(s.latent_dim, inputs, start=1.0)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.strength = None if rgb else nn.Parameter(torch.empty(1))
        self.up, self.rgb, self.scale = up, rgb, 1 / math.sqrt(inputs * kernel**2)

    def init_param(self, leaf: str, p: nn.Parameter, generator: torch.Generator) -> None:
        fill_normal(p, float(leaf == "weight"), generator)

    def forward(self, x: Tensor, w: Tensor, drawn: Tensor | None = None) -> Tensor:
        """x (B, I, Y, X), w (B, W), noise (B, 1, Y', X') -> (B, O, Y', X')"""
        x = doubled(x) if self.up else x
        x = modulated(x, self.weight * self.scale, self.affine(w), not self.rgb) + self.bias[:, None, None]
        if self.rgb:
            return x
        x = x if drawn is None else x + self.strength * drawn
        return F.leaky_relu(x, 0.2) * GAIN


def initialised(net: nn.Module, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
    """Let the layer that owns parameter `name` of `net` fill it."""
    owner, _, leaf = name.rpartition(".")
    net.get_submodule(owner).init_param(leaf, p, generator)


# ---- nets --------------------------------------------------------------------------------------------------


class Mapped(nn.Module):
    """A generator whose latents are w: the mapping network; a subclass's `synthesise` makes images of w."""

    spherical = False
    synthesise: Callable[..., Tensor]

    def __init__(self, s: Common):
        super().__init__()
        self.settings = s
        if s.conditional and not s.classes:
            raise ConfigError("model.conditional: the images have no classes; set it to false")
        self.embed = Dense(s.classes, s.latent_dim) if s.conditional else None
        wide = s.latent_dim * (2 if s.conditional else 1)
        widths = [wide, *[s.latent_dim] * s.mapping]
        self.mapping = nn.ModuleList(Dense(a, b, rate=0.01) for a, b in zip(widths, widths[1:]))

    def map(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, L) -> w (B, W)"""
        x = normalised(z)
        if self.embed is not None:
            x = torch.cat([x, normalised(self.embed(F.one_hot(label, self.settings.classes).to(z.dtype)))], 1)
        for layer in self.mapping:
            x = F.leaky_relu(layer(x), 0.2) * GAIN
        return x

    @torch.no_grad()
    def latents(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """The w of each key, led to the mean w by `truncation`: (B,) -> (B, W)."""
        w = self.map(noise.normal(key, "latent", (self.settings.latent_dim,)), label)
        if truncation == 1:
            return w
        many = noise.normal(noise.keys(0, MEAN_OF, key.device), "latent", (self.settings.latent_dim,))
        labels = torch.arange(MEAN_OF, device=key.device) % (self.settings.classes or 1)
        mean = self.map(many, labels).mean(0)
        return mean + truncation * (w - mean)

    @torch.no_grad()
    def render(self, latent: Tensor, label: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """w (B, W), noise from key (B,) -> (B, C, Y, X) in [0, 1]."""
        return ((self.synthesise(latent, key).float() + 1) / 2).clamp(0, 1)

    def sample(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """The image of each key: (B,) -> (B, C, Y, X) in [0, 1]."""
        return self.render(self.latents(key, label, truncation), label, key)


class Generator(Mapped):
    """Mapping and synthesis, with skip connections to RGB."""

    settings: Settings

    def __init__(self, s: Settings):
        super().__init__(s)
        maps = sizes(s)
        self.const = Constant(maps[0][1])
        channels = [maps[0][1], *(c for _, c in maps)]
        self.first = nn.ModuleList(
            Styled(s, a, b, 3, i > 0) for i, (a, b) in enumerate(zip(channels, channels[1:]))
        )
        self.second = nn.ModuleList(Styled(s, c, c, 3, False) for _, c in maps[1:])
        self.rgb = nn.ModuleList(Styled(s, c, s.channels, 1, False, rgb=True) for _, c in maps)

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter as its layer says."""
        initialised(self, name, p, generator)

    def mixed(self, w: Tensor, label: Tensor | None, key: Tensor) -> Tensor:
        """w (B, W) -> (B, layers, W), a second w takes over from a random layer on (style mixing)."""
        layers = 2 * len(self.rgb)
        other = self.map(noise.normal(key, "mixed latent", (self.settings.latent_dim,)), label)
        takes = noise.uniform(key, "whether mixed") < self.settings.mixing
        first = torch.where(takes, 1 + noise.integers(key, "mixed from", layers - 1), layers)
        later = torch.arange(layers, device=w.device) >= first[:, None]
        return torch.where(later[..., None], other[:, None], w[:, None])

    def synthesise(self, w: Tensor, key: Tensor | None = None) -> Tensor:
        """w (B, W), or one for each of 2 layers a size, (B, layers, W) -> (B, C, Y, X), about [-1, 1].

        Every layer's noise is drawn from `key`, or is none. An RGB layer follows the w of the layer after it.
        """
        x, image = self.const(len(w)), None
        at = lambda n: w if w.ndim == 2 else w[:, n]  # noqa: E731
        for i, (size, _) in enumerate(sizes(self.settings)):
            draw = lambda layer, size=size: None if key is None else noise.normal(key, layer, (1, size, size))  # noqa: E731
            x = self.first[i](x, at(max(2 * i - 1, 0)), draw(f"noise {size} a"))
            if i:
                x = self.second[i - 1](x, at(2 * i), draw(f"noise {size} b"))
            here = self.rgb[i](x, at(2 * i + 1))
            image = here if image is None else doubled(image) + here
        return image

    def forward(self, z: Tensor, label: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """z (B, L), label (B,), noise from key (B,) -> (B, C, Y, X); in training, styles are mixed."""
        w = self.map(z, label)
        if self.training and self.settings.mixing and key is not None:
            w = self.mixed(w, label, key)
        return self.synthesise(w, key)


class Constant(nn.Module):
    """The learned 4 x 4 map that every image starts from."""

    def __init__(self, channels: int):
        super().__init__()
        self.value = nn.Parameter(torch.empty(channels, 4, 4))

    def init_param(self, leaf: str, p: nn.Parameter, generator: torch.Generator) -> None:
        fill_normal(p, 1.0, generator)

    def forward(self, rows: int) -> Tensor:
        return self.value.expand(rows, -1, -1, -1)


def normalised(x: Tensor) -> Tensor:
    """Each row to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Discriminator(nn.Module):
    """Residual blocks that halve the map, down to 4 x 4."""

    def __init__(self, s: Common):
        super().__init__()
        self.settings = s
        maps = sizes(s)[::-1]
        self.start = Conv(s.channels, maps[0][1], 1)
        pairs = list(zip(maps, maps[1:]))
        self.first = nn.ModuleList(Conv(a, a, 3) for (_, a), _ in pairs)
        self.second = nn.ModuleList(Conv(a, b, 3) for (_, a), (_, b) in pairs)
        self.skip = nn.ModuleList(Conv(a, b, 1, bias=False, active=False) for (_, a), (_, b) in pairs)
        channels = maps[-1][1]
        self.inner = Conv(channels + (s.stddev_group > 0), channels, 3)
        self.hidden = Dense(channels * 16, channels)
        self.last = Dense(channels, s.latent_dim if s.conditional else 1)
        self.embed = Dense(s.classes, s.latent_dim) if s.conditional else None

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter as its layer says."""
        initialised(self, name, p, generator)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, Y, X) in [-1, 1], label (B,) -> (B,) scores."""
        x = self.start(x)
        for first, second, skip in zip(self.first, self.second, self.skip):
            x = (halved(second(first(x))) + skip(halved(x))) / GAIN
        if self.settings.stddev_group:
            x = with_stddev(x, self.settings.stddev_group)
        x = F.leaky_relu(self.hidden(self.inner(x).flatten(1)), 0.2) * GAIN
        out = self.last(x)
        if self.embed is None:
            return out[:, 0]
        known = normalised(self.embed(F.one_hot(label, self.settings.classes).to(x.dtype)))
        return (out * known).sum(1) / math.sqrt(self.settings.latent_dim)


def with_stddev(x: Tensor, group: int) -> Tensor:
    """Append a map of the mean deviation within groups of images: (B, D, ..) -> (B, D + 1, ..)."""
    B = len(x)
    group = next(g for g in range(min(group, B), 0, -1) if B % g == 0)
    apart = x.view(group, -1, *x.shape[1:])
    deviation = (apart.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))  # (B / group,)
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


@register("model", "stylegan")
class Stylegan:
    """The two nets; checkpoints keep them side by side, and what samples is g."""

    Settings = Settings
    parts: ClassVar[dict[str, type]] = {"g": Generator, "d": Discriminator}
