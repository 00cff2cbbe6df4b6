"""Distances between clouds of features: closed forms, ladders that rise, and torch-fidelity's own numbers."""

import numpy as np
import pytest
import torch

from llmkit.vision import metrics

DRAWS = np.random.default_rng(0)
REAL = DRAWS.normal(size=(600, 12)) @ DRAWS.normal(size=(12, 12))
FAKE = 0.8 * DRAWS.normal(size=(500, 12)) @ DRAWS.normal(size=(12, 12)) + 0.5


def moments(x) -> metrics.Moments:
    return metrics.Moments(x.shape[1]).add(x)


def test_moments_of_batches_are_those_of_the_whole():
    parts = metrics.Moments(12).add(REAL[:100]).add(REAL[100:])
    assert np.allclose(parts.covariance(), np.cov(REAL, rowvar=False))
    assert np.allclose(parts.mean(), REAL.mean(0))


def test_gaussians_along_the_axes_are_as_far_apart_as_their_formula_says():
    a, b = moments(REAL), moments(REAL * 3 + 2)
    shift = np.square(2 * REAL.mean(0) + 2).sum()
    assert metrics.frechet(a, b) == pytest.approx(shift + np.trace(4 * a.covariance()), rel=1e-9)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_more_noise_is_farther_on_every_scale():
    noisy = [REAL + level * DRAWS.normal(size=REAL.shape) for level in (0, 0.5, 1, 2, 4)]
    for measure in (
        lambda x: metrics.frechet(moments(REAL), moments(x)),
        lambda x: metrics.kernel_distance(REAL, x, 20, 300)[0],
        lambda x: -metrics.precision_recall(REAL, x)[0],
    ):
        ladder = [measure(x) for x in noisy]
        assert ladder == sorted(ladder)


def test_precision_and_recall_are_not_the_other_way_round():
    real = DRAWS.normal(size=(400, 2))
    narrow = 0.1 * DRAWS.normal(size=(400, 2))
    precision, recall = metrics.precision_recall(real, narrow)
    assert precision > 0.95
    assert recall < 0.3


def test_the_inception_score_of_sure_and_varied_guesses_is_the_number_of_classes():
    sure = np.eye(5)[np.arange(500) % 5]
    assert metrics.inception_score(sure)[0] == pytest.approx(5, rel=1e-6)
    assert metrics.inception_score(np.full((100, 5), 0.2))[0] == pytest.approx(1)


def test_the_figures_are_those_that_torch_fidelity_gave():
    """Of torch-fidelity 0.4.0 on these features; it needs torchvision, so its answers are kept instead."""
    draws = np.random.RandomState(0)  # a stream that numpy never changes
    real = draws.normal(size=(600, 12)) @ draws.normal(size=(12, 12))
    fake = 0.8 * draws.normal(size=(500, 12)) @ draws.normal(size=(12, 12)) + 0.5
    assert metrics.frechet(moments(real), moments(fake)) == pytest.approx(55.65913473338503, rel=1e-6)
    found = metrics.kernel_distance(real, fake, 20, 300)
    assert found == pytest.approx((65.11786846030769, 8.575289194542524), rel=1e-6)
    assert metrics.precision_recall(real, fake) == pytest.approx((0.756, 0.155), rel=1e-6)
    found = metrics.inception_score(torch.from_numpy(fake).softmax(1).numpy())
    assert found == pytest.approx((3.2423924372501483, 0.1825806217991722), rel=1e-6)
