"""The blocks that every text model is made of, and how their parameters are initialised.

    x ─► norm ─► attention(turn, mask) ─► + ─► norm ─► SwiGLU ─► +      pre-norm, as in Llama (Touvron 2023)

Letters: B rows, T positions, S positions that can be attended to, D model width, H heads, G key/value heads,
K head width. A *segment* is a document in a packed row: `segments` (B, T) holds 1, 2, ... per document and 0
for padding. Parameter names and arithmetic are those of Hugging Face's LlamaModel, so that export renames
nothing but a prefix.
"""

import functools
import hashlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.models.crossentropy import soft_cap
from llmkit.models.experts import Experts, Routing
from llmkit.models.rotary import Scaling, frequencies


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


def behind(segments: Tensor, stems: Tensor) -> Tensor:
    """How many positions of its stem lie before each position: both (B, T) -> (B, T) int64; see `within`."""
    rows, segments, stems = len(segments), segments.long(), stems.long()
    sizes = segments.new_zeros(rows, int(segments.shape[1]) + 1).scatter_add(1, segments, segments.sign())
    return sizes.gather(1, stems)


def rope(
    positions: Tensor, head_dim: int, theta: float, scaling: Scaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles (Su et al. 2021, eq. 34): (B, T) -> two (B, 1, T, K/2), fp32.

    Computed on the fly: a buffer would be left uninitialised by meta construction and would travel in
    checkpoints.
    """
    each = frequencies(head_dim, theta, scaling, positions.device)
    angles = positions[:, None, :, None].float() * each
    heat = scaling.heat if scaling else 1.0
    return angles.cos() * heat, angles.sin() * heat


def sinusoids(place: Tensor, width: int) -> Tensor:
    """Vaswani et al. (2017), section 3.5, sines before cosines as in their code: (B, T) -> (B, T, D)."""
    powers = torch.arange(0, width, 2, dtype=torch.float32, device=place.device) / width
    angles = place[..., None].float() / 10000.0**powers
    return torch.cat([angles.sin(), angles.cos()], -1)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the halves of each head, (x1, x2), by `turn`: Hugging Face's layout, not the interleaved one."""
    cos, sin = turn
    x1, x2 = x.float().chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023), with the options of `decoder.Settings`."""

    def __init__(self, settings):
        super().__init__()
        s = settings
        self.head_dim, self.cap = s.head_dim, s.attention_cap
        self.q_proj = nn.Linear(s.width, s.heads * s.head_dim, bias=s.bias)
        self.k_proj = nn.Linear(s.width, s.kv_heads * s.head_dim, bias=s.bias)
        self.v_proj = nn.Linear(s.width, s.kv_heads * s.head_dim, bias=s.bias)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.width, bias=s.bias)
        self.q_norm = RMSNorm(s.head_dim, s.norm_eps) if s.qk_norm else None
        self.k_norm = RMSNorm(s.head_dim, s.norm_eps) if s.qk_norm else None

    def forward(self, x: Tensor, turn, mask, past=None) -> Tensor:
        """x (B, T, D) -> (B, T, D).

        `turn`: the pair of `rope`, or None. `mask`: None = causal; bool (B, 1, T, S), True = allowed; or a
        FlexAttention BlockMask. `past`: a `Past` that lends the keys and values of earlier positions and
        keeps those of `x`.
        """
        q, k, v = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None:  # on each head, before it is turned: Qwen3
            q, k = self.q_norm(q), self.k_norm(k)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        if past is not None:
            k, v = past.extend(k, v)
        return self.o_proj(attend(q, k, v, mask, cap=self.cap).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H*K) -> (B, H, T, K)"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def flex() -> Callable:
    """FlexAttention, compiled by itself where what calls it is not: uncompiled it holds all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compiled(flex_attention)


@functools.cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


