"""How much better a reply, or a token of it, was than expected.

Letters: B replies, T positions, G replies to one prompt. A reply's tokens stand at neighbouring positions of
its row, marked by `mask`.
"""

import torch
from torch import Tensor

GROUP_EPS = 1e-4
"""Added to a group's standard deviation, as by TRL; others: verl 1e-6, OpenRLHF 1e-9."""
WHITEN_EPS = 1e-8
"""Smallest variance, as by OpenRLHF. TRL adds it instead: 1e-6 less where the deviation is 0.1."""


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates of the marked positions (Schulman et al. 2016, eq. 16), (B, T); else 0.

    Nothing follows a reply's last token: its value is not bootstrapped, whether it ended or was cut.
    """
    mask = mask.to(values.dtype)
    out, following, value = [], torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        value = values[:, t] * mask[:, t]
        out.append(following)
    return torch.stack(out[::-1], 1)


def to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """The sum of a reply's rewards from each marked position on: (B, T); elsewhere 0."""
    rewards = rewards * mask
    return rewards.flip(1).cumsum(1).flip(1) * mask


def grouped(kind: str, rewards: Tensor, group: int) -> Tensor:
    """Rewards (B,), `group` replies to each prompt side by side -> advantages (B,).

    grpo: (r - mean) / (std + 1e-4), unbiased (Shao et al. 2024); centered: r - mean (Liu et al. 2025, Dr.
    GRPO); rloo: r - the mean of the others (Ahmadian et al. 2024). A prompt whose replies all got the same
    teaches nothing: 0.
    """
    r = rewards.view(-1, group)
    away = r - r.mean(1, keepdim=True)
    if kind == "rloo":
        away = away * (group / (group - 1))
    elif kind == "grpo":
        away = away / (r.std(1, keepdim=True) + GROUP_EPS)
    return away.reshape(-1)


def moments(values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Sums from which `whitened` takes mean and variance, to be added up over micro-batches and ranks."""
    x, mask = values.double(), mask.double()
    return {"n": mask.sum(), "sum": (x * mask).sum(), "square": (x.square() * mask).sum()}


def whitened(values: Tensor, mask: Tensor, sums: dict[str, Tensor], convention: str) -> Tensor:
    """`values` with mean 0 and variance 1 over all that `sums` counted; 0 where not marked.

    bessel: variance over n - 1, as TRL and verl; biased: over n, as OpenRLHF; none: as they are.
    """
    if convention == "none":
        return values * mask
    n = sums["n"].clamp(min=1)
    mean = sums["sum"] / n
    variance = (sums["square"] / n - mean.square()).clamp(min=0)
    if convention == "bessel":
        variance = variance * n / (n - 1).clamp(min=1)
    return ((values - mean) * torch.rsqrt(variance.clamp(min=WHITEN_EPS))).to(values.dtype) * mask
