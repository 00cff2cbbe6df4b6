"""The update rules: what one step does to parameters, given their gradients and their state.

    rule        state, per weight         a step depends on
    adamw       exp_avg, exp_avg_sq       the element alone: any flat shard will do
    lion        exp_avg                   the element alone
    sgd         momentum_buffer           the element alone
    adamw_rms   exp_avg, exp_avg_sq       the root mean square of the parameter
    muon        momentum_buffer           the whole matrix
    adafactor   row and column means      the whole matrix, in its shape: not on ZeRO's shards

A rule sees tensors `p` that may hold pieces of several parameters (ZeRO's flat shards). Where it needs more
than elements it asks a `Cut` which pieces those are, and for sums over ranks.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim._adafactor import adafactor as torch_adafactor
from torch.optim.sgd import sgd as torch_sgd

State = dict[str, Tensor]
Group = dict[str, Any]


class Part(NamedTuple):
    """`numel` elements of a parameter of `shape`, from its `start` on, lie in a tensor from `offset` on."""

    shape: torch.Size
    start: int
    offset: int
    numel: int


class Cut:
    """How parameters lie in what is stepped: here, each by itself and whole. The ZeRO backend has another."""

    def parts(self, p: Tensor) -> list[Part]:
        """The parameters in `p`, the same ones in the same order on every rank; `numel` may be 0."""
        return [Part(p.shape, 0, 0, p.numel())]

    def total(self, x: Tensor) -> Tensor:
        """`x` summed over the ranks that share the parameters."""
        return x


class Rule(NamedTuple):
    """`fresh(p)` is the state before the first step; `update` takes one step of all `params` of a group."""

    fresh: Callable[[Tensor], State]
    update: Callable[[Group, list[Tensor], list[State], Cut, Tensor | None], None]
    on_device: bool = False
    """It looks at `found_inf` by itself, on the device, and keeps its step count there."""


def _zeros(*kinds: str) -> Callable[[Tensor], State]:
    return lambda p: {kind: torch.zeros_like(p) for kind in kinds}


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params]


def _count(states: list[State]) -> None:
    for state in states:
        state["step"] += 1


def adamw(
    group: Group, params: list[Tensor], states: list[State], cut: Cut, found_inf: Tensor | None
) -> None:
    """Loshchilov & Hutter 2019: torch's fused kernel, which skips by itself where `found_inf` is 1."""
    firsts, seconds, steps = ([s[kind] for s in states] for kind in ("exp_avg", "exp_avg_sq", "step"))
    beta1, beta2 = group["betas"]
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        params, _grads(params), firsts, seconds, [], steps, found_inf=found_inf, amsgrad=False,
        beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
        maximize=False,
    )  # fmt: skip
    if found_inf is not None:  # a step that is skipped does not count
        torch._foreach_sub_(steps, [found_inf] * len(steps))


def lion(group: Group, params: list[Tensor], states: list[State], cut: Cut, found_inf: Tensor | None) -> None:
    """Chen et al. 2023, algorithm 2."""
    beta1, beta2 = group["betas"]
    moments, grads = [s["exp_avg"] for s in states], _grads(params)
    _count(states)
    updates = torch._foreach_lerp(moments, grads, 1 - beta1)
    torch._foreach_sign_(updates)
    torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_add_(params, updates, alpha=-group["lr"])
    torch._foreach_lerp_(moments, grads, 1 - beta2)


def sgd(group: Group, params: list[Tensor], states: list[State], cut: Cut, found_inf: Tensor | None) -> None:
    """torch's, with heavy-ball momentum; weight decay is added to the gradient."""
    _count(states)
    torch_sgd(
        params, _grads(params), [s["momentum_buffer"] for s in states], weight_decay=group["weight_decay"],
        momentum=group["momentum"], lr=group["lr"], dampening=0.0, nesterov=False, maximize=False,
    )  # fmt: skip


