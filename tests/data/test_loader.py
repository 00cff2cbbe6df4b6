"""The loader: every sample once a pass, on any number of ranks, with the same number of batches on each."""

import pytest
import torch

from llmkit.data.loader import Loader
from llmkit.data.order import Growth, Order


class Numbers:
    """A dataset whose batches are the row ids themselves."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def batch(self, rows):
        return {
            "sample": torch.tensor([s for s, _ in rows] or [-1]),
            "row": torch.tensor([r for _, r in rows] or [-1]),
        }


def seen(batches):
    return [row for batch in batches for row in batch["row"].tolist() if row >= 0]


@pytest.mark.parametrize(("world", "micro_rows"), [(1, 4), (1, 10), (2, 3), (3, 2), (4, 16)])
def test_any_layout_sees_the_same_rows_at_every_step(world, micro_rows):
    loaders = [Loader(Numbers(50), 10, micro_rows, rank, world, seed=5) for rank in range(world)]
    plain = Loader(Numbers(50), 10, 10, 0, 1, seed=5)
    for step in range(5):
        groups = [loader.group(step) for loader in loaders]
        assert len({len(group) for group in groups}) == 1
        assert sorted(row for group in groups for row in seen(group)) == sorted(seen(plain.group(step)))


def test_an_epoch_is_every_row_once():
    loader = Loader(Numbers(50), 10, 4, 0, 1, seed=5)
    assert sorted(row for step in range(5) for row in seen(loader.group(step))) == list(range(50))


@pytest.mark.parametrize("ahead", [True, False])
def test_a_jump_to_a_later_step_is_what_walking_there_gives(ahead):
    walked = Loader(Numbers(50), 10, 4, 0, 1, seed=5)
    steps = [seen(walked.group(step)) for step in range(8)]
    resumed = Loader(Numbers(50), 10, 4, 0, 1, seed=5, ahead=ahead)
    assert [seen(resumed.group(step)) for step in (6, 7)] == steps[6:]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_growing_batch_goes_on_in_the_same_order_on_any_number_of_ranks(world):
    growth = Growth(12, start=4, steps=3)
    loaders = [Loader(Numbers(200), growth, 2, rank, world, seed=5) for rank in range(world)]
    order, at = Order(200, 5), 0
    for step in range(5):
        groups = [loader.group(step) for loader in loaders]
        assert len({len(group) for group in groups}) == 1
        here = range(at, at + growth.at(step))
        assert sorted(row for group in groups for row in seen(group)) == sorted(map(order.row, here))
        at = here.stop


def test_draws_of_a_step_are_disjoint_and_continue_the_order():
    loader = Loader(Numbers(600), 10, 5, 0, 1, seed=5, draws=3)
    group = loader.group(4)
    assert len(group) == 6
    assert [s for batch in group for s in batch["sample"].tolist()] == list(range(120, 150))


@pytest.mark.parametrize("max_rows", [None, 7, 10_000])
def test_heldout_batches_are_the_same_rows_on_any_number_of_ranks(max_rows):
    one = seen(Loader(Numbers(23), 8, 4, 0, 1, seed=1).heldout(max_rows))
    parts = [list(Loader(Numbers(23), 8, 4, rank, 3, seed=2).heldout(max_rows)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(row for part in parts for row in seen(part)) == sorted(one)
    assert len(one) == min(23, max_rows or 23)


@pytest.mark.parametrize("ahead", [True, False])
def test_an_error_in_the_dataset_reaches_the_caller(ahead):
    class Broken(Numbers):
        def batch(self, rows):
            raise ValueError("row 3 is broken")

    with pytest.raises(ValueError, match="row 3 is broken"):
        Loader(Broken(5), 2, 2, 0, 1, seed=0, ahead=ahead).group(0)
