"""What a pixel's value is worth under a decoder's output: nats per image, summed over channels and pixels.

image uint8 ─► target(...) ─► nll(decoder's output, target) ─► (B,) nats     mean(output) ─► [0, 1]

bernoulli   1 number a value: a logit. The target is grey in [0, 1] or, binarised, drawn to be 0 or 1
gaussian    1 number: the mean, on [0, 1]; `sigma` is fixed
logistic    2 numbers: mean and log scale, on [-1, 1]; the mass of one of 256 bins (Salimans et al. 2017)
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llmkit.vision import noise

Likelihood = Literal["bernoulli", "gaussian", "logistic"]
Binarise = Literal["none", "dynamic", "threshold"]

NUMBERS = {"bernoulli": 1, "gaussian": 1, "logistic": 2}
"""How many numbers a decoder puts out for each value of an image."""


def target(name: Likelihood, image: Tensor, key: Tensor, binarise: Binarise = "none") -> Tensor:
    """uint8 image (B, C, Y, X) -> what the likelihood is of, fp32: [0, 1], or [-1, 1] for logistic.

    dynamic: a value is 1 with its grey level for probability, drawn anew for every sample (Salakhutdinov &
    Murray 2008); threshold: above the middle. Figures of binarised sets compare within one kind only.
    """
    x = image.float() / 255
    if name == "logistic":
        return 2 * x - 1
    if binarise == "dynamic":
        return (noise.uniform(key, "binarise", tuple(image.shape[1:])) < x).float()
    return (x > 0.5).float() if binarise == "threshold" else x


def dequantised(image: Tensor, key: Tensor) -> Tensor:
    """uint8 (B, C, Y, X) -> (level + u) / 256 in [0, 1), u keyed: for densities (Theis et al. 2016)."""
    return (image.float() + noise.uniform(key, "dequantise", tuple(image.shape[1:]))) / 256


def nll(name: Likelihood, out: Tensor, x: Tensor, sigma: float = 1.0) -> Tensor:
    """out (B, K, C, Y, X) and target x (B, C, Y, X) -> (B,) nats."""
    out = out.float()
    if name == "bernoulli":
        values = F.binary_cross_entropy_with_logits(out.squeeze(1), x, reduction="none")
    elif name == "gaussian":
        values = 0.5 * ((out.squeeze(1) - x) / sigma).square() + (
            0.5 * math.log(2 * math.pi) + math.log(sigma)
        )
    else:
        values = -log_bin(out[:, 0], out[:, 1], x)
    return values.flatten(1).sum(1)


def mean(name: Likelihood, out: Tensor) -> Tensor:
    """The expected image, (B, C, Y, X) in [0, 1]."""
    out = out.float()
    if name == "bernoulli":
        return out[:, 0].sigmoid()
    return ((out[:, 0] + 1) / 2 if name == "logistic" else out[:, 0]).clamp(0, 1)


def log_bin(mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """Log mass of the bin of 256 on [-1, 1] that x lies in, elementwise.

    The edges take the tails; where a bin's mass is below 1e-5 it is density times width (pixel_cnn_pp/nn.py).
    With s = sigmoid, s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)): no digits cancel in these factors.
    """
    log_scale = log_scale.clamp(min=-7)
    inverse = (-log_scale).exp()
    middle, half = inverse * (x - mean), inverse / 255
    below, above = F.logsigmoid(middle + half), F.logsigmoid(half - middle)
    mass = below + above + (-torch.expm1(-2 * half)).clamp(min=1e-30).log()
    density = middle - log_scale - 2 * F.softplus(middle) - math.log(127.5)
    inner = torch.where(mass > math.log(1e-5), mass, density)
    return torch.where(x > 0.999, above, torch.where(x < -0.999, below, inner))


def bits_per_dim(nats: float, dims: int) -> float:
    """Nats per image of `dims` discrete values -> bits per value."""
    return nats / (dims * math.log(2))
