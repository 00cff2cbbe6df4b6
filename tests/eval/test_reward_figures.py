"""A reward model's figures from score gaps: the ties' policy is said, and the margins are counted."""

import numpy as np
import pytest

from llmkit.eval.metrics.reward_accuracy import judge


def test_ties_are_wrong_in_the_headline_and_half_right_beside_it():
    gap = np.array([1.0, 0.2, 0.3]) - np.array([0.5, 0.4, 0.3])
    figures = judge(gap, np.array([3, -2, 0]))
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["accuracy_ties_half"] == pytest.approx(0.5)
    assert figures["ties"] == 1
    low, high = figures["ci95"]
    assert low < 1 / 3 < high


def test_the_histogram_counts_every_pair_once_and_keeps_the_sides_apart():
    gap = np.linspace(-1, 3, 401)
    found = judge(gap, np.ones(401))["gap_histogram"]
    assert sum(found["counts"]) == 401
    assert found["edges"][0] == pytest.approx(-1)
    assert found["edges"][5] == pytest.approx(0, abs=1e-12)
    assert sum(found["counts"][5:]) == int((gap >= 0).sum())
