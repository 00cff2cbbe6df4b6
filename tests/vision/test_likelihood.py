"""Likelihoods against sums and integrals over everything that could have been."""

import math

import pytest
import torch

from llmkit.vision import likelihood

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


@pytest.mark.parametrize(
    ("mean", "log_scale"), [(0.0, -2.0), (-0.98, -3.0), (0.5, 0.5), (0.3, -6.9), (1.5, -1.0)]
)
def test_the_mass_of_all_bins_is_one(mean, log_scale):
    mass = likelihood.log_bin(torch.tensor(mean).double(), torch.tensor(log_scale).double(), LEVELS).exp()
    assert mass.sum().item() == pytest.approx(
        1, abs=2e-3
    )  # where bins are tiny, density times width stands in


def test_a_bin_is_the_difference_of_two_sigmoids():
    mean, scale, x = 0.1, 0.2, LEVELS[150]
    upper, lower = ((x + d / 255 - mean) / scale for d in (1, -1))
    expected = (upper.sigmoid() - lower.sigmoid()).log()
    found = likelihood.log_bin(*torch.tensor([mean, math.log(scale)], dtype=torch.float64), x)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_unlikely_bins_keep_their_digits_in_fp32():
    found, gradients = [], []
    for kind in (torch.float32, torch.float64):
        mean, log_scale = (torch.full((60,), v, dtype=kind, requires_grad=True) for v in (-1.0, -2.0))
        bins = likelihood.log_bin(mean, log_scale, LEVELS[80:140].float().to(kind))  # masses of 6e-4 to 2e-5
        gradients.append(torch.autograd.grad(bins.sum(), (mean, log_scale)))
        found.append(bins.detach().double())
    assert (found[1] > math.log(1e-5)).all()
    assert torch.allclose(*found, rtol=1e-6)
    for single, double in zip(*gradients, strict=True):
        assert torch.allclose(single.double(), double, rtol=3e-6)


def test_gradients_are_finite_far_from_the_mean():
    mean, log_scale = (torch.full((256,), v, requires_grad=True) for v in (-1.0, -7.0))
    likelihood.log_bin(mean, log_scale, LEVELS.float()).sum().backward()
    assert mean.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()


def test_gaussian_and_bernoulli_are_torchs_distributions():
    out, x = torch.randn(3, 1, 2, 4, 4), torch.rand(3, 2, 4, 4).round()
    found = likelihood.nll("bernoulli", out, x)
    wanted = -torch.distributions.Bernoulli(logits=out[:, 0]).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(found, wanted, atol=1e-5)
    wanted = -torch.distributions.Normal(out[:, 0], 0.3).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(likelihood.nll("gaussian", out, x, 0.3), wanted, rtol=1e-5)


def test_dynamic_binarisation_has_the_grey_level_for_probability():
    image = torch.full((4000, 1, 1, 1), 64, dtype=torch.uint8)
    x = likelihood.target("bernoulli", image, torch.arange(4000), "dynamic")
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert abs(x.mean().item() - 64 / 255) < 0.03


def test_dequantised_levels_stay_in_their_bins():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(
        (likelihood.dequantised(image, torch.tensor([5])) * 256).floor().to(torch.uint8), image
    )


def test_bits_per_dim_of_a_uniform_guess_is_eight():
    assert likelihood.bits_per_dim(784 * math.log(256), 784) == pytest.approx(8)
