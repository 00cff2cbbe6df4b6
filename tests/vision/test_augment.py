"""Augmentation: known maps do what they say, by key, twice differentiable; its probability is led."""

import math

import pytest
import torch

from llmkit.objectives.vision.gan import GanObjective
from llmkit.vision import augment, noise

X = torch.rand(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ONE = torch.ones(2, dtype=torch.float64)


def warped(matrix: torch.Tensor, x: torch.Tensor = X) -> torch.Tensor:
    return augment.warped(x, matrix.to(x.dtype)[:, :2])


def test_flips_turns_and_whole_shifts_move_pixels_and_change_none():
    assert torch.allclose(warped(augment.scaled(-ONE, ONE)), X.flip(3))
    assert torch.allclose(warped(augment.rotated(ONE * math.pi / 2)), X.rot90(1, (2, 3)))
    moved = warped(augment.shifted(2 * ONE, 0 * ONE))
    assert torch.allclose(moved[..., :4], X[..., 2:])
    assert torch.allclose(moved[..., 4:], X[..., 4:].flip(3))  # mirrored at the edge
    assert torch.allclose(
        warped(augment.shifted(0 * ONE, 0.5 * ONE))[:, :, :5], (X[:, :, 1:] + X[:, :, :5]) / 2
    )


def test_far_places_are_mirrored_again_and_again():
    assert torch.allclose(warped(augment.shifted(0 * ONE, 24 * ONE)), X)


def test_no_probability_changes_nothing_and_certainty_changes_every_image():
    key = noise.keys(1, 64)
    x = torch.rand(64, 3, 8, 8)
    assert augment.augmented(x, key, 0.0, "a") is x
    assert ((augment.augmented(x, key, 1.0, "a") - x).abs().amax((1, 2, 3)) > 1e-3).all()


def test_so_many_images_are_changed_as_asked():
    """Nine kinds of draws that change a picture, each with p: about 1 - (1 - p)^9 of the images."""
    key, x = noise.keys(2, 4000), torch.rand(1, 1, 6, 6).expand(4000, -1, -1, -1)
    changed = (augment.augmented(x, key, 0.1, "a") - x).abs().amax((1, 2, 3)) > 1e-6
    # some change nothing: half of the flips, a quarter of the turns, half of the whole shifts
    assert 0.45 < changed.double().mean() < 1 - 0.9**10


def test_an_image_is_changed_by_its_key_alone():
    key, x = noise.keys(3, 5), torch.rand(5, 3, 8, 8)
    together = augment.augmented(x, key, 0.8, "a")
    assert torch.allclose(augment.augmented(x[3:4], key[3:4], 0.8, "a"), together[3:4], atol=1e-6)
    assert not torch.allclose(augment.augmented(x, key, 0.8, "b"), together, atol=1e-2)


def test_colours_keep_grey_grey_and_the_luma_of_turned_hues():
    key = noise.keys(4, 50)
    grey = torch.rand(50, 1, 4, 4).expand(-1, 3, -1, -1)
    out = augment.coloured(grey, key, 1.0, "a")
    assert torch.allclose(out[:, 0], out[:, 1], atol=1e-5)
    assert torch.allclose(out[:, 0], out[:, 2], atol=1e-5)


def test_it_can_be_differentiated_twice():
    key = noise.keys(5, 1)
    place = augment.placement(torch.zeros(1, 3, 3, 3), key, 0.9, "a").double()
    run = lambda x: (augment.warped(x, place) ** 3).sum()  # noqa: E731
    small = X[:1, :, :3, :3].detach().requires_grad_(True)
    assert torch.autograd.gradcheck(run, (small,))
    assert torch.autograd.gradgradcheck(run, (small,))


def test_the_probability_is_led_to_the_target():
    objective = GanObjective(GanObjective.Settings(ada_target=0.6, ada_images=100, ada_every=2))
    d = objective.phases[0]
    for sign in (1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 0.6, 0.6):
        objective.after(d, {"sign": 5 * sign, "images": 5}, True)
    assert objective.state["augment"] == pytest.approx(0.1)  # up, up, down, and at the target no change
    objective.after(objective.phases[-1], {"images": 5}, True)
    assert objective.state["updates"] == 0
    for _ in range(8):
        objective.after(d, {"sign": -50.0, "images": 50}, True)
    assert objective.state["augment"] == 0


def test_evaluation_sees_images_as_they_are():
    objective = GanObjective(GanObjective.Settings(ada_target=0.6))
    objective.state["augment"] = 1.0
    x, batch = torch.rand(4, 1, 8, 8), {"key": noise.keys(6, 4)}
    assert not torch.allclose(objective.augmented(x, batch, "a"), x)
    with torch.no_grad():
        assert objective.augmented(x, batch, "a") is x


def test_mixed_precision_moves_no_pixel():
    key, x = noise.keys(8, 8), torch.rand(8, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = augment.augmented(x, key, 0.8, "a")
    assert torch.equal(found, augment.augmented(x, key, 0.8, "a"))
