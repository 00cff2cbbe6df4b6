"""The order of samples: a bijection, different every epoch, and free of state."""

import numpy as np
import pytest

from llmkit.data import order
from llmkit.data.order import Growth, Order, scatter, scattered, subset


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


def test_a_growing_batch_rises_in_multiples_and_counts_what_came_before():
    growth = Growth(64, start=8, steps=10)
    rows = [growth.at(step) for step in range(15)]
    assert rows[0] == 8
    assert rows[10:] == [64] * 5
    assert rows == sorted(rows)
    assert all(n % 8 == 0 for n in rows)
    assert [growth.before(step) for step in range(15)] == [sum(rows[:step]) for step in range(15)]
    for wanted in (1, 8, 9, growth.before(10), growth.before(10) + 1, 1000):
        steps = growth.steps(wanted)
        assert growth.before(steps) >= wanted > growth.before(steps - 1)


def test_a_batch_that_does_not_grow_is_a_product():
    growth = Growth(16)
    assert (growth.at(7), growth.before(7), growth.steps(33)) == (16, 112, 3)


@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 257, 1000])
def test_an_epoch_computed_at_once_is_the_same_shuffle(n):
    assert scattered(n, 12345) == [scatter(i, n, 12345) for i in range(n)]
    assert sorted(scattered(n, 7)) == list(range(n))


def test_rows_do_not_depend_on_whether_the_epoch_is_computed_at_once(monkeypatch):
    samples = [0, 5, 99, 100, 250, 101, 3]
    whole = [Order(100, 3).row(s) for s in samples]
    monkeypatch.setattr(order, "TABLE", 0)
    assert [Order(100, 3).row(s) for s in samples] == whole


def test_a_subset_is_spread_and_never_changes():
    chosen = subset(10_000, 100)
    assert len(set(chosen.tolist())) == 100
    assert np.all(np.diff(chosen) > 0)
    assert chosen[0] < 1000 < 9000 < chosen[-1]
    assert np.array_equal(chosen, subset(10_000, 100))
    assert subset(5, None).tolist() == subset(5, 9).tolist() == [0, 1, 2, 3, 4]
