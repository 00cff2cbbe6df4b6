"""Every combination once; what a factor says is what the picture shows, whichever others are drawn."""

import numpy as np
import pytest

from llmkit.data.sets import dsprites
from llmkit.data.sets.dsprites import DSprites


def pictures(**changes) -> np.ndarray:
    """One picture for each value in turn, of a middle-sized square in the middle otherwise."""
    count = max(np.size(v) for v in changes.values())
    base = {"shape": 0, "scale": 3, "orientation": 0, "x": 15, "y": 15}
    columns = [np.broadcast_to(changes.get(name, value), count) for name, value in base.items()]
    return dsprites.drawn(np.stack(columns, 1), 64) > 0


def test_the_two_splits_hold_every_combination_once():
    train, held = (DSprites(DSprites.Settings(), split, 0).places for split in ("train", "heldout"))
    both = np.sort(np.concatenate([train, held]))
    assert np.array_equal(both, np.arange(737_280))
    assert len(held) / 737_280 == pytest.approx(0.05, abs=0.001)
    values = dsprites.factors(both)
    assert values.max(0).tolist() == [2, 5, 39, 31, 31]
    assert values[1].tolist() == [0, 0, 0, 0, 1]


def test_some_rows_are_of_all_factors():
    some = DSprites(DSprites.Settings(rows=2000), "train", 3).places
    assert len(some) == 2000
    values = dsprites.factors(some)
    shares = np.bincount(values[:, 0]) / 2000
    assert np.allclose(shares, 1 / 3, atol=0.04)
    assert [len(np.unique(column)) for column in values.T] == list(dsprites.FACTORS.values())
    assert np.array_equal(some, DSprites(DSprites.Settings(rows=2000), "train", 4).places)


def test_positions_move_the_picture_and_change_nothing_else():
    across = pictures(x=np.arange(32))
    middles = [np.nonzero(p.any(0))[0].mean() for p in across]
    assert np.allclose(np.diff(middles), 32 / 31, atol=1.01)
    assert middles[-1] - middles[0] == pytest.approx(32, abs=1.1)
    assert np.array_equal(pictures(y=[4]), pictures(x=[4]).transpose(0, 2, 1))


def test_areas_are_those_of_the_shapes():
    area = pictures(scale=np.arange(6)).sum((1, 2)) / 64**2
    side = 2 * 0.9 * dsprites.RADIUS * (0.5 + 0.1 * np.arange(6))
    assert np.allclose(area, side**2, rtol=0.15)
    ellipse = pictures(shape=[1], scale=5).sum() / 64**2
    assert ellipse == pytest.approx(np.pi * 0.6 * dsprites.RADIUS**2, rel=0.05)


def test_a_full_turn_comes_back_and_hearts_and_ellipses_turn():
    for shape in (0, 1, 2):
        turned = pictures(shape=shape, orientation=np.arange(40))
        assert (turned[0] ^ turned[39]).sum() <= 2
        assert (turned[0] ^ turned[5]).sum() > 20
        assert np.ptp(turned.sum((1, 2))) < 0.12 * turned.sum((1, 2)).mean()  # an area does not turn
    heart = pictures(shape=[2])[0]
    rows, columns = np.nonzero(heart)
    fitted = heart[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (fitted ^ fitted[:, ::-1]).sum() < 0.05 * heart.sum()  # its halves are alike
    assert (fitted ^ fitted[::-1]).sum() > 0.2 * heart.sum()  # top and bottom are not


def test_every_picture_lies_whole_in_the_image():
    values = dsprites.factors(np.random.RandomState(0).choice(dsprites.COUNT, 500, replace=False))
    images = dsprites.drawn(values, 64)
    assert images.any((1, 2)).all()
    edge = np.concatenate([images[:, [0, -1]].reshape(500, -1), images[:, :, [0, -1]].reshape(500, -1)], 1)
    assert not edge.any()


def test_a_batch_carries_the_factors_behind_its_images():
    data = DSprites(DSprites.Settings(rows=50), "train", 1)
    batch = data.batch([(7, 3), (8, 49)])
    assert batch["image"].shape == (2, 1, 64, 64)
    assert np.array_equal(batch["image"][:, 0].numpy(), dsprites.drawn(batch["factors"].numpy(), 64))
    assert batch["label"].tolist() == batch["factors"][:, 0].tolist()
    assert not data.batch([])["valid"].any()
