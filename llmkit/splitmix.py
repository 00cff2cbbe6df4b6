"""splitmix64 (Steele et al. 2014): numbers hashed to 64 bits, one at a time or an array of them."""

import numpy as np

MASK = (1 << 64) - 1
ODD = 0x9E3779B97F4A7C15
FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(value: int) -> int:
    """A 64-bit hash of a 64-bit number."""
    value = (value + ODD) & MASK
    value = (value ^ (value >> 30)) * FACTORS[0] & MASK
    value = (value ^ (value >> 27)) * FACTORS[1] & MASK
    return value ^ (value >> 31)


def mixed(values: np.ndarray) -> np.ndarray:
    """`mix` of each of an array of uint64."""
    values = values + np.uint64(ODD)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(FACTORS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(FACTORS[1])
    return values ^ (values >> np.uint64(31))
