"""dSprites (Matthey et al. 2017) drawn from its definition: all 737,280 combinations of factors, on demand.

    shape 3 (square, ellipse, heart) x scale 6 x orientation 40 x x 32 x y 32      64 x 64, black or white

The published file cannot be had offline, so the outlines are our own: compare figures within llmkit only.
As there, scale runs from 0.5 to 1, orientation over a full turn, positions over the middle of the image.
"""

import hashlib
import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from llmkit.config import Section
from llmkit.data.order import subset
from llmkit.registry import register
from llmkit.splitmix import mix

FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""How many values each factor has, the last varying fastest."""
COUNT = math.prod(FACTORS.values())
RADIUS = 0.19
"""Half the width of the largest square, in widths of the image."""


@register("dataset", "dsprites")
class DSprites:
    """One split of the combinations, held out by hash; each is drawn when it is asked for."""

    class Settings(Section):
        name: Literal["dsprites"] = "dsprites"
        heldout_frac: float = Field(0.05, gt=0, lt=1, description="share of the combinations held out")
        rows: int | None = Field(
            None, gt=0, description="use so many of the split only, the same ones in every run"
        )
        size: int = Field(64, gt=7, description="height and width")
        quick_values: ClassVar[dict[str, Any]] = {"rows": 256, "size": 16}

    tokenizer_dir = None
    channels, classes = 1, 3
    names = ("square", "ellipse", "heart")
    licences: ClassVar = {"dsprites": {"licence": "drawn by llmkit", "origin": "the definition of dSprites"}}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        self.settings, self.size = settings, settings.size
        held = _hashes() < settings.heldout_frac * 2**32
        places = np.flatnonzero(held if split == "heldout" else ~held)
        self.places = places[subset(len(places), settings.rows)]  # the first ones vary in position alone
        self._seed = mix(seed) if split == "train" else 0  # held-out draws are the same for every run
        self.fingerprint = hashlib.sha256(f"{split} {settings}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """As of other images (images.py), with `factors` (B, 5) int64; of no rows, one that is not valid."""
        places = self.places[[row for _, row in rows] or [0]]
        keys = np.array([mix(self._seed ^ mix(sample)) for sample, _ in rows] or [0], np.uint64)
        values = factors(places)
        image = torch.from_numpy(drawn(values, self.size))[:, None]
        return {
            "image": image if rows else torch.zeros_like(image),
            "label": torch.from_numpy(values[:, 0]),
            "factors": torch.from_numpy(values),
            "key": torch.from_numpy(keys.view(np.int64)),
            "valid": torch.full((len(places),), bool(rows)),
        }


def factors(places: np.ndarray) -> np.ndarray:
    """Numbers of combinations (B,) -> the values of their factors (B, 5) int64."""
    return np.stack(np.unravel_index(places, tuple(FACTORS.values())), 1).astype(np.int64)


def drawn(values: np.ndarray, size: int) -> np.ndarray:
    """Values of factors (B, 5) -> (B, size, size) uint8 of 0 and 255."""
    shape, scale, orientation, x, y = (column[:, None, None] for column in values.T)
    scale = 0.5 + 0.5 * scale / 5
    angle = 2 * np.pi * orientation / 39  # as published: the first and the last are the same
    middle = [0.5 + 0.5 * (place / 31 - 0.5) for place in (x, y)]
    grid = (np.arange(size) + 0.5) / size
    across, down = grid[None, None] - middle[0], grid[None, :, None] - middle[1]
    reach = RADIUS * scale
    u = (np.cos(angle) * across + np.sin(angle) * down) / reach
    v = (np.cos(angle) * down - np.sin(angle) * across) / reach
    inside = np.select([shape == 0, shape == 1], [_square(u, v), _ellipse(u, v)], _heart(u, v))
    return np.where(inside, 255, 0).astype(np.uint8)


def _square(u, v):
    return np.maximum(abs(u), abs(v)) <= 0.9


def _ellipse(u, v):
    return np.square(u) + np.square(v / 0.6) <= 1


def _heart(u, v):
    """(u^2 + w^2 - 1)^3 <= u^2 w^3, upside down and fitted to the square."""
    u, w = np.square(1.2 * u), -1.2 * v + 0.1
    square = np.square(w)
    inner = u + square - 1
    return inner * np.square(inner) <= u * square * w  # a power of 3 takes numpy ten times as long


def _hashes() -> np.ndarray:
    """A 32-bit number for every combination, the same on any machine."""
    x = np.arange(COUNT, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(32)
