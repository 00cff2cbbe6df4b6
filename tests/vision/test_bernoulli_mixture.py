"""The baseline is a distribution, and samples follow it."""

import itertools

import pytest
import torch

from llmkit.models.blocks import initialise
from llmkit.vision import noise
from llmkit.vision.bernoulli_mixture import BernoulliMixture


def model() -> BernoulliMixture:
    net = initialise(BernoulliMixture(BernoulliMixture.Settings(components=3, size=2, channels=1)), seed=1)
    net.weight.data.copy_(torch.tensor([0.0, 1.0, -1.0]))
    net.pixels.data.mul_(4)
    return net


IMAGES = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).view(-1, 1, 2, 2)


def test_the_probabilities_of_all_images_add_up_to_one():
    assert (-model().nll(IMAGES)).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_samples_come_as_often_as_they_should():
    drawn = model().sample(noise.keys(0, 20_000)).flatten(1)
    which = (drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long().bincount(minlength=16) / 20_000
    assert (which - (-model().nll(IMAGES)).exp()).abs().max() < 0.015


@pytest.mark.parametrize("size", [8, 28])
def test_components_begin_close_together_whatever_the_size(size):
    """Where one explains images better by many nats from the start, the others never learn."""
    settings = BernoulliMixture.Settings(components=200, size=size, channels=1)
    means = initialise(BernoulliMixture(settings), seed=1).pixels.sigmoid()
    image = (torch.rand(size**2, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    each = (image * means.log() + (1 - image) * (1 - means).log()).sum(1)
    assert 0.4 < each.std() < 0.6
