"""How sure a measured figure is: intervals for one system, paired differences between two.

Every draw is keyed by a name, so the same results always give the same interval. All intervals cover 95 %.
"""

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal."""

DRAWS = 10_000
"""Bootstrap resamples: the end points then move by about 2 % of the interval's width between keys."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def keyed(*parts) -> np.random.Generator:
    """A generator that is a function of `parts` alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927): never leaves [0, 1], right for few samples too."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def bootstrap(values, weights=None, key: str = "", draws: int = DRAWS) -> Interval:
    """Percentile bootstrap of the weighted mean sum(w v) / sum(w), resampling (v, w) together (Efron 1979).

    `values` (n,) per sample, `weights` (n,) their sizes (bytes, tokens) or None for 1. The interval is
    between the 2.5 % and 97.5 % quantiles of the resampled means themselves: their spread is the standard
    error already.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    return _interval([Ratio.of(values, weights)], key, draws)


def paired(after, before, weights=None, key: str = "", weights_before=None) -> Interval:
    """Bootstrap of mean(after) - mean(before), the same samples in the same order: what they share cancels.

    The means are weighted by `weights` (n,), that of `before` by `weights_before` where the two differ.
    """
    after, before = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    assert after.shape == before.shape, "paired samples come in pairs"
    if weights_before is None:
        return bootstrap(after - before, weights, f"paired {key}")
    return _interval([Ratio.of(after, weights), Ratio.of(before, weights_before)], f"paired {key}", DRAWS)


class Ratio(NamedTuple):
    """A weighted mean by its parts, (n,) each: what is summed over what."""

    sums: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights) -> "Ratio":
        weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
        return cls(values * weights, weights)

    def at(self, chosen) -> np.ndarray:
        """The mean over the samples `chosen` (..., n) -> (...); NaN where they weigh nothing."""
        weights = self.weights[chosen].sum(-1)
        return np.where(weights > 0, self.sums[chosen].sum(-1) / np.where(weights > 0, weights, 1), np.nan)


def _interval(ratios: list[Ratio], key: str, draws: int) -> Interval:
    """The first mean, or by how much it is above the second, over `draws` resamplings of both together."""
    size, rng, found = ratios[0].sums.size, keyed("bootstrap", key), []
    differ = lambda chosen: ratios[0].at(chosen) - sum(other.at(chosen) for other in ratios[1:])  # noqa: E731
    block = max(1, 1_000_000 // size)
    for start in range(0, draws, block):
        found.append(differ(rng.integers(0, size, (min(block, draws - start), size))))
    value, means = float(differ(slice(None))), np.concatenate(found)
    if math.isnan(value):
        return Interval(value, value, value)
    low, high = np.quantile(means[~np.isnan(means)], [0.025, 0.975])  # a draw of nothing says nothing
    return Interval(value, float(low), float(high))


def sign_test(differences) -> float:
    """Two-sided exact p that both signs are equally likely; ties are left out (Dixon and Mood 1946)."""
    differences = np.asarray(differences)
    return _even_odds(int((differences > 0).sum()), int((differences < 0).sum()))


def mcnemar(after, before) -> float:
    """Two-sided exact p of the samples that only one of two systems gets right (McNemar 1947)."""
    after, before = np.asarray(after, dtype=bool), np.asarray(before, dtype=bool)
    return _even_odds(int((after & ~before).sum()), int((before & ~after).sum()))


def _even_odds(a: int, b: int) -> float:
    """Two-sided binomial p of a split at least as uneven as a : b under fair coins."""
    n = a + b
    log_half = n * math.log(0.5)
    ways = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(min(a, b) + 1))
    return min(1.0, 2 * sum(math.exp(way + log_half) for way in ways))


def calibration_error(confidence, correct, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins of confidence in [0.5, 1] (Guo et al. 2017, eq. 5).

    `confidence` (n,) is the probability given to the answer chosen, `correct` (n,) whether it was right.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    which = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gap = np.bincount(which, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / max(1, confidence.size))
