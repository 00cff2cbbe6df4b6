"""The order of samples as arithmetic: no shuffled table, no state, the same for every world size.

    sample number (grows forever) -> epoch = sample // n, place = sample % n
                                  -> row = scatter(place, n, key of (seed, epoch))

Resuming is knowing one number. Any rank can say which row any sample is, without asking the others.
"""

import functools
from bisect import bisect_left
from itertools import accumulate

import numpy as np

from llmkit.splitmix import MASK, mix, mixed

_ROUNDS = 6


def scatter(i: int, n: int, key: int) -> int:
    """Where sample `i` of `n` lands in the shuffle called `key`: a bijection on range(n), with no table.

    Six Feistel rounds over the index bits, walking the cycle until back in range (Black & Rogaway 2002).
    The domain is less than four times `n`, so the walk takes fewer than four turns on average.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (mix(right ^ mix(key + turn)) & mask)
        i = left << half | right
        if i < n:
            return i


def scattered(n: int, key: int) -> list[int]:
    """[scatter(i, n, key) for every i], all at once."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    out = np.arange(n, dtype=np.uint64)
    astray = np.arange(n)
    while len(astray):
        left, right = out[astray] >> shift, out[astray] & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (mixed(right ^ np.uint64(mix(key + turn))) & mask)
        out[astray] = left << shift | right
        astray = astray[out[astray] >= n]
    return out.tolist()


def subset(n: int, count: int | None) -> np.ndarray:
    """`count` of range(n), or all for None or more, by one fixed shuffle, in rising order: (count,)."""
    if count is None or count >= n:
        return np.arange(n)
    return np.sort(np.array(scattered(n, key=0)[:count], np.int64))


TABLE = 1 << 17
"""Rows up to which an epoch's shuffle is computed whole: 40 ms then, and a tenth of the time a row."""


class Order:
    """The shuffled order of `n` rows under `seed`, a new shuffle every epoch."""

    def __init__(self, n: int, seed: int):
        self.n = n
        self.seed = seed
        self._key = key = functools.lru_cache(maxsize=2)(lambda epoch: mix(mix(seed & MASK) ^ epoch))
        self._whole = functools.lru_cache(maxsize=2)(lambda epoch: scattered(n, key(epoch)))

    def row(self, sample: int) -> int:
        """The row id, in range(n), of global sample number `sample` (0, 1, ... without end)."""
        epoch, place = divmod(sample, self.n)
        if self.n <= TABLE:
            return self._whole(epoch)[place]
        return scatter(place, self.n, self._key(epoch))


class Growth:
    """The rows of each step of a run whose batch grows: from `start` to `rows`, linearly over `steps` steps.

    Rows come in multiples of `start`, so that micro-batches keep their shape. A function of the step alone.
    """

    def __init__(self, rows: int, start: int | None = None, steps: int = 0):
        self.rows = rows
        least = start or rows
        grown = (least + (rows - least) * step / steps for step in range(steps))
        self._rows = [min(rows, round(wanted / least) * least) for wanted in grown]
        self._before = [0, *accumulate(self._rows)]

    def at(self, step: int) -> int:
        """The rows of step `step`."""
        return self._rows[step] if step < len(self._rows) else self.rows

    def before(self, step: int) -> int:
        """The rows of all steps before `step`."""
        grown = min(step, len(self._rows))
        return self._before[grown] + (step - grown) * self.rows

    def steps(self, rows: int) -> int:
        """How many steps it takes to see `rows` rows."""
        step = bisect_left(self._before, rows)
        if step < len(self._before):
            return step
        return len(self._rows) - (self._before[-1] - rows) // self.rows
