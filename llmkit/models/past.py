"""The key/value cache of decoding: what each layer has computed for the positions that were already read."""

import torch
from torch import Tensor


class Past:
    """Keys, values and segments of up to `size` positions of `rows` rows.

    Buffers are made on first use in the dtype of the keys, so one cache serves fp32, bf16 and autocast.
    """

    def __init__(self, layers: int, rows: int, size: int, kv_heads: int, head_dim: int, device):
        self.segments = torch.zeros(rows, size, dtype=torch.int32, device=device)
        self.length = 0
        self.layers = [_Layer(self, (rows, kv_heads, size, head_dim)) for _ in range(layers)]
        self.source_segments: Tensor | None = None
        self.crosses: list[tuple[Tensor, Tensor]] = []
        """Of an encoder-decoder: the segments (B, R) of its source, each layer's keys and values of it."""

    def append(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        """Make room for `tokens` (B, T); -> the segments (B, S) of all positions so far, these included."""
        end = self.length + tokens.shape[1]
        assert end <= self.segments.shape[1], f"the cache holds {self.segments.shape[1]} positions, not {end}"
        self.segments[:, self.length : end] = 1 if segments is None else segments
        self.length = end
        return self.segments[:, :end]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, in this order, a row as often as it is named: what a beam search does."""
        self.segments = self.segments[rows]
        if self.source_segments is not None:
            self.source_segments = self.source_segments[rows]
        self.crosses = [(k[rows], v[rows]) for k, v in self.crosses]
        for layer in self.layers:
            layer.keep(rows)


class _Layer:
    """One layer's part: (B, G, size, K) of keys and of values."""

    def __init__(self, past: Past, shape: tuple[int, int, int, int]):
        self.past, self.shape = past, shape
        self.keys = self.values = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store `k` and `v` (B, G, T, K) of the newest positions; -> those of all positions (B, G, S, K)."""
        if self.keys is None:
            self.keys, self.values = k.new_empty(self.shape), v.new_empty(self.shape)
        end = self.past.length
        start = end - k.shape[2]
        self.keys[:, :, start:end], self.values[:, :, start:end] = k, v
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        self.shape = (len(rows), *self.shape[1:])
        if self.keys is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]
