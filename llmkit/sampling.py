"""`llmkit sample CKPT --out grid.png`: images from any generative vision model, and walks through latents.

               .png                                 .gif
(a grid)       `count` images                       -
--classes      a column for each class              -
--interpolate  a row for each way                   all ways at once, from image to image and on
--traverse     a row for each latent dimension      all dimensions at once, there and back
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmkit import dist, film
from llmkit.data.captions import numbered, words
from llmkit.errors import ConfigError
from llmkit.log import say
from llmkit.opened import open_model
from llmkit.vision import gallery, noise, walk

BATCH = 64
"""Images that are made at once; which they are does not depend on it."""
COUNTS = {"grid": 64, "classes": 8, "interpolate": 8, "traverse": 12}
"""How many images, rows, ways or dimensions are shown of each if nobody says."""
STEPS = {".png": 9, ".gif": 24}
"""Images of a way, by the kind of file."""


@dataclass(frozen=True)
class Asked:
    """What to make: a key of COUNTS, how many (0: as usual), of which class, from which seed."""

    what: str = "grid"
    count: int = 0
    class_: int | None = None
    caption: str = ""
    """What to draw; a model of captions knows at least one of its words."""
    truncation: float = 1.0
    seed: int = 0
    steps: int = 0
    """Images of each way; 0: as usual."""


def sample(ckpt: str, out: Path, asked: Asked, device: str = "auto") -> None:
    """Write a picture (or, to a .gif, a film) of what `asked` describes.

    Image i is a function of (seed, i), and of its class or caption. ConfigError if the model has no such
    class, knows no classes or none of the caption's words, or has no latent space.
    """
    where = dist.start(device)
    net: Any = open_model(ckpt, head="image", device=where).net
    classes = net.settings.classes if net.settings.conditional else 0
    _refuse(asked, out, net, classes)
    count = asked.count or COUNTS[asked.what]
    key = noise.keys(asked.seed, count, where)
    label = gallery.labels(net, count, where)
    if asked.caption:
        label = _told(asked.caption, net).to(where).expand(count, -1)
    if asked.class_ is not None:
        label = torch.full_like(label, asked.class_)
    steps = asked.steps or STEPS[out.suffix]
    if asked.what == "grid":
        images, columns = _drawn(net, key, label, asked.truncation), round(count**0.5)
    elif asked.what == "classes":
        every = torch.arange(classes, device=where).repeat(count)
        images, columns = _drawn(net, key.repeat_interleave(classes), every, asked.truncation), classes
    else:
        ways = WAYS[asked.what](net, key, label, steps, asked)
        if out.suffix == ".gif":
            out.write_bytes(_film(ways, there_and_back=asked.what == "traverse"))
            return
        images, columns = ways.flatten(0, 1), steps
    out.write_bytes(gallery.sheet(images, columns))


def _refuse(asked: Asked, out: Path, net: Any, classes: int) -> None:
    none = (
        "captions: --caption"
        if net.settings.conditional
        else "none: it was not trained with conditional=true"
    )
    known = f"0 to {classes - 1}" if classes else none
    if asked.class_ is not None and asked.class_ >= classes:
        raise ConfigError(f"--class: {asked.class_} is not a class of the model, which knows {known}")
    if asked.what == "classes" and not classes:
        raise ConfigError(f"--classes: the model knows {known}")
    if asked.what in WAYS and not hasattr(net, "render"):
        raise ConfigError(f"--{asked.what}: a {net.settings.name} has no latent space to walk through")
    suffixes = (".png", ".gif") if asked.what in WAYS else (".png",)
    if out.suffix not in suffixes:
        raise ConfigError(f"--out: {out} does not end in {' or '.join(suffixes)}")


def _told(caption: str, net: Any) -> Tensor:
    """(1, L): the words of the caption that the model knows."""
    known = getattr(net.settings, "words", None) if net.settings.conditional else None
    if not known:
        raise ConfigError("--caption: the model was not trained with data.captions and conditional=true")
    label = torch.from_numpy(numbered([caption], known))
    if unknown := [word for word in words(caption) if word not in known]:
        say(f"--caption: the model does not know {', '.join(unknown)}")
    if not label.any():
        raise ConfigError(f"--caption: no word that the model knows; it knows {', '.join(known[:20])}, ...")
    return label


def _drawn(net: Any, key: Tensor, label: Tensor, truncation: float) -> Tensor:
    batches = zip(key.split(BATCH), label.split(BATCH), strict=True)
    return torch.cat([net.sample(*batch, truncation) for batch in batches])


def _interpolated(net: Any, key: Tensor, label: Tensor, steps: int, asked: Asked) -> Tensor:
    return walk.interpolation(net, key, label, steps, asked.truncation)


@torch.no_grad()
def _traversed(net: Any, key: Tensor, label: Tensor, steps: int, asked: Asked) -> Tensor:
    dims = list(range(min(len(key), net.settings.latent_dim)))
    latent = net.latents(key[:1], label[:1], asked.truncation)
    return walk.traversal(net, latent, label[:1], key[:1], dims, steps)


WAYS: dict[str, Callable[..., Tensor]] = {"interpolate": _interpolated, "traverse": _traversed}
"""Images by way and step: (ways, steps, C, Y, X)."""


def _film(ways: Tensor, there_and_back: bool) -> bytes:
    """All ways side by side, a frame for each step."""
    from PIL import Image

    scale, columns = max(1, 64 // ways.shape[-1]), round(len(ways) ** 0.5)
    grids = [
        gallery.grid(ways[:, step], columns).repeat(scale, 0).repeat(scale, 1)
        for step in range(ways.shape[1])
    ]
    frames = [Image.fromarray(grid[..., 0] if grid.shape[2] == 1 else grid) for grid in grids]
    return film.gif([*frames, *frames[-2:0:-1]] if there_and_back else frames, seconds=0.1)
