"""A mixture of experts in place of a feed-forward layer: each token goes through `experts_per_token` of them.

    x ─► router ─► softmax over all experts ─► the best k, their weights made to sum to 1 ─► sum of k SwiGLUs

As in Mixtral (Jiang et al. 2024, section 2.1). No token is dropped and no capacity is fixed.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from llmkit.models.crossentropy import as_autocast


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

    def _mixed(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """x (N, D), weights and chosen (N, k) -> (N, D).

        Tokens are brought into the order of their experts, whose products are then one call each
        (Gale et al. 2022): no shape depends on how many tokens an expert gets.
        """
        (n, k), every = chosen.shape, torch.arange(len(self.gate_proj), device=x.device)
        order = chosen.flatten().argsort(stable=True)
        ends = torch.searchsorted(chosen.flatten()[order], every, right=True).int()
        inside = as_autocast(x)[order // k]
        gate, up, down = (as_autocast(w).mT for w in (self.gate_proj, self.up_proj, self.down_proj))
        out = grouped(F.silu(grouped(inside, gate, ends)) * grouped(inside, up, ends), down, ends)
        return (out[order.argsort()].view(n, k, -1) * weights[..., None]).sum(1)


def grouped(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """x (M, D), matrices (E, D, I) -> (M, I): rows up to ends[0] times the first matrix, and so on.

    torch's kernel is for bf16; for other numbers, one product after the other.
    """
    if x.dtype == torch.bfloat16 and not isinstance(x, FakeTensor):
        return F.grouped_mm(x, matrices, offs=ends)
    return _one_by_one(x, matrices, ends)


@torch.compiler.disable  # how many rows an expert gets is another number in every step
def _one_by_one(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """`grouped`, for which the host looks at `ends`. A plan's tensors have none: all experts get alike."""
    parts = x.tensor_split(len(matrices) if isinstance(x, FakeTensor) else ends[:-1].tolist())
    return torch.cat([part @ matrix for part, matrix in zip(parts, matrices, strict=True)])


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
