"""The layer of encoders and encoder-decoders, in all their dialects.

    pre-norm    x + sublayer(norm(x))        ModernBERT, T5
    post-norm   norm(x + sublayer(x))        the original Transformer, BERT, BART

    sublayers   attention to itself ─► attention to `memory` (decoders of two-sided models) ─► MLP

Letters as in blocks.py; S positions of the memory, of which a decoder's segments see their own (masks.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.models.blocks import attend, rotate

Pair = tuple[Tensor, Tensor]
"""Keys and values, each (B, H, S, K)."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True)
class Shape:
    """What one layer is made of."""

    width: int
    heads: int
    head_dim: int
    mlp_dim: int
    norm: Callable[[], nn.Module]
    pre_norm: bool
    bias: bool
    activation: str
    gated: bool
    scale: float | None = None
    """Of the attention scores; None = K**-0.5."""
    dropout: float = 0.0
    cross: bool = False


class MultiHead(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) to itself or to another side."""

    def __init__(self, s: Shape):
        super().__init__()
        self.head_dim, self.scale = s.head_dim, s.scale
        inner = s.heads * s.head_dim
        self.q_proj = nn.Linear(s.width, inner, bias=s.bias)
        self.k_proj = nn.Linear(s.width, inner, bias=s.bias)
        self.v_proj = nn.Linear(s.width, inner, bias=s.bias)
        self.o_proj = nn.Linear(inner, s.width, bias=s.bias)

    def pair(self, memory: Tensor) -> Pair:
        """The keys and values of `memory` (B, S, D)."""
        return self._heads(self.k_proj(memory)), self._heads(self.v_proj(memory))

    def forward(self, x: Tensor, pair: Pair, mask, bias: Tensor | None = None, turn=None) -> Tensor:
        """x (B, T, D) -> (B, T, D). `mask` and `bias`: `attend`'s; `turn`: rotates queries by rope's pair."""
        q = self._heads(self.q_proj(x))
        q = q if turn is None else rotate(q, turn)
        return self.o_proj(attend(q, *pair, mask, bias, self.scale).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H*K) -> (B, H, T, K)"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Mlp(nn.Module):
    """Feed-forward layer, plain or gated (Shazeer 2020): down(act(gate(x)) * up(x)) or down(act(up(x)))."""

    def __init__(self, s: Shape):
        super().__init__()
        self.act = ACTIVATIONS[s.activation]
        self.gate_proj = nn.Linear(s.width, s.mlp_dim, bias=s.bias) if s.gated else None
        self.up_proj = nn.Linear(s.width, s.mlp_dim, bias=s.bias)
        self.down_proj = nn.Linear(s.mlp_dim, s.width, bias=s.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.act(self.up_proj(x)))
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One layer of `Shape` `s`. `attn_norm=False` leaves out the first norm (ModernBERT's first layer)."""

    def __init__(self, s: Shape, attn_norm: bool = True):
        super().__init__()
        self.pre_norm, self.dropout = s.pre_norm, s.dropout
        self.attn_norm = s.norm() if attn_norm else nn.Identity()
        self.self_attn = MultiHead(s)
        self.cross_norm = s.norm() if s.cross else None
        self.cross_attn = MultiHead(s) if s.cross else None
        self.mlp_norm = s.norm()
        self.mlp = Mlp(s)

    def forward(
        self,
        x: Tensor,
        mask,
        bias=None,
        turn=None,
        memory: Tensor | Pair | None = None,
        cross_mask=None,
        past=None,
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D).

        `mask`, `bias`, `turn`: of the attention to itself. `memory`: the other side (B, S, D), or its keys
        and values. `past`: a layer of a `Past`, which lends the keys and values of earlier positions.
        """

        def itself(y: Tensor) -> Tensor:
            k, v = self.self_attn.pair(y)
            k = k if turn is None else rotate(k, turn)
            pair = (k, v) if past is None else past.extend(k, v)
            return self.self_attn(y, pair, mask, bias, turn)

        def across(y: Tensor) -> Tensor:
            pair = memory if isinstance(memory, tuple) else self.cross_attn.pair(memory)
            return self.cross_attn(y, pair, cross_mask)

        x = self._add(x, self.attn_norm, itself)
        if self.cross_attn is not None:
            x = self._add(x, self.cross_norm, across)
        return self._add(x, self.mlp_norm, self.mlp)

    def _add(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self._drop(sublayer(norm(x)))
        return norm(x + self._drop(sublayer(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def wider(settings) -> float:
    """How much wider a net is than the one that its settings were tuned on; 1 without muP."""
    return settings.width / settings.mup_width if settings.mup_width else 1.0


def grows(name: str) -> bool:
    """Whether a parameter is a matrix whose both sides grow with the width: what muP is about."""
    return name.endswith("_proj.weight") or name == "lm_head.dense.weight"


def at_labels(hidden: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor], none: int) -> Tensor:
    """`loss(hidden, labels)` -> (n,) of the positions with a label, put back in place: (B, T), 0 elsewhere.

    An encoder is asked about 15 to 30 % of its positions: the output layer then runs on those alone. How many
    they are is a question to the device, the only one in a step.
    """
    at = (labels != none).flatten().nonzero()[:, 0]
    nll = loss(hidden.flatten(0, 1)[at], labels.flatten()[at])
    return (
        torch.zeros(labels.numel(), dtype=nll.dtype, device=nll.device)
        .index_put((at,), nll)
        .view(labels.shape)
    )
