"""Variational bounds on the likelihood of images: ELBO, beta, annealed, with a capacity, importance-weighted.

elbo   loss = -log p(x|z) + beta KL(q(z|x) || N(0, I)),   z ~ q(z|x)           (Kingma & Welling 2014)
       with a capacity: -log p(x|z) + beta |KL - C|, C rising from 0             (Burgess et al. 2018)
       with a total correlation t: -log p(x|z) + MI(x; z) + t TC(z) + sum_j KL(q(z_j) || p(z_j)), where q(z)
       is the mean of the micro-batch's posteriors (Chen et al. 2018, eq. 4; the constants log N are left out)
iwae   loss = -log 1/k sum_k p(x, z_k) / q(z_k|x)                                (Burda et al. 2016, eq. 8)

Nats: sums over values and latent dimensions, mean over the images of the global batch. Held-out figures are
always of the bound itself, with beta 1.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.vision import comparison
from llmkit.registry import register
from llmkit.vision import gallery, likelihood, noise, walk

SHOWN = 64
"""Images in a grid."""
TRAVERSED, STEPS = 12, 9
"""Latent dimensions that are traversed, and images of each."""


@register("objective", "vae")
class VaeObjective(Objective):
    """Trains `model`, a vae."""

    class Settings(Section):
        name: Literal["vae"] = "vae"
        bound: Literal["elbo", "iwae"] = Field("elbo", description="which bound is maximised")
        particles: int = Field(1, gt=0, description="draws of z for each image; iwae: usually 5 or 50")
        beta: float = Field(
            1.0, ge=0, description="weight of the KL term; above 1 disentangles (Higgins 2017)"
        )
        capacity: float | None = Field(None, gt=0, description="nats that the KL is led to, instead of to 0")
        total_correlation: float = Field(
            1.0, ge=0, description="weight of the latent dimensions' dependence (beta-TC-VAE); 1: plain ELBO"
        )
        anneal_steps: int = Field(0, ge=0, description="steps over which beta (or the capacity) rises from 0")
        binarise: likelihood.Binarise = Field("none", description="what is done to grey levels beforehand")
        eval_particles: int = Field(
            0, ge=0, description="draws for the held-out importance-weighted NLL; 0: none"
        )

        distance: comparison.Settings | None = Field(
            None, description="compare generated with held-out images at evaluations; default: do not"
        )

        @model_validator(mode="after")
        def _one_at_a_time(self):
            if self.total_correlation != 1 and (self.bound, self.beta, self.capacity) != ("elbo", 1, None):
                raise ValueError("total_correlation takes the place of beta and capacity; leave these out")
            if self.bound == "iwae" and (self.beta, self.capacity, self.anneal_steps) != (1, None, 0):
                raise ValueError("bound: iwae has no KL to weigh; leave beta, capacity, anneal_steps out")
            return self

    phases = (Phase("train", "model"),)
    walked = b""
    watched: Tensor | None = None
    """The first held-out images of the last evaluation and their reconstructions, one after the other."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.batch_statistics = settings.total_correlation != 1
        if settings.distance:
            self.comparison = comparison.Comparison(settings.distance, "model")

    def build(self, make):
        """ConfigError if grey levels would be binarised for a likelihood of all 256."""
        nets = super().build(make)
        if nets["model"].settings.likelihood == "logistic" and self.settings.binarise != "none":
            raise ConfigError(
                "objective.binarise: a logistic likelihood is of 256 grey levels; set it to none, or "
                "model.likelihood=bernoulli"
            )
        return nets

    def prepare(self, group, nets, total, key):
        """Adds `step`, of which annealing is a function."""
        return [{**batch, "step": key} for batch in group]

    def count(self, phase, batch):
        return {"images": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        net, s, valid = nets["model"], self.settings, batch["valid"]
        kind, label = net.settings.likelihood, batch["label"]
        x = likelihood.target(kind, batch["image"], batch["key"], s.binarise)
        mean, log_var = net.encode(x, label)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        seen = {"images": valid.sum(), "kl": (kl * valid).sum().detach()}
        if s.bound == "iwae":
            bound = -log_mean(self.log_weights(net, x, label, mean, log_var, batch["key"], s.particles))
            training = bound
        else:
            z, _ = draw(mean, log_var, batch["key"], s.particles)
            reconstruction = self.reconstruction(net, x, label, z).mean(1)
            bound = reconstruction + kl
            training = reconstruction + self.penalty(kl, batch.get("step", 0))
            if s.total_correlation != 1:
                own = dependence(z[:, 0], mean, log_var, valid)
                training = training + (s.total_correlation - 1) * own
                seen["total_correlation"] = (own * valid).sum().detach()
            seen["reconstruction"] = (reconstruction * valid).sum().detach()
        seen["loss"] = (bound * valid).sum().detach()
        if not torch.is_grad_enabled() and self.watched is None:
            again = likelihood.mean(kind, net.decode(mean[:SHOWN], label[:SHOWN]))
            self.watched = gallery.pairs(batch["image"][:SHOWN].float() / 255, again)
            self.walked = self.traversals(net, mean, log_var, label, batch["key"])
        if s.eval_particles and not torch.is_grad_enabled():
            weights = self.log_weights(net, x, label, mean, log_var, batch["key"], s.eval_particles)
            seen["nll"] = -(log_mean(weights) * valid).sum()
        return (training * valid).sum() / total["images"], seen

    def traversals(self, net, mean: Tensor, log_var: Tensor, label: Tensor, key: Tensor) -> bytes:
        """A held-out image, a row for each latent dimension led from -3 to 3; the most used ones first."""
        used = (mean.square() + log_var.exp() - 1 - log_var).mean(0)
        dims = used.argsort(descending=True)[:TRAVERSED].tolist()
        return gallery.sheet(
            walk.traversal(net, mean[:1], label[:1], key[:1], dims, STEPS).flatten(0, 1), STEPS
        )

    def penalty(self, kl: Tensor, step: int) -> Tensor:
        """What the KL (B,) costs at `step`."""
        s = self.settings
        risen = min(1.0, step / s.anneal_steps) if s.anneal_steps else 1.0
        if s.capacity is not None:
            return s.beta * (kl - s.capacity * risen).abs()
        return s.beta * risen * kl

    def reconstruction(self, net, x: Tensor, label: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) for each draw: x (B, C, Y, X), z (B, k, L) -> (B, k) nats."""
        k = z.shape[1]
        if k == 1:
            out = net.decode(z[:, 0], label)
            return likelihood.nll(net.settings.likelihood, out, x, net.settings.sigma)[:, None]
        out = net.decode(z.flatten(0, 1), label.repeat_interleave(k))
        repeated = x.repeat_interleave(k, 0)
        return likelihood.nll(net.settings.likelihood, out, repeated, net.settings.sigma).view(-1, k)

    def log_weights(self, net, x, label, mean, log_var, key, k: int) -> Tensor:
        """log p(x, z_k) - log q(z_k|x): (B, k)."""
        z, eps = draw(mean, log_var, key, k)
        prior = -0.5 * z.square().sum(2)
        posterior = -0.5 * (eps.square() + log_var[:, None]).sum(2)
        return prior - posterior - self.reconstruction(net, x, label, z)

    def metrics(self, phase, seen):
        names = ("loss", "reconstruction", "kl", "nll", "total_correlation")
        return {name: seen[name] / seen["images"] for name in names if name in seen}

    def show(self, nets):
        """Samples, by class if the model knows any, ways between them, reconstructions, traversals."""
        files = gallery.looks(nets["model"], SHOWN)
        if self.watched is not None:
            files |= {"reconstructions.png": gallery.sheet(self.watched), "traversals.png": self.walked}
            self.watched = None
        return files


def draw(mean: Tensor, log_var: Tensor, key: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """k draws from each posterior: mean, log_var (B, L) -> z and its standard normal noise, (B, k, L)."""
    eps = noise.normal(key, "posterior", (k, mean.shape[1]))
    return mean[:, None] + (0.5 * log_var).exp()[:, None] * eps, eps


def log_mean(log_weights: Tensor) -> Tensor:
    """log of the mean of exp over the draws: (B, k) -> (B,)."""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def dependence(z: Tensor, mean: Tensor, log_var: Tensor, valid: Tensor) -> Tensor:
    """log q(z) - sum_j log q(z_j) at each z (B, L), q the mean of these rows' posteriors: (B,) nats.

    Its mean over z is the total correlation; rows that are not valid are no part of q.
    """
    log_density = -0.5 * ((z[:, None] - mean).square() / log_var.exp() + log_var + math.log(2 * math.pi))
    log_density = log_density.masked_fill(~valid[None, :, None], -math.inf)  # (B, B, L)
    log_rows = valid.sum().clamp(min=1).log()
    jointly = log_density.sum(2).logsumexp(1) - log_rows
    apart = (log_density.logsumexp(1) - log_rows).sum(1)
    return torch.where(valid, jointly - apart, 0.0)
