"""Who may attend to whom in packed rows, in two directions and across two sides, dense or for FlexAttention.

    source    a a a b b .          within  a sees a, b sees b; a local layer at most `reach` tokens away
    target    a a b b b b          across  target a sees source a alone

A rule is stated once, as a function of indices. `dense` evaluates it for every pair; `blockwise` hands it to
FlexAttention, which skips the blocks that it empties. A document is contiguous, so distances inside a row are
distances inside the document.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[..., Tensor]
"""(row, head, query, key) -> allowed; indices that broadcast."""


def within(
    segments: Tensor,
    queries: int,
    *,
    causal: bool = False,
    reach: int | None = None,
    prefix: Tensor | None = None,
    stems: Tensor | None = None,
) -> Rule:
    """Each document to itself: `segments` (B, S), of which the last `queries` positions ask.

    `causal`: only what is not behind the query, or is marked in `prefix` (B, S); `reach`: at most so many
    positions to each side. Padding sees padding, so that no softmax is empty. `stems` (B, S): the number of
    another segment that a position sees too, as the beginning of its own; 0: none.
    """
    ahead = segments.shape[1] - queries

    def allowed(b, h, q, k):
        place = q + ahead
        seen = segments[b, place] == segments[b, k]
        if stems is not None:
            seen = seen | ((stems[b, place] == segments[b, k]) & (segments[b, k] > 0))
        if causal:
            seen = seen & ((place >= k) if prefix is None else (place >= k) | prefix[b, k])
        return seen if reach is None else seen & ((place - k).abs() <= reach)

    return allowed


def across(queries: Tensor, keys: Tensor) -> Rule:
    """Each document to its other side: `queries` (B, T) to `keys` (B, S). Padding sees all."""

    def allowed(b, h, q, k):
        return (queries[b, q] == keys[b, k]) | (queries[b, q] == 0)

    return allowed


def in_blocks(device: torch.device, head_dim: int) -> bool:
    """Whether FlexAttention has kernels there for heads so wide: on a GPU, in tiles of at least 16."""
    return device.type == "cuda" and head_dim >= 16


def dense(allowed: Rule, rows: int, queries: int, keys: int, device) -> Tensor:
    """`allowed` for every pair: (B, 1, T, S) bool."""
    b, q, k = (torch.arange(n, device=device) for n in (rows, queries, keys))
    return allowed(b[:, None, None, None], 0, q[:, None], k)


def blockwise(allowed: Rule, rows: int, queries: int, keys: int, device):
    """`allowed` as a FlexAttention BlockMask, in which blocks without a pair are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(allowed, rows, None, queries, keys, device=device)
