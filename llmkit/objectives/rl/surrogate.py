"""The clipped losses of policy gradients, and how the losses of tokens become one number.

ratio = policy(token) / policy at the rollout(token); A = advantage; per token, to be minimised.
"""

import torch
from torch import Tensor

AGGREGATIONS = ("grpo", "bnpo", "dapo", "dr_grpo", "luspo")


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float = 0.0) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7).

    `high` > `low` is DAPO's clip-higher (Yu et al. 2025, eq. 10). `dual` > 1: where A < 0 the loss is at most
    -dual A (Ye et al. 2020, eq. 5), so that a token that has become likely does not blow it up; 0 = no limit.
    """
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    if dual:
        loss = torch.where(advantage < 0, torch.min(loss, -dual * advantage), loss)
    return loss


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half of the squared error per token; of the worse of value and clipped value where `clip` > 0."""
    error = (values - returns).square()
    if clip:
        near = old + (values - old).clamp(-clip, clip)
        error = torch.max(error, (near - returns).square())
    return error / 2


def aggregate(kind: str, loss: Tensor, mask: Tensor, total: dict[str, Tensor], longest: int) -> Tensor:
    """This micro-batch's share of the loss: `loss`, `mask` (B, T), `total` the update's tokens and replies.

    grpo: mean over replies of their token means; dapo: mean over all tokens (bnpo too: TRL's takes a device's
    micro-batch for all, which would make the loss a matter of layout); dr_grpo: sum over replies x `longest`;
    luspo: mean over replies of their sums.
    """
    sums = (loss * mask).sum(1)
    if kind in ("dapo", "bnpo"):
        return sums.sum() / total["tokens"]
    if kind == "grpo":
        sums = sums / mask.sum(1).clamp(min=1)
    return sums.sum() / (total["replies"] * (longest if kind == "dr_grpo" else 1))
