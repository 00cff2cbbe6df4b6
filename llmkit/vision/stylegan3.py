"""StyleGAN3-T's generator (Karras et al. 2021) in plain torch: what moves, moves as a whole, not by pixels.

    w ─► Fourier features, moved and turned as w says ─► [modulated conv ─► filtered leaky_relu] ... ─► RGB

Maps are samples of band-limited signals. A nonlinearity makes frequencies that the sampling rate cannot hold,
so it is taken at twice the rate, between two Kaiser low-pass filters; cutoffs rise from layer to layer, and
maps reach `MARGIN` beyond the image, so that its border is no place to hold on to. The discriminator is
StyleGAN2's. Not there: moving averages of the maps' magnitudes (they are statistics of batches), and
configuration R's radial filters.

Letters: B images, D width of maps, W of styles, C channels, Y X size; rates are samples per image width.
"""

import functools
import math
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from llmkit.models.blocks import fill_normal
from llmkit.registry import register
from llmkit.vision import noise, stylegan
from llmkit.vision.stylegan import GAIN, Common, Dense, Discriminator, Mapped, initialised, modulated

MARGIN, TAPS = 10, 6
"""Samples of a map beyond the image, on each side; taps of a filter, for each step in rate."""
FIRST_CUTOFF, FIRST_STOP, LAST_STOP = 2.0, 2**2.1, 2**0.3
"""Of the first layer, in cycles per image; the last layer's stopband, over its cutoff (config T)."""


class Settings(Common):
    """Both nets; `width` is the channels of the last layers, more the lower their cutoff."""

    name: Literal["stylegan3"] = "stylegan3"
    layers: int = Field(14, gt=2, description="layers of the generator; the last two are critically sampled")
    quick_values: ClassVar[dict[str, Any]] = {"width": 4, "latent_dim": 8, "layers": 3}


class Band(NamedTuple):
    """What one layer's output holds: frequencies up to `cutoff`, nothing past cutoff + half_width."""

    cutoff: float
    half_width: float
    rate: int
    size: int
    channels: int


def bands(s: Settings) -> list[Band]:
    """Of the input and every layer (2021, section 3.2, appendix D): geometric steps from first to last."""
    last = s.size / 2
    out = []
    for i in range(s.layers + 1):
        t = min(1.0, i / (s.layers - 2))
        cutoff = FIRST_CUTOFF * (last / FIRST_CUTOFF) ** t
        stop = FIRST_STOP * (last * LAST_STOP / FIRST_STOP) ** t
        rate = 2 ** math.ceil(math.log2(min(2 * stop, s.size)))
        size = s.size if i >= s.layers - 1 else rate + 2 * MARGIN
        channels = s.channels if i == s.layers else min(s.widest, round(s.width * last / cutoff))
        out.append(Band(cutoff, max(stop, rate / 2) - cutoff, rate, size, channels))
    return out


# ---- filters -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def lowpass(taps: int, cutoff: float, width: float, rate: float) -> tuple[float, ...]:
    """A Kaiser-windowed sinc of sum 1 (scipy.signal.firwin): passes `cutoff`, stops `width` further on."""
    if taps == 1:
        return (1.0,)
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    h = np.sinc(cutoff / (rate / 2) * (np.arange(taps) - (taps - 1) / 2)) * np.kaiser(taps, beta)
    return tuple((h / h.sum()).tolist())


def _taps(filter_: tuple[float, ...], like: Tensor) -> Tensor:
    """The filter where `like` is, copied there once; a plan's tensors are of no use to anybody else."""
    make = _kept.__wrapped__ if isinstance(like, FakeTensor) else _kept
    return make(filter_, like.device, like.dtype)


