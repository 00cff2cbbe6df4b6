"""Which source every sample of a mixture comes from, as arithmetic: exact at any sample, with nothing stored.

    weights 0.7, 0.3      sample     0 1 2 3 4 5 6 7 8 9      (tokens per row equal)
                          source     b a a b a a b a a a      after any n samples: 0.7 n of a, within one
                          its own    0 0 1 1 2 3 2 4 5 6      a's order and epochs are a's own

Weights count tokens: a source whose rows hold half as many gets twice the rows. Where the weights change (a
later stage, a source that has been through its epochs) a new *stretch* begins; inside one all is arithmetic.
"""

import bisect
from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple


class Source(NamedTuple):
    """Rows of one pass, tokens of them all, and how many rows it may give in all (None: any number)."""

    rows: int
    tokens: int
    most: int | None = None


class Stretch(NamedTuple):
    """Samples from number `first` on: how many each source has given before, and their shares of the rows."""

    first: int
    given: tuple[int, ...]
    shares: tuple[int, ...]


class Mix:
    """`stages`: (first sample, weights) in order, from sample 0. `end`: the samples there are, if limited."""

    def __init__(self, sources: Sequence[Source], stages: Sequence[tuple[int, Sequence[float]]]):
        self.sources = list(sources)
        self.stretches: list[Stretch] = []
        self.end: int | None = None
        given: tuple[int, ...] = tuple(0 for _ in sources)
        first = 0
        borders: list[int | None] = [start for start, _ in stages[1:]]
        for (_, weights), until in zip(stages, [*borders, None], strict=True):
            while self.end is None and (until is None or first < until):
                shares = self._shares(weights, given)
                if not any(shares):
                    self.end = first
                    break
                stretch = Stretch(first, given, shares)
                self.stretches.append(stretch)
                run_out = self._first_empty(stretch, until)
                if run_out is None and until is None:
                    return
                first = until if run_out is None else run_out
                counts = counted(shares, first - stretch.first)
                given = tuple(a + b for a, b in zip(given, counts, strict=True))

    def place(self, sample: int) -> tuple[int, int]:
        """(source, how many rows it has given before) of sample number `sample`."""
        number = bisect.bisect_right(self.stretches, sample, key=lambda stretch: stretch.first) - 1
        stretch = self.stretches[number]
        source, nth = drawn(stretch.shares, sample - stretch.first)
        return source, stretch.given[source] + nth

    def _shares(self, weights: Sequence[float], given: Sequence[int]) -> tuple[int, ...]:
        """Whole numbers in proportion to rows: weight / tokens per row, 0 for a source that has no more."""
        parts = [
            Fraction(str(weight)) * source.rows / source.tokens
            if source.most is None or before < source.most
            else Fraction(0)
            for weight, source, before in zip(weights, self.sources, given, strict=True)
        ]
        scale = lcm(*(part.denominator for part in parts))
        return tuple(int(part * scale) for part in parts)

    def _first_empty(self, stretch: Stretch, until: int | None) -> int | None:
        """The first sample at which a source of `stretch` has given its last row; None if none does."""
        ends = []
        for i, source in enumerate(self.sources):
            if source.most is not None and stretch.shares[i]:
                left = source.most - stretch.given[i]
                least = left * sum(stretch.shares) // stretch.shares[i]
                ends.append(stretch.first + _reached(stretch.shares, i, left, least))
        return min((end for end in ends if until is None or end <= until), default=None)


def drawn(shares: Sequence[int], m: int) -> tuple[int, int]:
    """(source, its rows before) of sample m: each source takes its share of what those before it leave."""
    total = sum(shares)
    for i, share in enumerate(shares):
        before = m * share // total
        if (m + 1) * share // total > before:
            return i, before
        m, total = m - before, total - share
    raise AssertionError("the last source takes all that is left")


def counted(shares: Sequence[int], m: int) -> list[int]:
    """How many of the first `m` samples come from each source."""
    total, counts = sum(shares), []
    for share in shares:
        counts.append(m * share // total if total else 0)
        m, total = m - counts[-1], total - share
    return counts


def _reached(shares: Sequence[int], source: int, rows: int, near: int) -> int:
    """The fewest samples that hold `rows` rows of `source`; `near` is right to within one per source."""
    low = max(0, near - 2 * len(shares) * (sum(shares) // shares[source] + 1))
    high = near + 2 * len(shares) * (sum(shares) // shares[source] + 1)
    return low + bisect.bisect_left(range(low, high), rows, key=lambda m: counted(shares, m)[source])
