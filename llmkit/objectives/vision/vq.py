"""Vector quantisation (van den Oord et al. 2017, eq. 3): -log p(x|e) + |sg(z) - e|^2 + beta |z - sg(e)|^2.

Sums over values, positions and dimensions, mean over images; in a hierarchy (VQ-VAE-2) every level adds the
last two terms. The second alone moves a codebook: a code that nothing chooses stays where it is; see `used`.

With model.codebooks=average the second term is left out, and after every step the codes become moving
averages over the global batch. What is summed for that is a function of the images, so any layout of ranks
keeps the same codes, to rounding.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.registry import register
from llmkit.vision import gallery, likelihood

SHOWN = 64
"""Images in a grid."""


@register("objective", "vq")
class VqObjective(Objective):
    """Trains `model`, a vq or a vq2."""

    class Settings(Section):
        name: Literal["vq"] = "vq"
        commitment: float = Field(0.25, ge=0, description="beta: how strongly the encoder keeps to its codes")
        decay: float = Field(0.99, ge=0, lt=1, description="of averaged codebooks, a step")
        restart: float = Field(
            1.0, ge=0, description="averaged codes with fewer uses a step begin anew at a random z; 0: never"
        )
        only_with = dict.fromkeys(("decay", "restart"), ("model.codebooks", "average"))

    phases = (Phase("train", "model"),)
    watched: Tensor | None = None
    """The first held-out images of the last evaluation and their reconstructions, one after the other."""

    def build(self, make):
        self.nets = {"model": make()}
        return dict(self.nets)

    def count(self, phase, batch):
        return {"images": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        net, valid = nets["model"], batch["valid"]
        kind = net.settings.likelihood
        out, levels = net(batch["image"].float() / 255)
        target = likelihood.target(kind, batch["image"], batch["key"])
        reconstruction = likelihood.nll(kind, out, target, net.settings.sigma)
        gap = lambda a, b: (a - b).square().flatten(1).sum(1)  # noqa: E731
        distance = sum(gap(z.detach(), code) for z, code, _ in levels.values())
        kept = sum(gap(z, code.detach()) for z, code, _ in levels.values())
        each = reconstruction + self.settings.commitment * kept
        averaged = net.settings.codebooks == "average"
        if not averaged:
            each = each + distance
        seen = {"loss": each, "reconstruction": reconstruction, "distance": distance}
        sums = {name: (value * valid).sum().detach() for name, value in seen.items()}
        if not torch.is_grad_enabled():
            for level, (_, _, chosen) in levels.items():
                share = chosen.unique().numel() / net.settings.codes
                sums[f"used_{level}".rstrip("_")] = share * valid.sum()
            if self.watched is None:
                again = likelihood.mean(kind, out[:SHOWN])
                self.watched = gallery.pairs(batch["image"][:SHOWN].float() / 255, again)
        elif averaged:
            for level, (z, _, chosen) in levels.items():
                places = total["images"] * chosen[0].numel()
                tally = net.books[level].tally(z, chosen, batch["key"], valid, places)
                sums |= {f"{level}/{name}": value for name, value in tally.items()}
        return (each * valid).sum() / total["images"], {"images": valid.sum(), **sums}

    def after(self, phase, seen, applied):
        """Bring averaged codebooks up to date."""
        net = self.nets["model"]
        if net.settings.codebooks != "average" or not applied:
            return
        for level, book in net.books.items():
            tally = {name: seen[f"{level}/{name}"] for name in ("uses", "sums", "offers", "offered")}
            book.absorb(tally, self.settings.decay, self.settings.restart)

    def metrics(self, phase, seen):
        """Nats per image; `used` is the share of the codebook that the images of a micro-batch choose."""
        names = ("loss", "reconstruction", "distance", "used", "used_top")
        return {name: seen[name] / seen["images"] for name in names if name in seen}

    def show(self, nets):
        """Held-out images beside their reconstructions."""
        files = {} if self.watched is None else {"reconstructions.png": gallery.sheet(self.watched)}
        self.watched = None
        return files
