"""Codes that are the factors score 1, codes that mix them or know nothing score little."""

from types import SimpleNamespace

import numpy as np
import pytest

from llmkit.errors import CheckpointError
from llmkit.eval.metrics.disentanglement import Disentanglement
from llmkit.vision import disentanglement as scores
from llmkit.vision.vae import Vae
from llmkit.vision.vq import Vq

DRAWS = np.random.RandomState(0)
FACTORS = np.stack([DRAWS.randint(n, size=2000) for n in (3, 6, 10, 16)], 1)
SCALED = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
NOISE = DRAWS.normal(size=(2000, 2))
PURE = np.concatenate([SCALED + 0.01 * DRAWS.normal(size=SCALED.shape), NOISE], 1)
MIXED = np.concatenate([SCALED @ np.linalg.qr(DRAWS.normal(size=(4, 4)))[0], NOISE], 1)


def test_mutual_information_is_that_of_its_definition():
    a, b = DRAWS.randint(3, size=500), DRAWS.randint(4, size=500)
    wanted = 0.0
    for i in range(3):
        for j in range(4):
            p, q, r = ((a == i) & (b == j)).mean(), (a == i).mean(), (b == j).mean()
            wanted += p * np.log(p / (q * r))
    assert scores.mutual_information(a, b) == pytest.approx(wanted, abs=1e-12)
    assert scores.mutual_information(a, a) == pytest.approx(-sum(
        p * np.log(p) for p in (np.bincount(a) / 500)), abs=1e-12)  # fmt: skip


def test_pure_codes_score_one_and_mixed_ones_little():
    pure, mixed = ({"mig": scores.mig(c, FACTORS), "sap": scores.sap(c, FACTORS), **scores.dci(c, FACTORS)}
                   for c in (PURE, MIXED))  # fmt: skip
    assert all(value > 0.9 for value in pure.values()), pure
    assert mixed["mig"] < 0.3
    assert mixed["sap"] < 0.6
    assert mixed["disentanglement"] < 0.7
    assert mixed["completeness"] < 0.7


def test_noise_knows_nothing():
    assert scores.mig(NOISE, FACTORS) < 0.02
    assert scores.sap(NOISE, FACTORS) < 0.01
    assert scores.dci(NOISE, FACTORS)["informativeness"] < 0.3


def test_two_dimensions_that_say_the_same_leave_no_gap():
    doubled = np.concatenate([SCALED, SCALED], 1)
    assert scores.mig(doubled, FACTORS) == pytest.approx(0, abs=1e-9)
    assert scores.sap(doubled, FACTORS) == pytest.approx(0, abs=1e-9)


def test_a_dimension_that_never_moves_is_harmless():
    still = np.concatenate([PURE, np.ones((2000, 1))], 1)
    assert scores.mig(still, FACTORS) == pytest.approx(scores.mig(PURE, FACTORS))
    assert np.isfinite(scores.sap(still, FACTORS))


def measured(net, count=200):
    metric = Disentanglement(Disentanglement.Settings(count=count))
    return metric.measure(SimpleNamespace(net=net, path="runs/x")).figures


@pytest.mark.parametrize(("likelihood", "low"), [("bernoulli", 0), ("gaussian", 0), ("logistic", -1)])
def test_the_encoder_sees_images_as_in_training(likelihood, low):
    net = Vae(Vae.Settings(likelihood=likelihood, latent_dim=2, width=4, size=8, channels=1, classes=3))
    seen, encode = [], net.encode
    net.encode = lambda x, label: (seen.append(x), encode(x, label))[1]
    assert 0 <= measured(net)["mig"] <= 1
    assert {x.min().item() for x in seen} == {low}
    assert {x.max().item() for x in seen} == {1}


def test_what_cannot_be_scored_is_refused():
    shape = {"size": 8, "width": 4, "channels": 1, "classes": 3}
    with pytest.raises(CheckpointError, match="has no encoder"):
        measured(Vq(Vq.Settings(size=8, channels=1, width=4, layers=1)))
    with pytest.raises(CheckpointError, match="one latent dimension"):
        measured(Vae(Vae.Settings(latent_dim=1, **shape)))
    for other in ({"channels": 3}, {"classes": 10, "conditional": True}):
        with pytest.raises(CheckpointError, match="knows no dSprites"):
            measured(Vae(Vae.Settings(**shape | other)))