SHORT = 512
"""Up to this row length attention on a CPU is written out: torch's fused kernel takes three times as long."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask,
    bias: Tensor | None = None,
    scale: float | None = None,
    cap: float = 0.0,
):
    """Softmax attention: q (B, H, T, K), k and v (B, G, S, K) -> (B, H, T, K); `mask` as `Attention`'s.

    `bias` (1, H, T, S) is added to the scores; the mask is a tensor then. `scale` of the scores: None is
    K**-0.5. `cap`: `soft_cap`'s, of the scores.
    """
    grouped = q.shape[1] != k.shape[1]
    if grouped and q.shape[2] == 1 and isinstance(mask, Tensor):  # the heads of a group, as positions
        q = q.unflatten(1, (k.shape[1], -1))[:, :, :, 0]
        return attend(q, k, v, mask, scale=scale, cap=cap).flatten(1, 2)[:, :, None]
    if mask is not None and not isinstance(mask, Tensor):
        capped = (lambda score, b, h, t, s: soft_cap(score, cap)) if cap else None
        return flex()(q, k, v, capped, block_mask=mask, scale=scale, enable_gqa=grouped)
    if grouped and (mask is not None or cap or q.device.type == "cpu"):  # only flash attention knows groups
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        grouped = False
    if cap or (q.device.type == "cpu" and k.shape[2] <= SHORT):  # fused kernels know no cap
        return _attend_short(q, k, v, mask, bias, scale, cap)
    causal = mask is None
    if bias is not None:
        mask = bias.to(q.dtype).masked_fill(~mask, -torch.inf)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _attend_short(q: Tensor, k: Tensor, v: Tensor, mask, bias, scale, cap: float) -> Tensor:
    """`attend` with all scores in memory (B, H, T, S)."""
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(2, 3)
    if bias is not None:
        scores = scores.float() + bias
    return soft_cap(scores.float(), cap).masked_fill(~mask, -torch.inf).softmax(-1).to(v.dtype) @ v


def norm(s) -> nn.Module:
    """The norm that a decoder's settings ask for."""
    return RMSNorm(s.width, s.norm_eps) if s.norm == "rms" else nn.LayerNorm(s.width, s.norm_eps)


def feed_forward(s) -> nn.Module:
    """The feed-forward layer that a decoder's settings ask for."""
    if s.experts:
        return Experts(s.width, s.mlp_dim, s.experts, s.experts_per_token)
    return SwiGLU(s.width, s.mlp_dim, s.bias) if s.mlp == "swiglu" else Gelu(s.width, s.mlp_dim, s.bias)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, mlp_dim: int, bias: bool = False):
        super().__init__()
        self.gate_proj = nn.Linear(width, mlp_dim, bias=bias)
        self.up_proj = nn.Linear(width, mlp_dim, bias=bias)
        self.down_proj = nn.Linear(mlp_dim, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gelu(nn.Module):
    """Feed-forward layer with a GELU in its tanh form (Hendrycks & Gimpel 2016), as in GPT-2."""

    def __init__(self, width: int, mlp_dim: int, bias: bool):
        super().__init__()
        self.up_proj = nn.Linear(width, mlp_dim, bias=bias)
        self.down_proj = nn.Linear(mlp_dim, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


class Block(nn.Module):
    """One pre-norm transformer layer; `settings` are a decoder's."""

    def __init__(self, settings):
        super().__init__()
        s = settings
        self.self_attn = Attention(s)
        self.mlp = feed_forward(s)
        self.input_layernorm = norm(s)
        self.post_attention_layernorm = norm(s)
        self.dropout = s.dropout

    def forward(self, x: Tensor, turn, mask, past=None) -> tuple[Tensor, Routing | None]:
        """x (B, T, D) -> (x (B, T, D), how it was routed if there are experts).

        The other arguments are `Attention.forward`'s.
        """
        x = x + self._drop(self.self_attn(self.input_layernorm(x), turn, mask, past))
        y = self.mlp(self.post_attention_layernorm(x))
        y, routing = y if isinstance(y, tuple) else (y, None)
        return x + self._drop(y), routing

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
