"""Random numbers as a function of one key: the same on every machine, rank, resume and library version."""

import numpy as np

from llmkit.splitmix import mix


class Draws:
    """Uniform numbers in a fixed sequence that `key` alone decides: splitmix64 (Steele et al. 2014)."""

    def __init__(self, key: int):
        self._start = key & ((1 << 64) - 1)
        self._taken = 0

    def uniform(self, n: int) -> np.ndarray:
        """(n,) float64 in [0, 1), the next `n` of the sequence."""
        steps = np.arange(self._taken + 1, self._taken + 1 + n, dtype=np.uint64)
        self._taken += n
        value = np.uint64(self._start) + steps * np.uint64(0x9E3779B97F4A7C15)  # wraps, as it should
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((value ^ (value >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int, n: int) -> np.ndarray:
        """(n,) int64 in range(limit)."""
        return (self.uniform(n) * limit).astype(np.int64)

    def order(self, n: int) -> np.ndarray:
        """A permutation of range(n)."""
        return np.argsort(self.uniform(n), kind="stable")


def keyed(seed: int, sample: int, piece: int) -> Draws:
    """The draws for one piece of text of global sample number `sample` (which counts on over the epochs)."""
    return Draws(mix(mix(mix(seed) ^ sample) + piece))
