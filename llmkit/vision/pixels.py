"""What the numbers that a net says of a pixel mean, whatever net says them: likelihoods, and draws from them.

bernoulli   a logit of black or white            mixture   of discretised logistics (mixture.py)
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.vision import mixture, noise
from llmkit.vision.layers import kinds


class Settings(Section):
    """Of every autoregressive model of images."""

    only_with = {"components": ("likelihood", "mixture")}
    likelihood: Literal["bernoulli", "mixture"] = Field(
        "bernoulli", description="binarised grey pixels, or 256 levels by logistic mixtures"
    )
    components: int = Field(10, gt=0, description="of the mixture")
    conditional: bool = Field(False, description="tell every block the class, or the caption's words")
    size: int | None = Field(None, gt=0, description="height and width; default: the data's")
    channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
    classes: int | None = Field(None, ge=0, description="number of classes; default: the data's")
    words: tuple[str, ...] | None = Field(
        None, description="words of the captions that it is told in place of classes; default: the data's"
    )


def numbers(s: Settings) -> int:
    """How many numbers describe a pixel. ConfigError for images that the settings do not go with."""
    if s.likelihood == "bernoulli" and s.channels != 1:
        raise ConfigError("model.likelihood: bernoulli is for grey images; use mixture, or data.channels=1")
    kinds(s)
    return 1 if s.likelihood == "bernoulli" else mixture.numbers(s.channels, s.components)


def nll(s: Settings, out: Tensor, x: Tensor) -> Tensor:
    """-log p(x): out (B, M, Y, X), x (B, C, Y, X) in [-1, 1] -> (B,) nats."""
    if s.likelihood == "bernoulli":
        return mixture.binary_nll(out, (x > 0).float())
    return mixture.nll(out, x, s.components)


def chance(s: Settings, key: Tensor) -> Tensor:
    """The random numbers of images: (B,) keys -> (B, Y, X, ...) uniform."""
    return noise.uniform(key, "pixels", (s.size, s.size, s.components + s.channels))


def draw(s: Settings, out: Tensor, u: Tensor, truncation: float) -> Tensor:
    """A pixel from what is said of it: out (B, M) and u (B, ...) of `chance` -> (B, C) in [-1, 1].

    `truncation` below 1 sharpens the distribution: a temperature of logits and scales.
    """
    temperature = max(truncation, 1e-3)
    if s.likelihood == "bernoulli":
        return 2 * (u[:, :1] < (out / temperature).sigmoid()).float() - 1
    k, scales = s.components, slice(s.components * (1 + s.channels), s.components * (1 + 2 * s.channels))
    out = out.clone()
    out[:, :k] /= temperature
    out[:, scales] += torch.tensor(temperature).log()
    return mixture.draw(out, u, s.channels, k)
