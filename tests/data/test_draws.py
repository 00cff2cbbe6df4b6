"""Keyed numbers: uniform, in a fixed sequence, and different for every key."""

import numpy as np

from llmkit.data.draws import Draws, keyed
from llmkit.splitmix import mix


def test_the_sequence_is_splitmix64():
    """The numbers of `splitmix.mix`, one at a time, in plain integers: no machine or library changes them."""
    step = 0x9E3779B97F4A7C15
    expected = [(mix((5 + i * step) % 2**64) >> 11) / 2**53 for i in range(4)]
    draws = Draws(5)
    assert [*draws.uniform(1), *draws.uniform(3)] == expected


def test_numbers_are_uniform():
    numbers = Draws(mix(1)).uniform(100_000)
    counts = np.histogram(numbers, 10, (0, 1))[0]
    assert np.abs(counts - 10_000).max() < 5 * 95  # 5 standard deviations
    assert np.bincount(Draws(9).below(3, 30_000)).min() > 10_000 - 5 * 82


def test_orders_are_permutations_that_differ_by_seed_sample_and_piece():
    orders = {
        tuple(keyed(seed, sample, piece).order(20))
        for seed in (1, 2)
        for sample in (1, 2)
        for piece in (0, 1)
    }
    assert len(orders) == 8
    assert all(sorted(order) == list(range(20)) for order in orders)
