"""A mixture of experts in place of a feed-forward layer: each token goes through `experts_per_token` of them.

    x ─► router ─► softmax over all experts ─► the best k, their weights made to sum to 1 ─► sum of k SwiGLUs

As in Mixtral (Jiang et al. 2024, section 2.1). No token is dropped and no capacity is fixed.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Routing(NamedTuple):
    """What one layer's router decided."""

    logits: Tensor
    """(B, T, E) fp32"""
    chosen: Tensor
    """(B, T, k) int64"""


class Experts(nn.Module):
    """`experts` SwiGLU layers (Shazeer 2020, eq. 6) of which a token sees the `k` that its router likes best.

    The experts' matrices are stacked, (E, I, D) and (E, D, I), so that each has a gradient in every step,
    zero for an expert that no token chose.
    """

    def __init__(self, width: int, mlp_dim: int, experts: int, k: int):
        super().__init__()
        self.k = k
        self.router = nn.Linear(width, experts, bias=False)
        self.gate_proj = nn.Parameter(torch.empty(experts, mlp_dim, width))
        self.up_proj = nn.Parameter(torch.empty(experts, mlp_dim, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, mlp_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """x (B, T, D) -> (y (B, T, D), its routing)."""
        logits = self.router(x).float()
        best, chosen = logits.softmax(-1).topk(self.k, -1)
        weights = (best / best.sum(-1, keepdim=True)).to(x.dtype)
        y = self._mixed(x.flatten(0, 1), weights.flatten(0, 1), chosen.flatten(0, 1))
        return y.view_as(x), Routing(logits, chosen)

    @torch.compiler.disable  # how many tokens an expert gets is another number in every step
    def _mixed(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """x (N, D), weights and chosen (N, k) -> (N, D), expert by expert."""
        y = torch.zeros_like(x)
        for e, (gate, up, down) in enumerate(zip(self.gate_proj, self.up_proj, self.down_proj)):
            token, place = (chosen == e).nonzero(as_tuple=True)
            inside = x[token]
            out = F.linear(F.silu(F.linear(inside, gate)) * F.linear(inside, up), down)
            y = y.index_add(0, token, (out * weights[token, place, None]).to(y.dtype))
        return y


def balance(routing: Routing, real: Tensor) -> Tensor:
    """How unevenly each row's tokens are spread over the experts: (B,), 1 if evenly, at most E / k.

    E / k * sum over experts of (share of choices) * (mean probability), over the `real` (B, T) tokens of a
    row: the load-balancing loss of Fedus et al. (2021, eq. 4) by row, as DeepSeek-V3 (2024, eq. 17) takes it.
    A row is the same in every layout of ranks and micro-batches, so its mean over the global batch is exact.
    """
    experts = routing.logits.shape[-1]
    n = real.sum(1, keepdim=True).clamp(min=1).float()
    picked = F.one_hot(routing.chosen, experts).sum(2).float()  # (B, T, E)
    share = (picked * real[..., None]).sum(1) / n
    probability = (routing.logits.softmax(-1) * real[..., None]).sum(1) / n
    return experts / routing.chosen.shape[-1] * (share * probability).sum(-1)


def router_z(routing: Routing, real: Tensor) -> Tensor:
    """The squared log partition function of each `real` token, summed (Zoph et al. 2022, eq. 5)."""
    return (routing.logits.logsumexp(-1).square() * real).sum()


def load(routing: Routing, real: Tensor) -> Tensor:
    """How many choices fell on each expert: (E,) float."""
    experts = routing.logits.shape[-1]
    return (F.one_hot(routing.chosen, experts).sum(2) * real[..., None]).sum((0, 1)).float()
