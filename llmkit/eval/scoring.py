"""Numbers that a net gives to whole replies: their log-probability, or a reward model's score.

    prompt + reply ─► rendered as for training ─► tokens, labels (the reply and its end marker only)

Replies are sorted by length and padded into batches of BATCH_TOKENS; results come back in the order given.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from llmkit.data.pack import IGNORED
from llmkit.data.sets.pairs import render_reply
from llmkit.errors import DataError

BATCH_TOKENS = 8192
"""Padded tokens in one forward: enough to keep a CPU's cores busy, small enough for any GPU."""


class Reply(NamedTuple):
    """A conversation as the data sets render it: (L,) tokens and (L,) labels, shifted, -100 = none."""

    tokens: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> int:
        """How many tokens are labelled."""
        return int((self.labels != IGNORED).sum())


def pairs(opened: Any, records: list[dict]) -> tuple[list[dict], list[Reply], list[Reply]]:
    """-> (records, chosen, rejected): those pairs that fit the net's context with either reply.

    A pair whose replies have the same tokens stays: no rule can tell them apart, and it counts as a tie.
    """
    kept = []
    for record in records:
        both = [
            Reply(*render_reply(opened.tokenizer, record["prompt"], record[key]))
            for key in ("chosen", "rejected")
        ]
        if fits(opened, *both):
            kept.append((record, *both))
    if not kept:
        raise DataError(
            f"data: no pair fits the context of {opened.net.settings.context} tokens; use shorter ones"
        )
    records, chosen, rejected = map(list, zip(*kept, strict=True))
    return records, chosen, rejected


def fits(opened: Any, *replies: Reply) -> bool:
    """All of them are within the net's context, and have something to score."""
    return all(reply.size and len(reply.tokens) <= opened.net.settings.context for reply in replies)


@torch.inference_mode()
def log_probs(net: torch.nn.Module, replies: list[Reply]) -> tuple[np.ndarray, np.ndarray]:
    """-> (sum of log p over each reply's labels in nats, number of labels), both (N,) float64."""

    def sums(rows, tokens, segments):
        labels = _pad([row.labels for row in rows], IGNORED).to(tokens.device)
        return -net.nll(tokens, segments, labels).double().sum(1)

    return _in_batches(net, replies, sums), np.array([reply.size for reply in replies], dtype=np.float64)


@torch.inference_mode()
def scores(net: torch.nn.Module, replies: list[Reply]) -> np.ndarray:
    """(N,) float64: a reward model's score at the last token, where its objective reads it."""

    def last(rows, tokens, segments):
        ends = torch.tensor([len(row.tokens) - 1 for row in rows], device=tokens.device)
        return net.scores(tokens, segments).double().gather(1, ends[:, None])[:, 0]

    return _in_batches(net, replies, last)


def divergence(
    net: torch.nn.Module, reference: torch.nn.Module, replies: list[Reply]
) -> tuple[np.ndarray, np.ndarray]:
    """-> (sum of the k3 estimate of KL(net || reference) over each reply's labels, their number), both (N,).

    k3 = exp(-x) - 1 + x with x = log p - log p_reference: unbiased on replies that `net` drew at
    temperature 1, and never negative (Schulman 2020, "Approximating KL divergence").
    """

    @torch.inference_mode()
    def sums(rows, tokens, segments):
        labels = _pad([row.labels for row in rows], IGNORED).to(tokens.device)
        x = (reference.nll(tokens, segments, labels) - net.nll(tokens, segments, labels)).double()
        return k3(x).sum(1)

    return _in_batches(net, replies, sums), np.array([reply.size for reply in replies], dtype=np.float64)


def k3(x: torch.Tensor) -> torch.Tensor:
    """Elementwise exp(-x) - 1 + x; 0 where x is 0, so unlabelled positions add nothing."""
    return torch.expm1(-x) + x


def batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices of sequences of similar length, longest first, at most BATCH_TOKENS padded tokens together."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        rows = max(1, BATCH_TOKENS // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def _in_batches(net: torch.nn.Module, replies: list[Reply], value: Callable) -> np.ndarray:
    """value(rows, tokens (B, T), segments (B, T)) -> (B,), for every batch of `replies`."""
    device, found = next(net.parameters()).device, np.zeros(len(replies))
    for chosen in batches([len(reply.tokens) for reply in replies]):
        rows = [replies[i] for i in chosen]
        tokens = _pad([row.tokens for row in rows], 0).to(device)
        segments = _pad([np.ones(len(row.tokens), np.int32) for row in rows], 0).to(device)
        found[chosen] = value(rows, tokens, segments).cpu().numpy()
    return found


def _pad(rows: list[np.ndarray], fill: int) -> torch.Tensor:
    """Arrays of different lengths -> (B, T), filled up on the right."""
    width = max(map(len, rows))
    return torch.from_numpy(
        np.stack([np.pad(row, (0, width - len(row)), constant_values=fill) for row in rows])
    )
