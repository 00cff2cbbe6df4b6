"""Walks through a latent space begin and end where they say; on a sphere they stay on it."""

import pytest
import torch

from llmkit.vision import gallery, noise, walk
from tests.vision.test_export import made

KINDS = ["vae", "gan", "vaegan", "stylegan", "stylegan3"]


def test_a_great_circle_keeps_the_length_and_the_pace():
    a, b = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)).unbind()
    a, b = (4 * x / x.norm(dim=1, keepdim=True) for x in (a, b))
    path = walk.between(a, b, torch.linspace(0, 1, 5), spherical=True)
    assert torch.allclose(path[0], a, atol=1e-5)
    assert torch.allclose(path[-1], b, atol=1e-5)
    assert torch.allclose(path.norm(dim=2), torch.full((5, 3), 4.0), atol=1e-4)
    paces = (path[1:] - path[:-1]).norm(dim=2)
    assert torch.allclose(paces, paces[:1].expand(4, -1), atol=1e-4)
    straight = walk.between(a, b, torch.tensor([0.5]), spherical=False)[0]
    assert torch.allclose(straight, (a + b) / 2)
    assert float(straight.norm(dim=1).max()) < 3.5


@pytest.mark.parametrize("kind", KINDS)
def test_ways_begin_and_end_at_samples(kind):
    net = made(kind)
    key, label = noise.keys(3, 3), torch.zeros(3, dtype=torch.int64)
    ways = walk.interpolation(net, key, label, 4, truncation=0.8)
    assert ways.shape == (3, 4, 1, 8, 8)
    samples = net.sample(key, label, 0.8)
    assert torch.allclose(ways[:, 0], samples, atol=1e-4)
    if kind != "stylegan":  # whose noise stays that of the image it began with
        assert torch.allclose(ways[:, -1], samples.roll(-1, 0), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_traversal_changes_one_dimension_alone(kind):
    net, seen = made(kind), []
    honest = net.render
    net.render = lambda latent, label=None, key=None: seen.append(latent) or honest(latent, label, key)
    key, label = noise.keys(3, 1), torch.zeros(1, dtype=torch.int64)
    latent = net.latents(key, label)
    shown = walk.traversal(net, latent, label, key, [2, 0], 5)
    assert shown.shape == (2, 5, 1, 8, 8)
    for path, dim in zip(seen, (2, 0)):
        others = [d for d in range(latent.shape[1]) if d != dim]
        assert torch.equal(path[:, others], latent[:, others].expand(5, -1))
        assert torch.all(path[1:, dim] > path[:-1, dim])
    if net.spherical:
        assert seen[0][:, 2].tolist() == [-3.0, -1.5, 0.0, 1.5, 3.0]


def test_class_grids_have_a_column_for_each_class(monkeypatch):
    net, asked = made("gan"), []
    honest = net.sample
    net.sample = lambda key, label=None, truncation=1.0: asked.append((key, label)) or honest(key, label)
    gallery.classes(net, rows=2)
    key, label = asked[0]
    assert label.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len(key[:4].unique()) == len(key[4:].unique()) == 1
    assert key[0] != key[4]
