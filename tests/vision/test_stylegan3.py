"""Alias-free layers: the filters are firwin's, derivatives are right twice, and images move as a whole."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import firwin
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.vision import noise, stylegan3
from llmkit.vision.stylegan import upfirdn
from llmkit.vision.stylegan3 import Band, Generator, Layer, Settings, bands, filtered, lowpass

EQUIVARIANT_DB = 40.0


def generator(**changes) -> Generator:
    shape = {"width": 8, "latent_dim": 8, "layers": 6, "size": 16, "channels": 1, **changes}
    with torch.device("meta"):
        made = Generator(Settings(**shape))
    return initialise(made, seed=1).eval()


@pytest.mark.parametrize("asked", [(12, 2.0, 4.57, 32.0), (24, 8.0, 3.0, 64.0), (6, 4.0, 1.0, 16.0)])
def test_a_filter_is_the_one_that_scipy_designs(asked):
    taps, cutoff, width, rate = asked
    assert lowpass(*asked) == pytest.approx(firwin(taps, cutoff, width=width, fs=rate), abs=1e-12)


@pytest.mark.parametrize("before", [FakeTensorMode, torch.inference_mode])
def test_a_filter_that_a_plan_or_sampling_used_first_serves_training(before):
    stylegan3._kept.cache_clear()
    taps = lowpass(6, 2.0, 3.0, 16.0)
    with before():
        filtered(torch.ones(1, 1, 8, 8), taps)
    x = torch.ones(1, 1, 8, 8, requires_grad=True)
    filtered(x, taps).sum().backward()
    assert type(x.grad) is torch.Tensor
    assert float(x.grad.sum()) > 0


@pytest.mark.parametrize(("up", "down", "pad"), [(2, 1, (3, 2)), (1, 2, (2, 3)), (2, 2, (-1, 4))])
def test_a_filter_for_each_axis_is_upfirdn_by_their_product(up, down, pad):
    taps = lowpass(6, 2.0, 3.0, 16.0)
    x, kernel = torch.randn(2, 3, 7, 7, dtype=torch.float64), torch.tensor(taps, dtype=torch.float64)
    wanted = upfirdn(x, kernel[:, None] * kernel[None], up, down, pad)
    assert torch.allclose(filtered(x, taps, up, down, pad), wanted, atol=1e-12)


def test_bands_are_those_of_the_authors_code():
    """Config T at 256 x 256, their lines in numpy (stylegan3, networks_stylegan3.py)."""
    exponents = np.minimum(np.arange(15) / (14 - 2), 1)
    cutoffs = 2 * (128 / 2) ** exponents
    stops = 2**2.1 * (128 * 2**0.3 / 2**2.1) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stops * 2, 256))))
    sizes = rates + 20
    sizes[-2:] = 256
    made = bands(Settings(layers=14, width=64, widest=512, size=256, channels=3))
    assert np.allclose([b.cutoff for b in made], cutoffs)
    assert np.allclose([b.half_width for b in made], np.maximum(stops, rates / 2) - cutoffs)
    assert [b.rate for b in made] == rates.tolist()
    assert [b.size for b in made] == sizes.tolist()
    assert [b.channels for b in made] == [*np.rint(np.minimum(64 * 128 / cutoffs, 512))[:-1].tolist(), 3]


def small_layer() -> tuple[Layer, torch.Tensor, torch.Tensor]:
    s = Settings(latent_dim=3, width=2, layers=3, size=4, channels=1)
    before, band = Band(1.0, 1.0, 4, 4, 2), Band(1.0, 1.0, 4, 4, 2)
    layer = Layer(s, before, band, rgb=False).double()
    generator = torch.Generator().manual_seed(3)
    for p in layer.parameters():
        torch.nn.init.normal_(p, generator=generator)
    x, w = torch.randn(1, 2, 4, 4, generator=generator), torch.randn(1, 3, generator=generator)
    return layer, x.double().requires_grad_(True), w.double().requires_grad_(True)


def test_derivatives_of_a_filtered_layer_are_right_twice():
    """In fp64, by x and w, against differences."""
    layer, x, w = small_layer()
    assert gradcheck(layer, (x, w))
    assert gradgradcheck(layer, (x, w))


def kept_when_moved(made: Generator, pixels: int) -> float:
    """How well an image moved by whole pixels is the image of moved waves, in dB of its variance.

    An odd number of pixels is none of whole samples in the layers of half the rate.
    """
    with torch.no_grad():
        w = made.latents(noise.keys(0, 4))
        image, size = made.synthesise(w), made.settings.size
        moved = made.synthesise(w, moved=(pixels / size, pixels / size))
        apart = (moved[..., pixels:, pixels:] - image[..., :-pixels, :-pixels]).square().mean()
        return 10 * math.log10(image.var() / apart)


def test_an_image_moves_with_its_waves_and_without_filters_it_does_not():
    made = generator(size=32)
    assert bands(made.settings)[0].rate == 16
    shown = [kept_when_moved(made, pixels) for pixels in (1, 3)]
    assert min(shown) > EQUIVARIANT_DB, shown
    for layer in made.layers:  # values repeated and averaged instead: aliases pass
        layer.rise, layer.fall = box(layer.rise, layer.up), box(layer.fall, layer.down)
    assert max(kept_when_moved(made, pixels) for pixels in (1, 3)) < min(shown) - 10


def box(taps: tuple[float, ...], factor: int) -> tuple[float, ...]:
    """A filter as long as `taps` whose middle is `factor` equal values."""
    first = (len(taps) - factor) // 2 if len(taps) > 1 else 0
    return tuple(1 / factor if first <= i < first + factor else 0.0 for i in range(len(taps)))


def test_w_turns_and_moves_the_waves():
    made = generator()
    w = made.latents(noise.keys(0, 2))
    assert torch.allclose(made.input.affine(w), torch.tensor([1.0, 0, 0, 0]).expand(2, 4))
    still = made.synthesise(w)
    made.input.affine.bias.data.copy_(torch.tensor([1.0, 0, 2 / 16, 0]))
    assert torch.allclose(made.synthesise(w), made.synthesise(w, moved=(0.0, 0.0)))
    made.input.affine.bias.data.copy_(torch.tensor([1.0, 0, 0, 0]))
    moved = made.synthesise(w, moved=(2 / 16, 0.0))
    made.input.affine.bias.data.copy_(torch.tensor([2.0, 0, 4 / 16, 0]))  # of any length
    assert torch.allclose(made.synthesise(w), moved, atol=1e-5)
    made.input.affine.bias.data.copy_(torch.tensor([0.0, 1.0, 0, 0]))  # a quarter turn
    turned = made.synthesise(w)
    assert not torch.allclose(turned, still, atol=1e-3)


def test_shapes_classes_and_sizes():
    made = generator(channels=3, conditional=True, classes=3)
    key, label = noise.keys(0, 2), torch.tensor([0, 2])
    assert made.sample(key, label).shape == (2, 3, 16, 16)
    assert not torch.allclose(made.sample(key, label), made.sample(key, label.flip(0)), atol=1e-4)
    assert torch.allclose(made.sample(key, label, 0.0)[0], made.sample(key, label, 0.0)[1], atol=1e-5)
    with pytest.raises(ConfigError, match="is not 4 times a power of two"):
        generator(size=12)
    assert stylegan3.Stylegan3.parts["d"] is not None
