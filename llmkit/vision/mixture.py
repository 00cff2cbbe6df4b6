"""A mixture of discretised logistics over the channels of a pixel (Salimans et al. 2017, PixelCNN++).

    M components:  M logits | per channel: M means, M log scales | three channels: 3 M coefficients

Values lie on [-1, 1] in 256 levels. Within a component red moves the mean of green, both that of blue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmkit.vision.likelihood import log_bin


def numbers(channels: int, components: int) -> int:
    """How many numbers describe a pixel."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def nll(out: Tensor, x: Tensor, components: int) -> Tensor:
    """out (B, numbers, Y, X), x (B, C, Y, X) -> (B,) nats, all pixels and channels together."""
    logits, means, log_scales, coefficients = _split(out.float(), x.shape[1], components)
    each = logits.log_softmax(1)
    for c in range(x.shape[1]):
        mean = _moved(means[:, c], coefficients, x, c)
        each = each + log_bin(mean, log_scales[:, c], x[:, c, None])
    return -each.logsumexp(1).flatten(1).sum(1)


def draw(out: Tensor, u: Tensor, channels: int, components: int) -> Tensor:
    """A pixel from out (B, numbers) and uniform numbers u (B, components + C): (B, C) on the 256 levels."""
    logits, means, log_scales, coefficients = _split(out.float()[..., None, None], channels, components)
    u = u.clamp(1e-6, 1 - 1e-6)
    gumbel = -(-u[:, :components].log()).log()
    chosen = (logits[..., 0, 0] + gumbel).argmax(1)[:, None, None, None]
    x = torch.zeros(len(out), channels, 1, 1, device=out.device)
    for c in range(channels):
        mean = _moved(means[:, c], coefficients, x, c).gather(1, chosen)[:, 0, 0, 0]
        scale = log_scales[:, c].clamp(min=-7).gather(1, chosen)[:, 0, 0, 0].exp()
        value = mean + scale * u[:, components + c].logit()
        x[:, c, 0, 0] = ((value.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return x[..., 0, 0]


def _split(out: Tensor, channels: int, components: int):
    """-> logits (B, M, Y, X); means and log scales (B, C, M, Y, X); coefficients (B, 0 or 3, M, Y, X)."""
    parts = out.unflatten(1, (-1, components))
    means, log_scales = parts[:, 1 : 1 + channels], parts[:, 1 + channels : 1 + 2 * channels]
    return parts[:, 0], means, log_scales, parts[:, 1 + 2 * channels :].tanh()


def _moved(mean: Tensor, coefficients: Tensor, x: Tensor, c: int) -> Tensor:
    """The mean of channel c, given the channels before it: pairs are (1 by 0), (2 by 0), (2 by 1)."""
    first = c * (c - 1) // 2
    for i in range(c):
        mean = mean + coefficients[:, first + i] * x[:, i, None]
    return mean


def binary_nll(out: Tensor, x: Tensor) -> Tensor:
    """Bernoulli logits out (B, 1, Y, X) and x (B, 1, Y, X) of zeros and ones -> (B,) nats."""
    return F.binary_cross_entropy_with_logits(out.float(), x, reduction="none").flatten(1).sum(1)
