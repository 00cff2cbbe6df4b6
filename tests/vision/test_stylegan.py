"""The layers against the published equations, in fp64; their second derivatives against numerical ones."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import signal

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.objectives.vision.stylegan import path_lengths
from llmkit.vision import noise, stylegan
from tests.vision.parity import rows

torch.manual_seed(0)
X = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
WEIGHT = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
STYLE = torch.rand(2, 3, dtype=torch.float64).add(0.5).requires_grad_(True)
KERNEL = torch.rand(3, 3, dtype=torch.float64)


def nets(**changes):
    shape = {
        "latent_dim": 6,
        "width": 4,
        "size": 8,
        "channels": 1,
        "classes": 3,
        "conditional": True,
        **changes,
    }
    settings = stylegan.Settings(**shape)
    with torch.device("meta"):
        made = [stylegan.Generator(settings), stylegan.Discriminator(settings)]
    return [initialise(net, 1) for net in made]


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_gives_each_image_weights_of_its_own(demodulate):
    found = stylegan.modulated(X, WEIGHT, STYLE, demodulate)
    for i in range(2):
        own = WEIGHT * STYLE[i][None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        assert torch.allclose(found[i], F.conv2d(X[i : i + 1], own, padding=1)[0], atol=1e-12)


def test_modulation_can_be_differentiated_twice():
    assert torch.autograd.gradcheck(stylegan.modulated, (X, WEIGHT, STYLE))
    small = (X[:1, :, :3, :3].detach().requires_grad_(True), WEIGHT[:2].detach().requires_grad_(True))
    assert torch.autograd.gradgradcheck(stylegan.modulated, (*small, STYLE[:1].detach().requires_grad_(True)))


@pytest.mark.parametrize(
    ("up", "down", "pad"), [(1, 1, (1, 1)), (2, 1, (2, 1)), (1, 2, (1, 1)), (3, 2, (0, 2))]
)
def test_upfirdn_is_zeros_then_a_convolution_then_every_other_value(up, down, pad):
    found = stylegan.upfirdn(X, KERNEL, up, down, pad)
    spread = np.zeros((2, 3, 5 * up, 5 * up))
    spread[:, :, ::up, ::up] = X.detach().numpy()
    spread = np.pad(spread, ((0, 0), (0, 0), pad, pad))
    wanted = [[signal.convolve2d(m, KERNEL.numpy(), mode="valid") for m in maps] for maps in spread]
    assert np.allclose(found.detach().numpy(), np.array(wanted)[:, :, ::down, ::down], atol=1e-12)
    run = lambda x: stylegan.upfirdn(x, KERNEL, up, down, pad)  # noqa: E731
    small = X[:1, :1, :3, :3].detach().requires_grad_(True)
    assert torch.autograd.gradcheck(run, (small,))
    assert torch.autograd.gradgradcheck(run, (small,))


def test_resizing_keeps_a_constant_image():
    flat = torch.ones(1, 1, 8, 8)
    assert torch.allclose(stylegan.doubled(flat)[:, :, 4:-4, 4:-4], torch.ones(1, 1, 8, 8))
    assert torch.allclose(stylegan.halved(flat)[:, :, 1:-1, 1:-1], torch.ones(1, 1, 2, 2))


def test_path_lengths_are_those_of_the_jacobian():
    g, _ = nets()
    batch = {**rows(0, 0, 0), "label": torch.tensor([0, 1, 2])}
    w = g.map(noise.normal(batch["key"], "latent for pl", (6,)), batch["label"])
    y = noise.normal(batch["key"], "path", (1, 8, 8)) / 8
    for i in range(3):
        synthesise = functools.partial(g.synthesise, key=batch["key"][i : i + 1])
        jacobian = torch.autograd.functional.jacobian(synthesise, w[i : i + 1])[0, :, :, :, 0]
        wanted = torch.einsum("cyxw,cyx->w", jacobian, y[i]).norm()
        assert torch.allclose(path_lengths(g, batch)[i], wanted, rtol=1e-4)


def test_truncation_leads_all_images_to_one():
    g, _ = nets(conditional=False)
    with torch.no_grad():
        for net in (g.first, g.second):
            for layer in net:
                layer.strength.zero_()
    key = noise.keys(0, 5)
    spread = [g.sample(key, None, psi).std(0).mean() for psi in (0.0, 0.5, 1.0)]
    assert spread[0] < 1e-6 < spread[1] < spread[2]


def test_signals_keep_their_scale_through_the_nets():
    g, d = nets(size=16, conditional=False)
    key = noise.keys(0, 64)
    image = g(noise.normal(key, "z", (6,)), None, key)
    assert 0.2 < image.std() < 5
    assert 0.05 < d(image).std() < 5


def test_the_deviation_map_is_that_of_its_group():
    x = torch.randn(4, 2, 3, 3)
    found = stylegan.with_stddev(x, 4)[:, 2]
    assert torch.allclose(found, x.std(0, correction=0).mean().expand(4, 3, 3), atol=1e-4)


def test_other_sizes_are_refused():
    with pytest.raises(ConfigError, match="28 is not 4 times a power of two"):
        nets(size=28)


def test_styles_are_mixed_from_a_layer_on_and_in_training_alone():
    g, _ = nets(conditional=False, mixing=0.5)
    key = noise.keys(7, 400)
    z = noise.normal(key, "z", (6,))
    w = g.map(z)
    mixed = g.mixed(w, None, key)
    own = (mixed == w[:, None]).all(2)
    assert mixed.shape == (400, 4, 6)
    assert own[:, 0].all()
    assert (own[:, 1:].int().diff(dim=1) <= 0).all()  # once it has changed it stays
    assert abs((~own[:, -1]).double().mean() - 0.5) < 0.1
    assert torch.allclose(g.synthesise(w[:, None].expand(-1, 4, -1), key), g.synthesise(w, key))
    assert torch.equal(g.train()(z, None, key), g.synthesise(mixed, key))
    assert torch.equal(g.eval()(z, None, key), g.synthesise(w, key))
