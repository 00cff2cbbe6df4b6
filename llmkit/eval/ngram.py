"""Interpolated modified Kneser-Ney n-gram models over token ids: what a small language model has to beat.

    train ids ─► unique k-grams, k = 1..n, each known by a dense number ─► counts and continuation counts
    held-out ids ─► p_1 ─► p_2 ─► ... ─► p_n, each interpolated with the one below; nothing loops over tokens

A k-gram is keyed by (number of its first k-1 tokens) * V + its last token, so any order and vocabulary fits
an int64. The training stream is closed to a circle: then every k-gram has a left neighbour, and
continuation counts need no special case at the start. Source: Chen and Goodman 1998, section 3 and
equations 24-26.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """The unique k-grams of the training stream, sorted by key, and how often they are seen."""

    keys: np.ndarray
    """(U,) int64 context * V + token, ascending; the index is the k-gram's number."""
    counts: np.ndarray
    """(U,) occurrences."""
    continuations: np.ndarray
    """(U,) how many different tokens precede it; empty for the highest order, which needs none."""


class KneserNey:
    """Modified Kneser-Ney models of every order up to `order`, from one pass over the training ids."""

    def __init__(self, ids: np.ndarray, vocab_size: int, order: int = 4):
        self.vocab_size = vocab_size
        self.orders: list[Order] = []
        ids = np.asarray(ids, dtype=np.int64)
        number = np.zeros(len(ids), dtype=np.int64)
        for k in range(1, order + 1):
            shorter = number
            keys = shorter * vocab_size + np.roll(ids, 1 - k)
            keys, first, number, counts = np.unique(
                keys, return_index=True, return_inverse=True, return_counts=True
            )
            if k > 1:
                suffix = shorter[(first + 1) % len(ids)]
                self.orders[-1].continuations[:] = np.bincount(suffix)
            self.orders.append(Order(keys, counts, np.zeros_like(counts) if k < order else counts[:0]))

    def log2_probs(self, ids: np.ndarray, start: int) -> dict[int, np.ndarray]:
        """{order: log2 p(ids[t] | ids before it), t >= start}: `ids` (N,) -> (N - start,) each."""
        ids = np.asarray(ids, dtype=np.int64)
        target = np.arange(start, len(ids))
        continuing = np.full(len(target), 1 / self.vocab_size)
        found = {}
        for k, table in enumerate(self.orders, 1):
            context = self._contexts(ids, target, k)
            found[k] = np.log2(_step(table, table.counts, context, ids[target], self.vocab_size, continuing))
            if len(table.continuations):
                continuing = _step(
                    table, table.continuations, context, ids[target], self.vocab_size, continuing
                )
        return found

    def sample(
        self, ids: list[int], max_new: int, stop: int, draw: np.random.Generator, order: int
    ) -> list[int]:
        """What the model of `order` writes after `ids`: at most `max_new`, without the `stop` that ends it.

        Equation 24 read as a recipe: with the mass that the discounts keep draw a token that training saw
        after the context, with the mass that they freed draw from the next lower order instead.
        """
        levels = []
        for k, table in enumerate(self.orders[:order], 1):
            counts = table.counts if k == order else table.continuations
            levels.append((k, table, counts, _discounts(counts)))
        stream = list(ids)
        while (
            len(stream) < len(ids) + max_new and (token := self._draw(stream[-order:], levels, draw)) != stop
        ):
            stream.append(token)
        return stream[len(ids) :]

    def _draw(self, recent: list[int], levels: list, draw: np.random.Generator) -> int:
        after, ids = np.array([len(recent)]), np.array([*recent, 0])
        for k, table, counts, discount in reversed(levels):
            context = int(self._contexts(ids, after, k)[0])
            if context < 0:
                continue
            low, high = np.searchsorted(table.keys, np.array([context, context + 1]) * self.vocab_size)
            seen = counts[low:high]
            kept = np.cumsum(seen - discount[np.minimum(seen, 3)])
            if (mass := draw.random() * seen.sum()) < kept[-1]:
                return int(table.keys[low + np.searchsorted(kept, mass, side="right")] % self.vocab_size)
        return int(draw.integers(self.vocab_size))

    def _contexts(self, ids, target, k):
        """The number of the k-1 tokens before each target, -1 where training never saw them."""
        context = np.where(target >= k - 1, 0, -1)
        for back, table in zip(range(k - 1, 0, -1), self.orders, strict=False):
            context = _numbers(table, context, ids[np.maximum(target - back, 0)], self.vocab_size)
        return context


def _numbers(table: Order, context, token, vocab_size):
    """The number of (context, token) in `table`, -1 where it is not there."""
    key = context * vocab_size + token
    place = np.minimum(np.searchsorted(table.keys, key), len(table.keys) - 1)
    return np.where((context >= 0) & (table.keys[place] == key), place, -1)


def _step(table: Order, counts, context, token, vocab_size, lower):
    """p(token | context) from discounted `counts`, interpolated with `lower` (eq. 24)."""
    discount = _discounts(counts)
    owner = table.keys // vocab_size
    total = np.bincount(owner, weights=counts)
    freed = np.bincount(owner, weights=discount[np.minimum(counts, 3)])
    place = _numbers(table, context, token, vocab_size)
    count = np.where(place >= 0, counts[place], 0)
    kept = count - discount[np.minimum(count, 3)]
    known = context >= 0
    total, freed = np.where(known, total[context], 1.0), np.where(known, freed[context], 1.0)
    return (kept + freed * lower) / total


def _discounts(counts) -> np.ndarray:
    """What is taken from k-grams seen 0, 1, 2, 3+ times (eq. 26); KenLM's fallback where counts are few."""
    n1, n2, n3, n4 = (float((counts == c).sum()) for c in (1, 2, 3, 4))
    fallback = np.array([0.0, 0.5, 1.0, 1.5])
    if min(n1, n2, n3, n4) == 0:
        return fallback
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if (found >= 0).all() and (found <= [0, 1, 2, 3]).all() else fallback
