"""How far a policy is from its reference, estimated from what it has said; and a controller for it.

x = log policy(token) - log reference(token), at tokens drawn from the policy. The names are Schulman's
(2020, "Approximating KL divergence"): k1 = x is unbiased and noisy, k2 = x^2 / 2 biased and always positive,
k3 = exp(-x) - 1 + x unbiased and always positive.
"""

from torch import Tensor


def estimate(kind: str, x: Tensor, most: float = 20.0) -> Tensor:
    """k1, k2 or k3 of each element; |x| beyond `most` is cut off, lest exp overflows."""
    x = x.clamp(-most, most)
    if kind == "k1":
        return x
    return x.square() / 2 if kind == "k2" else (-x).exp() + x - 1


def adapted(coefficient: float, found: float, target: float, count: float, horizon: float) -> float:
    """The next coefficient after `count` replies whose KL was `found` (Ziegler et al. 2019, section 2.2)."""
    error = min(0.2, max(-0.2, found / target - 1))
    return coefficient * (1 + error * count / horizon)
