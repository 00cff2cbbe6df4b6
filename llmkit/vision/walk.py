"""Walks through the latent space of a model that has one: from image to image, or along one dimension.

A net with a latent space has `latents(key, label, truncation)`, (B,) -> (B, L), and `render(latent, label,
key)`, (B, L) -> (B, C, Y, X) in [0, 1]; `spherical` says that its latents are drawn from N(0, I), where a
straight line would leave the shell that they lie on.
"""

from typing import Any

import torch
from torch import Tensor

from llmkit.vision import noise

REACH = 3.0
"""Standard deviations to either side of the middle that a traversal goes."""
MEASURED = 1024
"""Draws behind the mean and deviation of latents that are not drawn from N(0, I)."""


def between(a: Tensor, b: Tensor, t: Tensor, spherical: bool) -> Tensor:
    """From a (B, L) at t = 0 to b at t = 1: (N, B, L); spherical: along the great circle (White 2016)."""
    t = t[:, None, None]
    if not spherical:
        return (1 - t) * a + t * b
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)
    angle = cosine.clamp(-1 + 1e-7, 1 - 1e-7).arccos()[:, None]
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()


@torch.no_grad()
def interpolation(net: Any, key: Tensor, label: Tensor | None, steps: int, truncation: float = 1.0) -> Tensor:
    """From the image of each key to that of the next one, the label kept: (B,) -> (B, steps, C, Y, X)."""
    starts, ends = (net.latents(k, label, truncation) for k in (key, key.roll(-1)))
    path = between(starts, ends, torch.linspace(0, 1, steps, device=key.device), net.spherical)
    return torch.stack([net.render(latent, label, key) for latent in path], 1)


@torch.no_grad()
def traversal(
    net: Any, latent: Tensor, label: Tensor | None, key: Tensor, dims: list[int], steps: int
) -> Tensor:
    """One latent (1, L) with each of `dims` in turn led from -3 to 3 deviations: (dims, steps, C, Y, X)."""
    middle, deviation = _spread(net, label, key)
    reach = torch.linspace(-REACH, REACH, steps, device=latent.device)
    told = None if label is None else label.expand(steps, *label.shape[1:])
    rows = []
    for dim in dims:
        path = latent.repeat(steps, 1)
        path[:, dim] = middle[dim] + reach * deviation[dim]
        rows.append(net.render(path, told, key.expand(steps)))
    return torch.stack(rows)


def _spread(net: Any, label: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of every latent dimension: (L,) each."""
    if net.spherical:
        ones = key.new_ones(net.settings.latent_dim, dtype=torch.float32)
        return 0 * ones, ones
    told = None if label is None else label[:1].expand(MEASURED, *label.shape[1:])
    many = net.latents(noise.keys(0, MEASURED, key.device), told, 1.0)
    return many.mean(0), many.std(0)
