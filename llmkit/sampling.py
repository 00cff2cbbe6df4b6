"""`llmkit sample CKPT --out grid.png`: images from any generative vision model."""

from pathlib import Path

import torch

from llmkit import dist
from llmkit.errors import ConfigError
from llmkit.opened import open_model
from llmkit.vision import gallery, noise

BATCH = 64
"""Images that are made at once; which they are does not depend on it."""


def sample(
    ckpt: str,
    out: Path,
    *,
    count: int = 64,
    class_: int | None = None,
    truncation: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Write a grid of `count` images, of class `class_` or of each class in turn, as a PNG file.

    Image i is a function of (seed, i). ConfigError if the model knows no such class.
    """
    where = dist.start(device)
    net = open_model(ckpt, head="image", device=where).net
    classes = net.settings.classes if net.settings.conditional else 0
    if class_ is not None and class_ >= classes:
        known = f"0 to {classes - 1}" if classes else "none: it was not trained with conditional=true"
        raise ConfigError(f"--class: {class_} is not a class of the model, which knows {known}")
    key = noise.keys(seed, count, where)
    label = torch.arange(count, device=where) % max(1, classes)
    if class_ is not None:
        label = torch.full_like(label, class_)
    batches = zip(key.split(BATCH), label.split(BATCH), strict=True)
    images = torch.cat([net.sample(*batch, truncation) for batch in batches])
    out.write_bytes(gallery.sheet(images, columns=round(count**0.5)))