def adamw_rms(group: Group, params: list[Tensor], states: list[State], cut: Cut, found_inf) -> None:
    """AdamW whose step is scaled by the parameter's root mean square, at least 1e-3 (Nawrot 2023, nanoT5)."""
    beta1, beta2 = group["betas"]
    _count(states)
    for p, state in zip(params, states, strict=True):
        first, second, grad, step = state["exp_avg"], state["exp_avg_sq"], p.grad, float(state["step"])
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        update = (first / second.sqrt().add_(group["eps"])).view(-1)
        parts = cut.parts(p)
        sizes = rms(p, parts, cut)
        for part, size in zip(parts, sizes, strict=True):
            update.narrow(0, part.offset, part.numel).mul_(size.clamp(min=1e-3))
        pace = group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        p.add_(update.view_as(p), alpha=-pace)
        p.mul_(1 - group["lr"] * group["weight_decay"])


def rms(p: Tensor, parts: list[Part], cut: Cut) -> Tensor:
    """The root mean square of each parameter that has a part in `p`, over all its elements."""
    flat = p.view(-1)
    squares = torch.stack([flat.narrow(0, part.offset, part.numel).square().sum() for part in parts])
    counts = torch.tensor([part.shape.numel() for part in parts]).to(p.device, non_blocking=True)
    return (cut.total(squares) / counts).sqrt()


def muon(group: Group, params: list[Tensor], states: list[State], cut: Cut, found_inf: Tensor | None) -> None:
    """Jordan et al. 2024, with Nesterov momentum; steps as large as AdamW's (Liu et al. 2025, eq. 4).

    A matrix that is cut is put together on every rank, orthogonalised there, and each rank keeps its own
    piece: the same step as on one process, and what clipping did to the gradient happened before.
    """
    keep = group["momentum"]
    _count(states)
    for p, state in zip(params, states, strict=True):
        buffer = state["momentum_buffer"]
        buffer.lerp_(p.grad, 1 - keep)
        update, flat = p.grad.lerp(buffer, keep).view(-1), p.view(-1)
        flat.mul_(1 - group["lr"] * group["weight_decay"])
        for shape, start, offset, numel in cut.parts(p):
            matrix = update.new_zeros(shape.numel())
            matrix.narrow(0, start, numel).copy_(update.narrow(0, offset, numel))
            direction = orthogonal(cut.total(matrix).view(shape)).reshape(-1)
            size = 0.2 * math.sqrt(max(shape[-2:]))
            flat.narrow(0, offset, numel).add_(direction.narrow(0, start, numel), alpha=-group["lr"] * size)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients with the largest slope at 0 (Jordan et al. 2024): singular values end within 0.7 to 1.2."""


def orthogonal(matrices: Tensor) -> Tensor:
    """U V' of each matrix U S V' in (..., m, n), about: five Newton-Schulz steps.

    In bf16 on an accelerator, as torch.optim.Muon; in fp32 on a CPU, where bf16 is emulated or not needed.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(torch.float32 if matrices.device.type == "cpu" else torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def adafactor(group: Group, params: list[Tensor], states: list[State], cut: Cut, found_inf) -> None:
    """Shazeer & Stern 2018, as torch has it."""
    rows, columns, variances = ([s.get(kind) for s in states] for kind in ("row_var", "col_var", "variance"))
    torch_adafactor(
        params, _grads(params), rows, columns, variances, [s["step"] for s in states], d=1.0, lr=group["lr"],
        beta2_decay=-0.8, weight_decay=group["weight_decay"], eps1=None, eps2=1e-3, maximize=False,
        foreach=False,
    )  # fmt: skip


def _factors(p: Tensor) -> State:
    if p.ndim < 2:
        return {"variance": torch.zeros_like(p)}
    return {"row_var": torch.zeros_like(p[..., :1]), "col_var": torch.zeros_like(p[..., :1, :])}


RULES = {
    "adamw": Rule(_zeros("exp_avg", "exp_avg_sq"), adamw, on_device=True),
    "lion": Rule(_zeros("exp_avg"), lion),
    "sgd": Rule(_zeros("momentum_buffer"), sgd),
    "adamw_rms": Rule(_zeros("exp_avg", "exp_avg_sq"), adamw_rms),
    "muon": Rule(_zeros("momentum_buffer"), muon),
    "adafactor": Rule(_factors, adafactor),
}
