"""The blocks that every text model is made of, and how their parameters are initialised.

    x ─► norm ─► attention(turn, mask) ─► + ─► norm ─► SwiGLU ─► +      pre-norm, as in Llama (Touvron 2023)

Letters: B rows, T positions, S positions that can be attended to, D model width, H heads, G key/value heads,
K head width. A *segment* is a document in a packed row: `segments` (B, T) holds 1, 2, ... per document and 0
for padding. Parameter names and arithmetic are those of Hugging Face's LlamaModel, so that export renames
nothing but a prefix.
"""

import hashlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root mean square norm with a learned scale (Zhang & Sennrich 2019, eq. 4), computed in fp32."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(x.dtype)


def positions(segments: Tensor) -> Tensor:
    """Distance of each token from the start of its document: (B, T) segments -> (B, T) int64.

    A run of padding (segment 0) counts from its own start, so left padding does not move the text behind it.
    """
    place = torch.arange(segments.shape[1], device=segments.device).expand(segments.shape)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return place - torch.where(starts, place, 0).cummax(1).values


def block_diagonal(segments: Tensor, queries: int | None = None, prefix: Tensor | None = None) -> Tensor:
    """Causal attention inside each document: (B, T) segments -> (B, 1, Q, T) bool, True where it is allowed.

    `queries`: only the last so many positions ask. `prefix` (B, T) bool: seen from all of their document.
    Padding attends to padding, so that no softmax is empty.
    """
    T = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    seen = torch.ones(T, T, dtype=torch.bool, device=segments.device).tril()
    if prefix is not None:
        seen = seen | prefix[:, None, :]
    return (same & seen)[:, None, T - (queries or T) :]


def flex_mask(segments: Tensor, prefix: Tensor | None = None):
    """The same rule as `block_diagonal`, as a FlexAttention BlockMask: other documents are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(b, h, q, k):
        seen = q >= k if prefix is None else (q >= k) | prefix[b, k]
        return seen & (segments[b, q] == segments[b, k])

    B, T = segments.shape
    return create_block_mask(allowed, B, None, T, T, device=segments.device)


def rope(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles (Su et al. 2021, eq. 34): (B, T) -> two (B, 1, T, K/2), fp32.

    Computed on the fly: a buffer would be left uninitialised by meta construction and would travel in
    checkpoints.
    """
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions[:, None, :, None].float() * (1.0 / theta**powers)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the halves of each head, (x1, x2), by `turn`: Hugging Face's layout, not the interleaved one."""
    cos, sin = turn
    x1, x2 = x.float().chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, turn, mask, past=None) -> Tensor:
        """x (B, T, D) -> (B, T, D).

        `turn`: the pair of `rope`. `mask`: None = causal; bool (B, 1, T, S), True = allowed; or a
        FlexAttention BlockMask. `past`: a `Past` that lends the keys and values of earlier positions and
        keeps those of `x`.
        """
        q, k, v = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, turn), rotate(k, turn)
        if past is not None:
            k, v = past.extend(k, v)
        return self.o_proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H*K) -> (B, H, T, K)"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


SHORT = 512
"""Up to this row length attention on a CPU is written out: torch's fused kernel takes three times as long."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask, bias: Tensor | None = None, scale: float | None = None):
    """Softmax attention: q (B, H, T, K), k and v (B, G, S, K) -> (B, H, T, K); `mask` as `Attention`'s.

    `bias` (1, H, T, S) is added to the scores; the mask is a tensor then. `scale` of the scores: None is
    K**-0.5.
    """
    grouped = q.shape[1] != k.shape[1]
    if mask is not None and not isinstance(mask, Tensor):
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped)
    if q.device.type == "cpu":
        if grouped:  # the CPU's kernels know no groups
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        if k.shape[2] <= SHORT:
            return _attend_short(q, k, v, mask, bias, scale)
        grouped = False
    causal = mask is None
    if bias is not None:
        mask = bias.to(q.dtype).masked_fill(~mask, -torch.inf)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _attend_short(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, scale) -> Tensor:
    """`attend` with all scores in memory (B, H, T, S)."""
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(2, 3)
    if bias is not None:
        scores = scores.float() + bias
    return scores.float().masked_fill(~mask, -torch.inf).softmax(-1).to(v.dtype) @ v


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, mlp_dim: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, mlp_dim, bias=False)
        self.up_proj = nn.Linear(width, mlp_dim, bias=False)
        self.down_proj = nn.Linear(mlp_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One pre-norm transformer layer; `settings` is any model's that has the fields read here."""

    def __init__(self, settings):
        super().__init__()
        s = settings
        self.self_attn = Attention(s.width, s.heads, s.kv_heads, s.head_dim)
        self.mlp = SwiGLU(s.width, s.mlp_dim)
        self.input_layernorm = RMSNorm(s.width, s.norm_eps)
        self.post_attention_layernorm = RMSNorm(s.width, s.norm_eps)
        self.dropout = s.dropout

    def forward(self, x: Tensor, turn, mask, past=None) -> Tensor:
        """x (B, T, D) -> (B, T, D); the other arguments are `Attention.forward`'s."""
        x = x + self._drop(self.self_attn(self.input_layernorm(x), turn, mask, past))
        return x + self._drop(self.mlp(self.post_attention_layernorm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


# ---- initialisation ----------------------------------------------------------------------------------------


def initialise(
    net: nn.Module, seed: int, device: torch.device | str | None = None, placed: Callable = lambda p: None
) -> nn.Module:
    """Give every parameter of `net` its initial value, a function of (seed, its name) alone; returns `net`.

    Parameters on the meta device are materialised one by one on `device` (default: the CPU). The draws are
    made on the CPU in fp32, so any device, rank and order of construction gets the same weights. `placed(p)`
    is called when `p` has its value and before the next one is made: ZeRO-3 splits it over the ranks there.
    """
    for name, p in list(net.named_parameters()):
        if p.is_meta:
            owner, _, leaf = name.rpartition(".")
            p = nn.Parameter(torch.empty_like(p, device=device or "cpu"), requires_grad=p.requires_grad)
            setattr(net.get_submodule(owner), leaf, p)
        net.init_param(name, p, draws(seed, name))
        placed(p)
    for module in net.modules():
        empty = {key: b for key, b in module.named_buffers(recurse=False) if b.is_meta}
        for key, buffer in empty.items():
            setattr(module, key, torch.empty_like(buffer, device=device or "cpu"))
        if empty:
            module.reset_running_stats()  # what torch's norms call it; every module with buffers has one
    return net


def draws(seed: int, name: str) -> torch.Generator:
    """The CPU generator from which parameter `name` of run `seed` is drawn."""
    digest = hashlib.blake2b(f"{seed}\x1finit\x1f{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@torch.no_grad()
def fill_normal(p: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill `p` from N(0, std), drawn in fp32 on the CPU."""
    p.copy_(torch.empty(p.shape, dtype=torch.float32, device="cpu").normal_(0.0, std, generator=generator))
