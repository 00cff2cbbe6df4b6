"""Grids are the images, as Pillow reads them back."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from llmkit.vision import gallery


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_every_image_in_its_place(channels):
    images = torch.rand(5, channels, 4, 6)
    picture = np.atleast_3d(np.asarray(Image.open(io.BytesIO(gallery.png(gallery.grid(images, 3), 2)))))
    assert picture.shape == (2 * (2 * 6 + 2), 2 * (3 * 8 + 2), channels)
    second_row = picture[::2, ::2][8:12, 2:8]
    assert np.array_equal(second_row, (images[3] * 255).round().byte().permute(1, 2, 0).numpy())


def test_values_outside_of_the_range_are_clipped():
    assert gallery.grid(torch.tensor([[[[-1.0, 2.0]]]]))[2, 2:4, 0].tolist() == [0, 255]
