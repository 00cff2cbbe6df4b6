"""How sure a measured figure is: intervals for one system, paired differences between two.

Every draw is keyed by a name, so the same results always give the same interval. All intervals cover 95 %.
"""

import hashlib
import math
from dataclasses import asdict, dataclass

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
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    sums, rng, means = values * weights, keyed("bootstrap", key), []
    block = max(1, 1_000_000 // values.size)
    for start in range(0, draws, block):
        chosen = rng.integers(0, values.size, (min(block, draws - start), values.size))
        means.append(sums[chosen].sum(1) / weights[chosen].sum(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(sums.sum() / weights.sum()), float(low), float(high))


def paired(after, before, weights=None, key: str = "") -> Interval:
    """Bootstrap of mean(after - before) over the same samples in the same order: what they share cancels."""
    after, before = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    assert after.shape == before.shape, "paired samples come in pairs"
    return bootstrap(after - before, weights, f"paired {key}")


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
