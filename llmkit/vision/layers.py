"""What image nets have in common: how their parameters are initialised, labels, and one linear layer with a class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.models.blocks import fill_normal


def fill(name: str, p: nn.Parameter, generator: torch.Generator, std: float | None = None) -> None:
    """Initialise one parameter: vectors called weight to 1, other vectors to 0, the rest from N(0, std).

    Without `std`: sqrt(1 / fan in), and sqrt(2 / fan in) for what a rectifier follows (He et al. 2015) is left to
    the layer. Embeddings are drawn from N(0, 1).
    """
    leaf = name.rpartition(".")[2]
    if p.ndim < 2:
        nn.init.constant_(p, float(leaf == "weight"))
    elif "embed" in name:
        fill_normal(p, 1.0, generator)
    else:
        fill_normal(p, std or p[0].numel() ** -0.5, generator)


def one_hot(label: Tensor | None, classes: int, rows: int, device) -> Tensor:
    """(B, classes) fp32; nothing known about the class is all zeros."""
    if label is None:
        return torch.zeros(rows, classes, device=device)
    return F.one_hot(label, classes).float()


def groups(channels: int) -> int:
    """How many groups a GroupNorm of so many channels gets: 8, or the largest power of two that divides them."""
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)
