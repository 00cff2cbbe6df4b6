"""Cross-entropy of a linear layer that never holds the logits of all positions at once.

For N positions and a vocabulary V, plain code keeps N x V logits in fp32 and as many gradients: 8 GiB at N =
8,192 and V = 128k. Here the backward recomputes the logits chunk by chunk and sums the weight gradient in
fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of a position that has no target."""

PLAIN_LOGITS = 1 << 26
"""Up to so many logits (256 MiB in fp32) the plain path is taken: it is faster and compiles better."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    most: int = PLAIN_LOGITS,
    bias: Tensor | None = None,
    cap: float = 0.0,
) -> Tensor:
    """-log softmax(hidden @ weight.T + bias)[labels]: hidden (..., D), weight (V, D), labels (...), bias (V)
    or none -> (...) fp32.

    0 where the label is IGNORED. `most`: how many logits may exist at a time. `cap`: `soft_cap`'s.
    """
    h, y = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    if not torch.compiler.is_compiling() and sparse(y):
        at = (y != IGNORED).nonzero()[:, 0]
        nll = linear_cross_entropy(h[at], weight, y[at], most, bias, cap)
        return nll.new_zeros(len(y)).index_copy(0, at, nll).view(labels.shape)
    if h.shape[0] * weight.shape[0] <= most:
        logits = soft_cap(F.linear(h, weight, bias).float(), cap)
        nll = F.cross_entropy(logits, y, reduction="none", ignore_index=IGNORED)
    else:
        nll = _Chunked.apply(as_autocast(h), weight, y, max(1, most // weight.shape[0]), bias, cap)
    return nll.view(labels.shape)


def sparse(labels: Tensor) -> bool:
    """Whether so few positions have a label that a CPU's output layer should see those alone.

    In fine-tuning a third of them has one. A GPU would have to wait for the answer, and the fake tensors of
    a plan know none.
    """
    if labels.device.type != "cpu" or type(labels) is not Tensor:
        return False
    return int((labels != IGNORED).sum()) < 0.8 * labels.numel()


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """`x` squeezed smoothly into (-cap, cap) (Gemma 2, 2024, section 2); 0: as it is."""
    return cap * torch.tanh(x / cap) if cap else x


def as_autocast(x: Tensor) -> Tensor:
    """`x` in the dtype in which autocast would multiply it; a custom function does not see autocast."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class _Chunked(torch.autograd.Function):
    """Saves the log of the partition function per position; d logits = (softmax - onehot) * upstream."""

    @staticmethod
    def forward(ctx, h, weight, y, chunk, bias, cap):
        """h (N, D), weight (V, D), y (N), bias (V) -> nll (N) fp32; `chunk` positions at a time."""
        w = weight.to(h.dtype)
        nll, logz = h.new_empty(len(y), dtype=torch.float32), h.new_empty(len(y), dtype=torch.float32)
        for i in range(0, len(y), chunk):
            rows = slice(i, i + chunk)
            logits = soft_cap(_logits(h[rows], w, bias), cap)
            logz[rows] = logits.logsumexp(-1)
            nll[rows] = logz[rows] - logits.gather(1, y[rows].clamp(min=0)[:, None])[:, 0]
        ctx.save_for_backward(h, weight, y, logz, bias)
        ctx.chunk, ctx.cap = chunk, cap
        return nll.masked_fill_(y == IGNORED, 0.0)

    @staticmethod
    def backward(ctx, upstream):
        h, weight, y, logz, bias = ctx.saved_tensors
        w = weight.to(h.dtype)
        upstream = upstream.masked_fill(y == IGNORED, 0.0)
        dh = torch.empty_like(h)
        dw = torch.zeros(weight.shape, dtype=torch.float32, device=h.device)
        db = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=h.device)
        for i in range(0, len(y), ctx.chunk):
            rows = slice(i, i + ctx.chunk)
            logits = soft_cap(_logits(h[rows], w, bias), ctx.cap)
            d = (logits - logz[rows, None]).exp_()
            d.scatter_add_(1, y[rows].clamp(min=0)[:, None], torch.full_like(d[:, :1], -1.0))
            d = d * upstream[rows, None]
            if ctx.cap:
                d = d * (1 - (logits / ctx.cap).square())
            if db is not None:
                db += d.sum(0)
            d = d.to(h.dtype)
            dh[rows] = d @ w
            dw += (d.T @ h[rows]).float()
        return dh, dw.to(weight.dtype), None, None, None if db is None else db.to(bias.dtype), None


def _logits(h: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """(N, D), (V, D), (V) -> (N, V) fp32"""
    logits = (h @ w.T).float()
    return logits if bias is None else logits + bias
