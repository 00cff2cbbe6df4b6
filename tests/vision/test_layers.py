"""Layers that compute what torch's do, in another order."""

import pytest
import torch
from torch import nn

from llmkit.vision import layers


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
@pytest.mark.parametrize("inputs", [1, 6])
def test_values_and_gradients_are_those_of_torch(kind, inputs, channels):
    torch.manual_seed(0)
    ours = getattr(layers, kind)(inputs, channels, 4, 2, 1).double()
    theirs = getattr(nn, kind)(inputs, channels, 4, 2, 1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, inputs, 6, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for layer in (ours, theirs):
        y = layer(x)
        weigh = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        found.append([y, *torch.autograd.grad((y * weigh).sum(), (x, layer.weight, layer.bias))])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))
