"""Pixels depend on earlier ones alone; the probabilities of all images add up to one."""

import itertools

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.objectives.vision.pixel import PixelObjective
from llmkit.vision import likelihood, mixture, noise, pixels
from llmkit.vision.pixel import Pixel

KINDS = ["pixelcnn", "gated", "snail"]
LEVELS = torch.arange(256) / 127.5 - 1


def model(net: str, **changes) -> Pixel:
    shape = {"width": 16, "layers": 2, "size": 6, "channels": 1, "classes": 3, **changes}
    with torch.device("meta"):
        made = Pixel(Pixel.Settings(net=net, **shape))
    return initialise(made, seed=2).eval()


@pytest.mark.parametrize("net", KINDS)
def test_a_pixel_depends_on_those_before_it_and_no_other(net):
    made = model(net, layers=6)
    x = torch.randn(1, 1, 6, 6, requires_grad=True)
    y, column = 4, 1
    (slope,) = torch.autograd.grad(made(x)[0, :, y, column].sum(), x)
    touched = slope[0, 0] != 0
    before = torch.arange(36).view(6, 6) < y * 6 + column
    assert not (touched & ~before).any()
    missed = (before & ~touched).sum()
    assert missed == 0 if net != "pixelcnn" else missed > 0  # its blind spot


@pytest.mark.parametrize("net", KINDS)
def test_the_probabilities_of_all_images_add_up_to_one(net):
    made = model(net, size=3, conditional=True)
    images = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=9))).view(-1, 1, 3, 3)
    label = torch.full((512,), 2)
    assert (-made.nll(images, label)).double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_summing_a_colour_out_leaves_the_mixture_of_the_others():
    """p(r) = sum over g of p(r, g), p(r, g) = sum over b of p(r, g, b); and p(r) adds up to 1."""
    # logits, 3 means, 3 scales, 3 coefficients, of 2 components
    parts = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    fewer = {1: [0, 1, 4], 2: [0, 1, 2, 4, 5, 7], 3: list(range(10))}
    colour = [-1.0, 0.2, 0.6]

    def mass(channels, x):
        out = parts[fewer[channels]].flatten()[None, :, None, None].expand(len(x), -1, 1, 1)
        return (-mixture.nll(out, x[:, :channels, None, None], 2)).exp().double()

    assert mass(1, LEVELS[:, None]).sum().item() == pytest.approx(1, abs=2e-3)
    for channels in (1, 2):
        x = torch.tensor([colour]).repeat(256, 1)
        x[:, channels] = LEVELS
        assert mass(channels + 1, x).sum().item() == pytest.approx(mass(channels, x[:1]).item(), rel=2e-3)


def test_one_component_of_grey_is_a_discretised_logistic():
    out = torch.randn(4, 3, 5, 5)
    x = LEVELS[torch.randint(256, (4, 1, 5, 5))]
    wanted = -likelihood.log_bin(out[:, 1:2], out[:, 2:3], x).flatten(1).sum(1)
    assert torch.allclose(mixture.nll(out, x, 1), wanted, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_follow_the_mixture(channels):
    out = torch.randn(1, mixture.numbers(channels, 2), generator=torch.Generator().manual_seed(1))
    u = noise.uniform(torch.arange(20_000), "u", (2 + channels,))
    drawn = mixture.draw(out.expand(20_000, -1), u, channels, 2)[:, 0]
    parts = out.view(-1, 2)
    levels = likelihood.log_bin(parts[1][:, None], parts[1 + channels][:, None], LEVELS[None])
    mass = (levels + parts[0].log_softmax(0)[:, None]).logsumexp(0).exp()
    assert drawn.mean().item() == pytest.approx((mass * LEVELS).sum().item(), abs=0.03)
    assert (drawn == 1).float().mean().item() == pytest.approx(mass[-1].item(), abs=0.015)


@pytest.mark.parametrize("net", KINDS)
def test_samples_are_drawn_in_order_and_by_key(net):
    made = model(net, likelihood="mixture", channels=3, conditional=True, size=4)
    key, label = noise.keys(0, 3), torch.tensor([0, 1, 2])
    images = made.sample(key, label)
    assert images.shape == (3, 3, 4, 4)
    assert torch.allclose(images[1:2], made.sample(key[1:2], label[1:2]), atol=1e-6)
    assert torch.allclose(images * 255, (images * 255).round(), atol=1e-3)


@torch.no_grad()
def whole(made: Pixel, key: torch.Tensor, label: torch.Tensor, truncation: float) -> torch.Tensor:
    """The images of `sample`, by a whole forward for each pixel."""
    s = made.settings
    x = torch.zeros(len(key), s.channels, s.size, s.size)
    u = noise.uniform(key, "pixels", (s.size, s.size, s.components + s.channels))
    for row in range(s.size):
        for column in range(s.size):
            out = made(x, label)[:, :, row, column]
            x[:, :, row, column] = pixels.draw(s, out, u[:, row, column], truncation)
    return (x + 1) / 2


@pytest.mark.parametrize("net", KINDS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "mixture"])
def test_what_is_kept_of_earlier_pixels_changes_no_image(net, likelihood):
    channels = 1 if likelihood == "bernoulli" else 3
    made = model(net, likelihood=likelihood, channels=channels, layers=3, conditional=True, width=32, size=7)
    key, label = noise.keys(5, 6), torch.arange(6) % 3
    images = made.sample(key, label, 0.8)
    assert torch.allclose(images, whole(made, key, label, 0.8), atol=1e-5)
    assert images.std() > 0.1
    made.blocks[1].step = lambda state, row, column, h, before: h  # a block that is left out is noticed
    assert not torch.allclose(images, made.sample(key, label, 0.8), atol=1e-2)


def test_rows_below_change_nothing_above():
    made, x = model("snail"), torch.randn(2, 1, 6, 6)
    assert torch.allclose(made(x)[:, :, :3], made(x[:, :, :3]), atol=1e-5)


def test_colour_needs_a_mixture():
    with pytest.raises(ConfigError, match="bernoulli is for grey images"):
        model("gated", channels=3)


def test_black_or_white_pixels_are_not_told_of_grey_ones():
    make = lambda: model("gated", likelihood="bernoulli")  # noqa: E731
    with pytest.raises(ConfigError, match="objective.binarise: a bernoulli pixel is black or white"):
        PixelObjective(PixelObjective.Settings()).build(make)
    for binarise in ("dynamic", "threshold"):
        assert PixelObjective(PixelObjective.Settings(binarise=binarise)).build(make)
    assert PixelObjective(PixelObjective.Settings()).build(lambda: model("gated", likelihood="mixture"))
