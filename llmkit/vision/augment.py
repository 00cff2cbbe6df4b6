"""Adaptive discriminator augmentation (Karras et al. 2020a): what d sees of real and fake images alike.

    x, key, p ─► one affine map of each image (flip, turn, shift, scale, rotate) ─► one of its colours

Every kind of change happens to an image with probability p, by draws that are a function of its key. Images
are resampled bilinearly, by gathers that can be differentiated twice (R1 is taken through them), and mirrored
beyond their edges. The low-pass filters around the resampling and the corruptions of the paper are not here.
"""

import math

import torch
from torch import Tensor

from llmkit.vision import noise

LUMA = (1 / math.sqrt(3),) * 3
"""The axis of grey in RGB."""


def augmented(x: Tensor, key: Tensor, p: float, purpose: str) -> Tensor:
    """x (B, C, Y, X) in [-1, 1], keys (B,) -> the same shape, in fp32; p = 0 changes nothing.

    Places in bf16 would be whole pixels off, so autocast is left aside here.
    """
    if p == 0:
        return x
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        return coloured(warped(x, placement(x, key, p, purpose)), key, p, purpose)


def placement(x: Tensor, key: Tensor, p: float, purpose: str) -> Tensor:
    """Where each pixel comes from: (B, 2, 3), from places relative to the middle to such ones, in pixels."""
    B, Y, X = len(x), *x.shape[2:]
    u = noise.uniform(key, f"{purpose}, which places", (8,))
    n = noise.normal(key, f"{purpose}, how far", (4,))
    v = noise.uniform(key, f"{purpose}, how much", (6,))
    happens = u < p
    only = lambda i, value, other: torch.where(happens[:, i], value, torch.full_like(value, other))  # noqa: E731
    turns = only(1, (v[:, 0] * 4).floor(), 0) * (math.pi / 2)
    whole = [((2 * v[:, 1 + i] - 1) * side / 8).round() for i, side in enumerate((X, Y))]
    rarer = u[:, 5:7] < 1 - math.sqrt(1 - p)  # two rotations, of which either happens with probability p
    angles = [torch.where(rarer[:, i], (2 * v[:, 3 + i] - 1) * math.pi, 0 * turns) for i in range(2)]
    zoom, stretch = (only(2 + i, 2 ** (0.2 * n[:, i]), 1) for i in range(2))
    steps = [
        scaled(only(0, torch.where(v[:, 5] < 0.5, -1.0, 1.0), 1), torch.ones_like(zoom)),
        rotated(turns),
        shifted(only(4, whole[0], 0), only(4, whole[1], 0)),
        scaled(zoom, zoom),
        rotated(angles[0]),
        scaled(stretch, 1 / stretch),
        rotated(angles[1]),
        shifted(only(7, n[:, 2] * X / 8, 0), only(7, n[:, 3] * Y / 8, 0)),
    ]
    out = torch.eye(3, device=x.device).expand(B, 3, 3)
    for step in steps:
        out = out @ step
    return out[:, :2]


def rows(*entries: Tensor) -> Tensor:
    """Nine (B,) tensors -> (B, 3, 3)"""
    return torch.stack(entries, 1).view(-1, 3, 3)


def scaled(across: Tensor, down: Tensor) -> Tensor:
    o, one = torch.zeros_like(across), torch.ones_like(across)
    return rows(across, o, o, o, down, o, o, o, one)


def shifted(across: Tensor, down: Tensor) -> Tensor:
    o, one = torch.zeros_like(across), torch.ones_like(across)
    return rows(one, o, across, o, one, down, o, o, one)


def rotated(angle: Tensor) -> Tensor:
    o, one = torch.zeros_like(angle), torch.ones_like(angle)
    return rows(angle.cos(), -angle.sin(), o, angle.sin(), angle.cos(), o, o, o, one)


def warped(x: Tensor, place: Tensor) -> Tensor:
    """x (B, C, Y, X) read at `place` (B, 2, 3) of each pixel, bilinearly; beyond an edge it is mirrored."""
    B, C, Y, X = x.shape
    across = torch.arange(X, device=x.device, dtype=place.dtype) - (X - 1) / 2
    down = torch.arange(Y, device=x.device, dtype=place.dtype) - (Y - 1) / 2
    here = torch.stack(
        [across.expand(Y, X), down[:, None].expand(Y, X), torch.ones_like(place[0, 0, 0]).expand(Y, X)]
    )
    there = (place @ here.flatten(1)).view(B, 2, Y * X)
    (left, right, by_x), (top, below, by_y) = (
        _neighbours(there[:, i] + (side - 1) / 2, side) for i, side in enumerate((X, Y))
    )
    flat = x.flatten(2)
    read = lambda row, column: flat.gather(2, (row * X + column)[:, None].expand(B, C, Y * X))  # noqa: E731
    by_x, by_y = by_x[:, None].to(x.dtype), by_y[:, None].to(x.dtype)
    upper = read(top, left) * (1 - by_x) + read(top, right) * by_x
    lower = read(below, left) * (1 - by_x) + read(below, right) * by_x
    return (upper * (1 - by_y) + lower * by_y).view_as(x)


def _neighbours(place: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels beside a place on an axis, mirrored at its ends, and the share of the second."""
    around = torch.remainder(place + 0.5, 2 * side)
    place = (torch.where(around < side, around, 2 * side - around) - 0.5).clamp(0, side - 1)
    first = place.floor()
    return first.long(), (first.long() + 1).clamp(max=side - 1), place - first


def coloured(x: Tensor, key: Tensor, p: float, purpose: str) -> Tensor:
    """Brightness and contrast; with three channels also the luma's sign, hue and saturation."""
    happens = noise.uniform(key, f"{purpose}, which colours", (5,)) < p
    n = noise.normal(key, f"{purpose}, what colours", (3,))
    v = noise.uniform(key, f"{purpose}, how coloured", (2,))
    only = lambda i, value, other: torch.where(happens[:, i], value, torch.full_like(value, other))  # noqa: E731
    contrast = only(1, 2 ** (0.5 * n[:, 1]), 1)
    shift = contrast * only(0, 0.2 * n[:, 0], 0)
    if x.shape[1] != 3:
        return x * contrast[:, None, None, None] + shift[:, None, None, None]
    axis = torch.tensor(LUMA, device=x.device)
    along = axis[:, None] * axis[None]
    eye = torch.eye(3, device=x.device)
    flip = eye - 2 * along * only(2, (v[:, 0] < 0.5).float(), 0)[:, None, None]
    hue = only(3, (2 * v[:, 1] - 1) * math.pi, 0)[:, None, None]
    cross = torch.linalg.cross(axis.expand(3, 3), eye).T  # cross @ c is axis x c
    turn = hue.cos() * eye + hue.sin() * cross + (1 - hue.cos()) * along
    saturation = along + (eye - along) * only(4, 2 ** n[:, 2], 1)[:, None, None]
    mix = saturation @ turn @ flip
    moved = (mix * contrast[:, None, None]) @ x.flatten(2) + (mix @ shift[:, None, None].expand(-1, 3, 1))
    return moved.view_as(x)
