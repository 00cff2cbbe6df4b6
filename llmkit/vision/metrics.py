"""How far generated images are from real ones in features: Frechet distance, KID, precision and recall.

    images ─► an extractor, which is named beside every figure ─► features (N, D) float64 ─► these functions

"FID" is the name of the first with Inception-2015's features alone. The mathematics is that of torch-fidelity
0.4, on the same features to 1e-6 (tests/vision/test_metrics.py).
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Mean and covariance of features that come in batches; sums, so that ranks can add theirs up."""

    dims: int

    def __post_init__(self):
        self.count = 0
        self.sum, self.outer = np.zeros(self.dims), np.zeros((self.dims, self.dims))

    def add(self, features: np.ndarray) -> "Moments":
        """Take in a batch (n, D) -> itself."""
        features = features.astype(np.float64)
        self.count += len(features)
        self.sum += features.sum(0)
        self.outer += features.T @ features
        return self

    def mean(self) -> np.ndarray:
        """(D,)"""
        return self.sum / self.count

    def covariance(self) -> np.ndarray:
        """(D, D), divided by N - 1."""
        return (self.outer - np.outer(self.sum, self.mean())) / (self.count - 1)


def frechet(a: Moments, b: Moments) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) of two Gaussians (Dowson & Landau 1982; Heusel 2017).

    The trace of the root is that of (S1^1/2 S2 S1^1/2)^1/2, whose eigenvalues are real and not negative.
    """
    one, other = a.covariance(), b.covariance()
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(np.square(a.mean() - b.mean()).sum() + np.trace(one) + np.trace(other) - 2 * cross)


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """KID: mean and standard deviation over random subsets of the unbiased MMD^2 with kernel (x.y / D + 1)^3.

    Binkowski et al. 2018; subsets are drawn as torch-fidelity draws them. `size` is cut to what there is.
    """
    draws = np.random.RandomState(seed)
    size = min(size, len(real), len(fake))
    values = []
    for _ in range(subsets):
        x = fake[draws.choice(len(fake), size, replace=False)].astype(np.float64)
        y = real[draws.choice(len(real), size, replace=False)].astype(np.float64)
        xx, yy, xy = (_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        values.append(within - 2 * xy.mean())
    return float(np.mean(values)), float(np.std(values))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3, as products: numpy's power of three is ten times slower."""
    base = (a @ b.T) / a.shape[1] + 1
    return base * base * base


def precision_recall(real: np.ndarray, fake: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Shares of fakes within the real manifold, and of real images within the fakes' (Kynkaanniemi 2019).

    A manifold is the balls around its points that reach to their k-th neighbour. Memory grows with N^2.
    """
    radius = [np.sort(distances(points, points), axis=1)[:, neighbours] for points in (real, fake)]
    between = distances(real, fake)
    precision = (between <= radius[0][:, None]).any(0).mean()
    recall = (between <= radius[1][None]).any(1).mean()
    return float(precision), float(recall)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean, (N, D) and (M, D) -> (N, M)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(squares.clip(0))


def inception_score(probabilities: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL from each p(y|x) to their mean, over splits in order: mean and standard deviation.

    probabilities (N, classes) of whatever classifier is named beside it (Salimans et al. 2016).
    """
    scores = []
    for part in np.array_split(probabilities.astype(np.float64).clip(1e-16), splits):
        divergence = (part * (np.log(part) - np.log(part.mean(0, keepdims=True)))).sum(1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))
