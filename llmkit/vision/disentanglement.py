"""Does each latent dimension know of one factor alone, and each factor lie in one dimension? MIG, SAP, DCI.

    codes (N, L) of images whose factors (N, F) are known ─► mutual information | predictability | importance

MIG   mean over factors of (I_1 - I_2) / H, 20 bins (Chen et al. 2018; disentanglement_lib's mig.py)
SAP   mean over factors of the gap between the two dimensions that tell its value best (Kumar et al. 2018)
DCI   disentanglement and completeness from importances of random forests, and how well these predict
      (Eastwood & Williams 2018)
"""

import numpy as np


def bins(codes: np.ndarray, count: int = 20) -> np.ndarray:
    """Each dimension in `count` bins of equal width over its range: (N, L) -> (N, L) int64."""
    low, high = codes.min(0), codes.max(0)
    width = np.where(high > low, high - low, 1)
    return np.minimum((count * (codes - low) / width).astype(np.int64), count - 1)


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """In nats, of two columns of small whole numbers."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def mig(codes: np.ndarray, factors: np.ndarray) -> float:
    """The mutual information gap, 0 to 1."""
    binned = bins(codes)
    known = np.array([[mutual_information(c, f) for c in binned.T] for f in factors.T])  # (F, L)
    best = np.sort(known, 1)[:, ::-1]
    entropy = np.array([mutual_information(f, f) for f in factors.T])
    return float(((best[:, 0] - best[:, 1]) / entropy).mean())


def sap(codes: np.ndarray, factors: np.ndarray) -> float:
    """The gap of scores: how much of a factor's variance one dimension explains, linearly."""
    c, f = (x - x.mean(0) for x in (codes.astype(np.float64), factors.astype(np.float64)))
    spread = np.square(c).mean(0)[None] * np.square(f).mean(0)[:, None]
    explained = np.square(f.T @ c / len(c)) / np.where(spread > 1e-24, spread, 1)
    best = np.sort(explained, 1)[:, ::-1]
    return float((best[:, 0] - best[:, 1]).mean())


def dci(codes: np.ndarray, factors: np.ndarray, trees: int = 10, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness and informativeness (share right of the last fifth), each 0 to 1."""
    from sklearn.ensemble import RandomForestClassifier

    cut = len(codes) * 4 // 5
    weights, right = [], []
    for f in factors.T:
        forest = RandomForestClassifier(trees, max_features=None, min_samples_leaf=10, random_state=seed)
        forest.fit(codes[:cut], f[:cut])
        weights.append(forest.feature_importances_)
        right.append((forest.predict(codes[cut:]) == f[cut:]).mean())
    importance = np.array(weights).T  # (L, F)
    return {
        "disentanglement": _concentrated(importance),
        "completeness": _concentrated(importance.T),
        "informativeness": float(np.mean(right)),
    }


def _concentrated(importance: np.ndarray) -> float:
    """1 - the entropy of each row, in units of its largest possible, weighed by the rows' sums."""
    rows = importance.sum(1, keepdims=True)
    share = importance / np.where(rows > 0, rows, 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(importance.shape[1])
    return float(((1 - entropy) * rows[:, 0]).sum() / max(rows.sum(), 1e-12))
