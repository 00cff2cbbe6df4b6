"""Adversarial training: a discriminator's phase, perhaps its lazy penalty, a generator's phase.

    d     `critic_updates` times, each on fresh images and noise; fakes are made without gradient
    r1    every `r1_every` steps: gamma/2 |grad_x D(x)|^2 on real images, times `r1_every` (Karras 2020)
    g     once, through a frozen d

    nonsaturating   d: softplus(-D(x)) + softplus(D(G(z)))          g: softplus(-D(G(z)))  (Goodfellow 2014)
    hinge           d: relu(1 - D(x)) + relu(1 + D(G(z)))           g: -D(G(z))            (Lim & Ye 2017)
    wasserstein     d: D(G(z)) - D(x), clamped weights or a penalty g: -D(G(z))            (Arjovsky 2017)
    relativistic    d: softplus(D(G(z)) - D(x))                     g: softplus(D(x) - D(G(z)))  (R3GAN)

With `ada_target`, d sees images augmented with a probability that is led so that it is right about so many
real ones: mean sign of D(x) = target (Karras et al. 2020a); the probability is state, kept in checkpoints.

The penalty lambda (|grad_x D| - 1)^2 is taken between a real and a fake image (Gulrajani et al. 2017).
Weight clamping, EMA and the two optimisers' settings are the recipe's: optim.nets.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.vision import collapse, comparison
from llmkit.objectives.watch import heed
from llmkit.registry import register
from llmkit.vision import augment, gallery, noise

SHOWN = 64
"""Images in a grid."""


@register("objective", "gan")
class GanObjective(Objective):
    """Trains g and d of a model that has these parts."""

    class Settings(Section):
        name: Literal["gan"] = "gan"
        loss: Literal["nonsaturating", "hinge", "wasserstein", "relativistic"] = Field(
            "nonsaturating", description="which game is played"
        )
        critic_updates: int = Field(1, gt=0, description="discriminator steps for each generator step")
        gradient_penalty: float = Field(0.0, ge=0, description="lambda of WGAN-GP, usually 10; 0: none")
        r1: float = Field(0.0, ge=0, description="gamma of the penalty on real images; 0: none")
        r1_every: int = Field(16, gt=0, description="steps between the visits of that penalty")
        r2: float = Field(0.0, ge=0, description="gamma of the same penalty on fakes, every step; 0: none")
        distance: comparison.Settings | None = Field(
            None, description="compare generated with held-out images at evaluations; default: do not"
        )
        ada_target: float = Field(
            0.0, ge=0, lt=1, description="mean sign of d on real images, usually 0.6; 0: no augmentation"
        )
        ada_images: int = Field(
            500_000, gt=0, description="images over which the probability of augmentation can rise to 1"
        )
        ada_every: int = Field(4, gt=0, description="updates of d between changes of that probability")
        stop: collapse.StopRules = collapse.StopRules()
        only_with = {"r1_every": ("r1",), "ada_images": ("ada_target",), "ada_every": ("ada_target",)}

        @model_validator(mode="after")
        def _bounded(self):
            if self.r2 and self.loss != "relativistic":
                raise ValueError("r2 belongs to the relativistic loss; set it to 0")
            if self.stop.accuracy and self.loss in ("wasserstein", "relativistic"):
                raise ValueError("stop.accuracy: scores of this loss have no zero; set it to 0")
            if self.ada_target and self.loss in ("wasserstein", "relativistic"):
                raise ValueError("ada_target: scores of this loss have no zero, so no sign; set it to 0")
            if self.stop.modes and not self.distance:
                raise ValueError("stop.modes needs an extractor to tell classes by; set distance")
            return self

    def __init__(self, settings: Settings):
        super().__init__(settings)
        s = settings
        twice = bool(s.gradient_penalty or s.r2)
        phases = [Phase("d", "d", updates=s.critic_updates, double_backward=twice), Phase("g", "g")]
        if s.r1:
            phases.insert(1, Phase("r1", "d", every=s.r1_every, double_backward=True))
        self.phases = tuple(phases)
        self.comparison = comparison.Comparison(s.distance, "g", self.compared) if s.distance else None
        self._warnings: dict[str, str] = {}
        self.draws = s.critic_updates
        if s.ada_target:
            self.state |= {"augment": 0.0, "sign": 0.0, "signed": 0.0, "updates": 0.0}

    def build(self, make):
        nets = {"g": make("g"), "d": make("d")}
        norms = (nn.modules.batchnorm._BatchNorm,)
        self.batch_statistics = any(isinstance(m, norms) for net in nets.values() for m in net.modules())
        return nets

    def rows(self, phase, update, group):
        """Update u of d has draw u to itself; g and r1 take the first."""
        size = len(group) // self.draws
        return group[update * size : (update + 1) * size] if phase.name == "d" else group[:size]

    def count(self, phase, batch):
        return {"images": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        losses = {"d": self.discriminate, "r1": self.regularise, "g": self.generate}
        each, seen = losses[phase.name](nets, batch)
        valid = batch["valid"]
        sums = {name: (value * valid).sum().detach() for name, value in seen.items()}
        return (each * valid).sum() / total["images"], {"images": valid.sum(), **sums}

    def discriminate(self, nets, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss of each image (B,), and what was seen of each."""
        s, d, label = self.settings, nets["d"], batch["label"]
        x = self.augmented(real(batch), batch, "real for d")
        with torch.no_grad():
            fake = nets["g"](latents(nets["g"], batch, "d"), label, batch["key"]).float()
        fake = self.augmented(fake, batch, "fake for d")
        on_real, on_fake = d(x, label).float(), d(fake, label).float()
        each = {
            "nonsaturating": lambda: F.softplus(-on_real) + F.softplus(on_fake),
            "hinge": lambda: F.relu(1 - on_real) + F.relu(1 + on_fake),
            "wasserstein": lambda: on_fake - on_real,
            "relativistic": lambda: F.softplus(on_fake - on_real),
        }[s.loss]()
        seen = {
            "loss": each,
            "real": on_real,
            "fake": on_fake,
            "right": (on_real > 0).int() + (on_fake < 0).int(),
        }
        if s.ada_target:
            seen["sign"] = on_real.sign()
        if s.gradient_penalty and torch.is_grad_enabled():
            mix = noise.uniform(batch["key"], "mix", (1, 1, 1))
            length = slope(d, mix * x + (1 - mix) * fake, label).norm(dim=1)
            each = each + s.gradient_penalty * (length - 1).square()
            seen["slope"] = length
        if s.r2 and torch.is_grad_enabled():
            each = each + 0.5 * s.r2 * slope(d, fake, label).square().sum(1)
        return each, seen

    def regularise(self, nets, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The lazy penalty of each real image (B,): a matter of training alone."""
        if not torch.is_grad_enabled():
            return batch["valid"].float(), {}
        x = self.augmented(real(batch), batch, "real for r1")
        squares = slope(nets["d"], x, batch["label"]).square().sum(1)
        return 0.5 * self.settings.r1 * self.settings.r1_every * squares, {"slope": squares.sqrt()}

    def generate(self, nets, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss of each image (B,)."""
        g, d, label = nets["g"], nets["d"], batch["label"]
        fake = g(latents(g, batch, "g"), label, batch["key"])
        score = d(self.augmented(fake, batch, "fake for g"), label).float()
        if self.settings.loss == "relativistic":
            x = self.augmented(real(batch), batch, "real for g")
            each = F.softplus(d(x, label).float() - score)
        else:
            each = F.softplus(-score) if self.settings.loss == "nonsaturating" else -score
        return each, {"loss": each}

    def augmented(self, x: Tensor, batch, purpose: str) -> Tensor:
        """What d is shown of images x in training: augmented ones, with the probability that state holds."""
        p = self.state.get("augment", 0.0) if torch.is_grad_enabled() else 0.0
        return augment.augmented(x, batch["key"], p, purpose)

    def after(self, phase, seen, applied):
        """Heed the stop rules; every `ada_every` updates of d, a step of the probability to its target."""
        s, state = self.settings, self.state
        if "grad_norm" in seen and (s.stop.accuracy or s.stop.grad_norm):
            sums = {name: float(value) for name, value in seen.items()}
            figures = self.metrics(phase, sums) if phase.name == "d" else {}
            found = collapse.of_update(s.stop, phase.name, figures, sums["grad_norm"])
            self._told(phase.name, *heed(found, s.stop.patience, state))
        if phase.name != "d" or not s.ada_target:
            return
        state["sign"] += float(seen["sign"])
        state["signed"] += float(seen["images"])
        state["updates"] += 1
        if state["updates"] < s.ada_every:
            return
        apart = state["sign"] / max(state["signed"], 1) - s.ada_target
        step = math.copysign(state["signed"] / s.ada_images, apart) if apart else 0.0
        state["augment"] = min(1.0, max(0.0, state["augment"] + step))
        state |= {"sign": 0.0, "signed": 0.0, "updates": 0.0}

    def compared(self, figures: dict[str, float]) -> None:
        """Heed the stop rules that are about an evaluation."""
        found = collapse.of_evaluation(self.settings.stop, int(figures.get("modes", 0)), self.state)
        self._told("evaluation", *heed(found, collapse.MODES_PATIENCE, self.state))

    def _told(self, who: str, warning: str, verdict: str) -> None:
        """What one phase (or evaluations) warns of stands until the same one takes it back."""
        self._warnings[who] = warning
        self.warning = next(filter(None, self._warnings.values()), "")
        self.verdict = self.verdict or verdict

    def metrics(self, phase, seen):
        """Means over images; `accuracy` is d's on real and fake together, 0.5 when it cannot tell."""
        names = ("loss", "real", "fake", "slope")
        out = {name: seen[name] / seen["images"] for name in names if name in seen}
        if "right" in seen and self.settings.loss in ("nonsaturating", "hinge"):
            out["accuracy"] = seen["right"] / (2 * seen["images"])
        if phase.name == "d" and self.settings.ada_target:
            out["augment"] = self.state["augment"]
        return out

    def show(self, nets):
        """Samples, class by class if the model knows classes, and ways between them; of the same noise."""
        return gallery.looks(nets["g"], SHOWN)


def real(batch) -> Tensor:
    """uint8 -> [-1, 1]"""
    return batch["image"].float() / 127.5 - 1


def latents(g: nn.Module, batch, purpose: str) -> Tensor:
    """(B, L) noise of these rows; different for either phase."""
    return noise.normal(batch["key"], f"latent for {purpose}", (g.settings.latent_dim,))


def slope(d: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    """The gradient of each score with respect to its image, (B, C * Y * X), differentiable; in fp32."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.detach().float().requires_grad_(True)
        (gradient,) = torch.autograd.grad(d(x, label).sum(), x, create_graph=True)
    return gradient.flatten(1)
