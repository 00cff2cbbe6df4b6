"""PixelCNN++: pixels depend on earlier ones alone, and drawing them one by one changes nothing."""

import itertools

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.vision import noise, pixels
from llmkit.vision.pixelcnnpp import PixelCnnPp, Right


def model(**changes) -> PixelCnnPp:
    shape = {"width": 8, "layers": 1, "levels": 2, "size": 8, "channels": 1, "classes": 3, **changes}
    with torch.device("meta"):
        made = PixelCnnPp(PixelCnnPp.Settings(**shape))
    return initialise(made, seed=2).eval()


def touched(made: PixelCnnPp, row: int, column: int) -> torch.Tensor:
    """Which pixels (Y, X) the numbers of one depend on."""
    x = torch.randn(1, 1, 8, 8, requires_grad=True, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(made(x)[0, :, row, column].sum(), x)
    return slope[0, 0] != 0


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 7), (4, 4), (5, 3), (6, 1), (7, 7)])
def test_a_pixel_depends_on_all_those_before_it_and_no_other(row, column):
    before = torch.arange(64).view(8, 8) < row * 8 + column
    assert torch.equal(touched(model(layers=2, levels=3), row, column), before)


def test_a_window_that_sees_its_own_place_at_the_entrance_is_noticed():
    made = model()
    made.left.late, made.left.pad = 0, (0, 0, 1, 0)
    assert touched(made, 4, 4)[4, 4]


def test_the_probabilities_of_all_images_add_up_to_one():
    made = model(size=2, conditional=True)
    images = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).view(-1, 1, 2, 2)
    label = torch.full((16,), 2)
    assert (-made.nll(images, label)).double().exp().sum().item() == pytest.approx(1, abs=1e-5)
    other = made.nll(images, torch.zeros_like(label))
    assert not torch.allclose(made.nll(images, label), other, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("likelihood", "channels"), [("bernoulli", 1), ("mixture", 3)])
def test_what_is_kept_of_earlier_pixels_changes_no_image(likelihood, channels):
    made = model(likelihood=likelihood, channels=channels, conditional=True)
    for p in made.parameters():
        p *= 1.5  # images that depend on more than chance
    s, key, label = made.settings, noise.keys(5, 3), torch.arange(3)
    images, x, u = made.sample(key, label, 0.8), torch.zeros(3, channels, 8, 8), pixels.chance(s, key)
    for row, column in itertools.product(range(8), repeat=2):
        out = made(x, label)[:, :, row, column]
        x[:, :, row, column] = pixels.draw(s, out, u[:, row, column], 0.8)
    assert torch.allclose(images, (x + 1) / 2, atol=1e-5)
    assert images.std() > 0.1
    assert all(m.kept is None for m in made.modules() if isinstance(m, Right))


def test_sizes_that_cannot_be_halved_and_colour_without_a_mixture_are_refused():
    with pytest.raises(ConfigError, match="model.levels: 10 cannot be halved 2 times"):
        model(size=10, levels=3)
    with pytest.raises(ConfigError, match="bernoulli is for grey images"):
        model(channels=3)