@functools.lru_cache(maxsize=256)
def _kept(filter_: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # else training could not use what sampling has made
        return torch.tensor(filter_, device=device, dtype=dtype)


def filtered(
    x: Tensor, filter_: tuple[float, ...], up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """`stylegan.upfirdn` by a symmetric filter of its own for each axis; a negative pad cuts."""
    taps = _taps(filter_, x)
    for axis in (3, 2):
        if up > 1:
            x = F.pad(x.unsqueeze(axis + 1), (0, 0) * (3 - axis) + (0, up - 1)).flatten(axis, axis + 1)
        x = F.pad(x, (0, 0) * (3 - axis) + pad)
        shape, stride = ((1, -1), (1, down)) if axis == 3 else ((-1, 1), (down, 1))
        x = F.conv2d(
            x, taps.view(1, 1, *shape).expand(x.shape[1], 1, -1, -1), stride=stride, groups=x.shape[1]
        )
    return x


# ---- layers ------------------------------------------------------------------------------------------------


class Fourier(nn.Module):
    """Waves of random frequency and phase within the first band, mixed; w turns and moves them all alike."""

    def __init__(self, s: Settings, band: Band):
        super().__init__()
        self.band = band
        self.affine = Dense(s.latent_dim, 4)
        self.weight = nn.Parameter(torch.empty(band.channels, band.channels))
        self.register_buffer("frequencies", torch.empty(band.channels, 2))
        self.register_buffer("phases", torch.empty(band.channels))
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Frequencies spread over a disc with the cutoff as its radius, as in the authors' code."""
        if not self.phases.is_meta:
            key = noise.keys(0, self.band.channels)
            f = noise.normal(key, "frequencies", (2,))
            radius = f.norm(dim=1, keepdim=True)
            self.frequencies.copy_(self.band.cutoff * f / (radius * radius.square().exp() ** 0.25))
            self.phases.copy_(noise.uniform(key, "phases") - 0.5)

    def init_param(self, leaf: str, p: nn.Parameter, generator: torch.Generator) -> None:
        fill_normal(p, 1.0, generator)

    def forward(self, w: Tensor, moved: Tensor) -> Tensor:
        """w (B, W) -> (B, D, Y, X); `moved` (2,) shifts the signal to the right and down, in image widths."""
        band = self.band
        t = self.affine(w)
        cosine, sine, right, below = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        turn = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        offset = -torch.stack([right, below], 1) - moved
        frequencies = self.frequencies.to(w.dtype) @ turn  # (B, D, 2)
        phases = self.phases.to(w.dtype) + (frequencies * offset[:, None]).sum(2)
        fade = (frequencies.norm(dim=2) - band.cutoff) / (band.rate / 2 - band.cutoff)
        at = (torch.arange(band.size, device=w.device, dtype=w.dtype) + 0.5 - band.size / 2) / band.rate
        places = torch.stack(torch.meshgrid(at, at, indexing="xy"), 2)  # (Y, X, 2) in image widths: x, y
        waves = torch.einsum("yxk,bdk->byxd", places, frequencies) + phases[:, None, None]
        waves = (2 * math.pi * waves).sin() * (1 - fade).clamp(0, 1)[:, None, None]
        return (waves @ (self.weight / math.sqrt(band.channels)).T).permute(0, 3, 1, 2)


class Layer(nn.Module):
    """A modulated convolution, then leaky_relu at twice the rate between two filters; RGB: neither."""

    def __init__(self, s: Settings, before: Band, band: Band, rgb: bool):
        super().__init__()
        k = 1 if rgb else 3
        self.affine = Dense(s.latent_dim, before.channels, start=1.0)
        self.weight = nn.Parameter(torch.empty(band.channels, before.channels, k, k))
        self.bias = nn.Parameter(torch.empty(band.channels))
        self.rgb, self.scale = rgb, 1 / math.sqrt(before.channels * k**2)
        high = max(before.rate, band.rate) * (1 if rgb else 2)
        self.up, self.down = high // before.rate, high // band.rate
        taps = [TAPS * factor if factor > 1 and not rgb else 1 for factor in (self.up, self.down)]
        self.rise = lowpass(taps[0], before.cutoff, 2 * before.half_width, high)
        self.fall = lowpass(taps[1], band.cutoff, 2 * band.half_width, high)
        pad = (band.size - 1) * self.down + 1 - (before.size + k - 1) * self.up + sum(taps) - 2
        first = (pad + self.up) // 2
        self.pad = (first, pad - first)

    def init_param(self, leaf: str, p: nn.Parameter, generator: torch.Generator) -> None:
        fill_normal(p, float(leaf == "weight"), generator)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x (B, I, Y, X), w (B, W) -> (B, O, Y', X')"""
        k = self.weight.shape[2]
        x = modulated(F.pad(x, (k // 2,) * 4), self.weight * self.scale, self.affine(w), not self.rgb)
        x = x + self.bias[:, None, None]
        x = filtered(x, tuple(self.up * h for h in self.rise), up=self.up, pad=self.pad)
        if not self.rgb:
            x = F.leaky_relu(x, 0.2) * GAIN
        return filtered(x, self.fall, down=self.down)


class Generator(Mapped):
    """Mapping and synthesis."""

    def __init__(self, s: Settings):
        super().__init__(s)
        stylegan.sizes(s)  # refuses what the discriminator cannot halve
        every = bands(s)
        self.input = Fourier(s, every[0])
        pairs = zip([every[0], *every], every)
        self.layers = nn.ModuleList(Layer(s, a, b, i == s.layers) for i, (a, b) in enumerate(pairs))

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter as its layer says; at first w neither turns nor moves the waves."""
        if name.startswith("input.affine"):
            nn.init.zeros_(p)
            if p.ndim == 1:
                p.data[0] = 1.0
            return
        initialised(self, name, p, generator)

    def synthesise(
        self, w: Tensor, key: Tensor | None = None, moved: tuple[float, float] = (0.0, 0.0)
    ) -> Tensor:
        """w (B, W) -> (B, C, Y, X), about [-1, 1]; `moved` to the right and down by so many image widths."""
        x = self.input(w, torch.stack([w.new_full((), by) for by in moved]))
        for layer in self.layers:
            x = layer(x, w)
        return 0.25 * x

    def forward(self, z: Tensor, label: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """z (B, L), label (B,) -> (B, C, Y, X). `key` is for nets that draw more noise than z."""
        return self.synthesise(self.map(z, label))


@register("model", "stylegan3")
class Stylegan3:
    """The two nets; checkpoints keep them side by side, and what samples is g."""

    Settings = Settings
    parts: ClassVar[dict[str, type]] = {"g": Generator, "d": Discriminator}
