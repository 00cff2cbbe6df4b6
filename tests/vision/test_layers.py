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


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((3, 3), 1, 1), ((2, 5), (3, 2), (0, 2)), (1, 1, 0)]
)
def test_patches_of_any_shape_are_convolved_as_torch_does(kernel, stride, padding):
    torch.manual_seed(0)
    ours = layers.Conv2d(1, 4, kernel, stride, padding).double()
    x = torch.randn(2, 1, 7, 9, dtype=torch.float64)
    wanted = nn.functional.conv2d(x, ours.weight, ours.bias, stride, padding)
    found = ours(x)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
