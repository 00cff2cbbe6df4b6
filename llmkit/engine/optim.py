"""AdamW with a tail, and which parameters decay.

What a GAN or an averaged model does to weights after a step (clamp, moving average) is elementwise, so it
belongs to the optimiser: there it runs on whatever flat shard a backend hands over, only on steps that are
applied, and its state is saved with the moments.
"""

import torch
from torch import nn

from llmkit.engine.recipe import Optim


class AdamW(torch.optim.AdamW):
    """torch's AdamW, then `clamp` to +-clamp and an exponential moving average in `state[p]["ema"]`.

    `found_inf` (0-d float tensor, 1 = skip) makes a step do nothing, without the host having to know.
    """

    def __init__(self, params, clamp: float = 0.0, ema: float = 0.0, **kwargs):
        super().__init__(params, **kwargs)
        self.clamp, self.ema = clamp, ema
        self.found_inf: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure=None):
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        first = {p: p.detach().clone() for p in params if self.ema and "ema" not in self.state.get(p, {})}
        super().step(closure)
        for p in params:
            if self.clamp:
                p.clamp_(-self.clamp, self.clamp)
            if self.ema:
                average = self.state[p].setdefault("ema", first.get(p))
                average.lerp_(p, self._weight(p))
        return None

    def _weight(self, p: torch.Tensor) -> torch.Tensor | float:
        if self.found_inf is None:
            return 1 - self.ema
        return ((1 - self.ema) * (1 - self.found_inf)).to(p.dtype)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The elementwise state that a checkpoint carries beside the weights."""
        return ("exp_avg", "exp_avg_sq", "ema") if self.ema else ("exp_avg", "exp_avg_sq")


def decays(name: str, p: nn.Parameter) -> bool:
    """Weight decay is for matrices; not for norms, biases and embeddings."""
    shape = getattr(
        p, "ds_shape", p.shape
    )  # ZeRO-3 leaves a split parameter one dimension and keeps its shape here
    return len(shape) > 1 and "embed" not in name


def build(net: nn.Module, settings: Optim) -> AdamW:
    """The optimiser of one network: parameters grouped by decay and by the net's `lr_scale`, the fused kernel.

    A net may have a method `lr_scale(name) -> float`, which the learning rate of that parameter is multiplied
    by (muP); each group keeps it as `lr_scale`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in net.named_parameters():
        if p.requires_grad:
            decay = settings.weight_decay if decays(name, p) else 0.0
            groups.setdefault((-decay, lr_scale(net, name)), []).append(p)
    return AdamW(
        [
            {"params": groups[key], "weight_decay": -key[0], "lr": settings.lr * key[1], "lr_scale": key[1]}
            for key in sorted(groups)
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        clamp=settings.clamp,
        ema=settings.ema,
        fused=True,
    )


def lr_scale(net: nn.Module, name: str) -> float:
    """What the net multiplies the learning rate of parameter `name` by: 1 for a net that does not say."""
    return net.lr_scale(name) if hasattr(net, "lr_scale") else 1.0
