"""The order of samples: a bijection, different every epoch, and free of state."""

import pytest

from llmkit.data.order import Order, scatter


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 255, 1000, 4097])
def test_scatter_is_a_bijection(n):
    assert sorted(scatter(i, n, key=7) for i in range(n)) == list(range(n))


def test_every_epoch_holds_every_row_once_in_another_order():
    order = Order(500, seed=3)
    first, second = ([order.row(epoch * 500 + i) for i in range(500)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(500))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


def test_seeds_give_different_orders_and_one_seed_always_the_same():
    rows = [[Order(500, seed).row(i) for i in range(500)] for seed in (0, 1, 0)]
    assert rows[0] == rows[2] != rows[1]


def test_the_shuffle_leaves_no_trace_of_neighbourhood():
    """Neighbours in the corpus land far apart: the mean distance of a random permutation is a third of n."""
    order = Order(10_000, seed=1)
    rows = [order.row(i) for i in range(10_000)]
    distance = sum(abs(a - b) for a, b in zip(rows, rows[1:], strict=False)) / 9_999
    assert 3_200 < distance < 3_470
