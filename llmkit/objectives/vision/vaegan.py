"""The VAE-GAN hybrid (Larsen et al. 2016, algorithm 1): likeness is measured in the discriminator's features.

    d   softplus(-D(x)) + 1/2 (softplus(D(x~)) + softplus(D(x_p)))        x~ = dec(z), z ~ q(z|x)
    g   encoder: KL + L;   decoder: gamma L + softplus(-D) of x~ and x_p   x_p = dec(N(0, I))
        L = -log N(F(x); F(x~), I), F d's last features

One net holds encoder and decoder, so the two weigh the same L differently: its gradient is multiplied by
1 / gamma where it enters the encoder, and d's verdict on x~ stops before it.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.vision import comparison
from llmkit.objectives.vision.gan import real
from llmkit.objectives.vision.vae import draw
from llmkit.registry import register
from llmkit.vision import gallery, likelihood, noise

SHOWN = 64
"""Images in a grid."""


@register("objective", "vaegan")
class VaeGanObjective(Objective):
    """Trains g (a VAE) and d of a vaegan."""

    class Settings(Section):
        name: Literal["vaegan"] = "vaegan"
        beta: float = Field(1.0, ge=0, description="weight of the KL term")
        likeness: float = Field(
            0.1, gt=0, description="gamma: weight of likeness against fooling d, in the decoder"
        )
        pixels: float = Field(0.0, ge=0, description="weight of the pixels' own -log p(x|z), in both halves")

        distance: comparison.Settings | None = Field(
            None, description="compare generated with held-out images at evaluations; default: do not"
        )

    phases = (Phase("d", "d"), Phase("g", "g"))
    watched: Tensor | None = None
    """The first held-out images of the last evaluation and their reconstructions, one after the other."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        if settings.distance:
            self.comparison = comparison.Comparison(settings.distance, "g")

    def build(self, make):
        return {"g": make("g"), "d": make("d")}

    def count(self, phase, batch):
        return {"images": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        each, seen = (self.discriminate if phase.name == "d" else self.generate)(nets, batch)
        valid = batch["valid"]
        sums = {name: (value * valid).sum().detach() for name, value in seen.items()}
        return (each * valid).sum() / total["images"], {"images": valid.sum(), **sums}

    def discriminate(self, nets, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss of each image (B,), and what was seen of each."""
        d, label = nets["d"], batch["label"]
        with torch.no_grad():
            mean, log_var = nets["g"].encode(target(nets["g"], batch), label)
            z, _ = draw(mean, log_var, batch["key"], 1)
            fakes = [picture(nets["g"], code, label) for code in (z[:, 0], prior(nets["g"], batch, "d"))]
        on_real, *on_fake = (d(x, label).float() for x in (real(batch), *fakes))
        each = F.softplus(-on_real) + 0.5 * sum(F.softplus(score) for score in on_fake)
        right = (on_real > 0).int() + 0.5 * sum((score < 0).int() for score in on_fake)
        return each, {"loss": each, "real": on_real, "fake": 0.5 * sum(on_fake), "right": right}

    def generate(self, nets, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of encoder and decoder of each image (B,), and what it is made of."""
        g, d, label, s = nets["g"], nets["d"], batch["label"], self.settings
        x = target(g, batch)
        mean, log_var = g.encode(x, label)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        z = draw(mean, log_var, batch["key"], 1)[0][:, 0]
        out = g.decode(scaled(z, 1 / s.likeness), label)
        again = 2 * likelihood.mean(g.settings.likelihood, out) - 1
        _, wanted = d.both(real(batch), label)
        _, found = d.both(again, label)
        likeness = 0.5 * (found.float() - wanted.float()).square().sum(1)
        likeness = likeness + 0.5 * found.shape[1] * math.log(2 * math.pi)
        fooled = [picture(g, code, label) for code in (z.detach(), prior(g, batch, "g"))]
        fooling = 0.5 * sum(F.softplus(-d(fake, label).float()) for fake in fooled)
        plain = g.decode(z, label) if s.pixels else out.detach()  # numerically the same
        pixels = likelihood.nll(g.settings.likelihood, plain, x, g.settings.sigma)
        each = s.beta * kl + s.likeness * likeness + fooling + s.pixels * pixels
        if not torch.is_grad_enabled() and self.watched is None:
            shown = likelihood.mean(g.settings.likelihood, g.decode(mean[:SHOWN], label[:SHOWN]))
            self.watched = gallery.pairs(batch["image"][:SHOWN].float() / 255, shown)
        seen = {"loss": each, "kl": kl, "likeness": likeness, "fooling": fooling, "reconstruction": pixels}
        return each, seen

    def metrics(self, phase, seen):
        """Means over images; `reconstruction` is the pixels' -log p(x|z), `accuracy` d's on real and fake."""
        names = ("loss", "real", "fake", "kl", "likeness", "fooling", "reconstruction")
        out = {name: seen[name] / seen["images"] for name in names if name in seen}
        if "right" in seen:
            out["accuracy"] = seen["right"] / (2 * seen["images"])
        return out

    def show(self, nets):
        """Samples, by class if the model knows any, and held-out images beside their reconstructions."""
        files = gallery.looks(nets["g"], SHOWN)
        if self.watched is not None:
            files["reconstructions.png"] = gallery.sheet(self.watched)
            self.watched = None
        return files


def target(g, batch) -> Tensor:
    """What g's likelihood is of, which is what its encoder sees: (B, C, Y, X)."""
    return likelihood.target(g.settings.likelihood, batch["image"], batch["key"])


def scaled(z: Tensor, factor: float) -> Tensor:
    """z, whose gradient is multiplied by `factor` on its way back."""
    return z.detach() + factor * (z - z.detach())


def picture(g, z: Tensor, label: Tensor) -> Tensor:
    """The expected image at z (B, L), as d sees it: (B, C, Y, X) in [-1, 1]."""
    return 2 * likelihood.mean(g.settings.likelihood, g.decode(z, label)) - 1


def prior(g, batch, purpose: str) -> Tensor:
    """(B, L) from N(0, I); different for either phase."""
    return noise.normal(batch["key"], f"latent for {purpose}", (g.settings.latent_dim,))
