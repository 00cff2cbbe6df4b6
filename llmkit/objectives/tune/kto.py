"""KTO (Ethayarajh et al. 2024, eq. 7): replies that are good or bad, each by itself, without pairs.

r           = log policy(reply) - log reference(reply)               per example
z0          = max(0, mean r of replies lent to other prompts)        over the global batch
desirable   : weight * (1 - sigmoid(beta * (r - z0)))
undesirable : weight * (1 - sigmoid(beta * (z0 - r)))                mean over the global examples

z0 estimates the policy's KL to its reference. It gets no gradient and is measured in `prepare`, over all
ranks; which reply is lent to which prompt is the data set's business, so it does not hang on micro-batches.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Objective, Phase, add
from llmkit.objectives.tune.reference import ReferenceSettings
from llmkit.registry import register


def example_loss(ratio: Tensor, desirable: Tensor, z0: Tensor | float, beta: float) -> Tensor:
    """The loss of each example from its log-ratio; with z0 = 0 it is APO-zero (D'Oosterlinck et al. 2024)."""
    sign = torch.where(desirable, 1.0, -1.0).to(ratio.dtype)
    return torch.sigmoid(-sign * beta * (ratio - z0))


@register("objective", "kto")
class Kto(Objective):
    """Trains `model` on single replies; `reference` has the same initial weights, frozen. No dropout."""

    class Settings(ReferenceSettings):
        name: Literal["kto"] = "kto"
        loss: Literal["kto", "apo_zero"] = Field("kto", description="apo_zero: without the KL, z0 = 0")
        beta: float = Field(0.1, gt=0.0, description="strength of the tie to the reference")
        desirable_weight: float = Field(
            1.0,
            ge=0.0,
            description="of good replies; weight x number of good to that of bad ones: 1 to 4/3 is advised",
        )
        undesirable_weight: float = Field(1.0, ge=0.0, description="of bad replies")

    phases = (Phase("train", "model"),)
    references: ClassVar[dict[str, str]] = {"reference": "model"}
    metric = "margin"
    metric_mode = "max"

    def __init__(self, settings):
        super().__init__(settings)
        self.state = {"kl": 0.0}
        self.whole = ("model",) if settings.loss == "kto" else ()
        if settings.reference == "cached":
            self.column = "reference_logp"

    def build(self, make):
        names = ("model",) if self.column else ("model", "reference")
        return {name: make(dropout=0.0) for name in names}

    def count(self, phase, batch):
        return {"examples": batch["valid"].sum()}

    @torch.no_grad()
    def prepare(self, group, nets, total, key):
        """Adds `reference_logp` (B, 2, P), `kl`, a batch's sum over lent replies, and `z0`, everybody's."""
        ready = []
        for batch in group:
            known = {} if self.column else {"reference_logp": self.cell(nets["reference"], batch)}
            if self.settings.loss == "kto":
                reference = (batch | known)["reference_logp"][:, 1]
                known["kl"] = ((logp(nets["model"], batch, "lent_") - reference) * batch["valid"]).sum()
            ready.append({**batch, **known})
        if self.settings.loss == "kto":
            sums = total(add({"kl": b["kl"], "examples": b["valid"].sum()} for b in ready))
            z0 = (sums["kl"] / sums["examples"].clamp(min=1)).clamp(min=0).float()
            ready = [{**batch, "z0": z0} for batch in ready]
        return ready

    def cell(self, net, batch):
        """(B, 2, P): of the examples, and of the lent replies."""
        return torch.stack([logp(net, batch, side) for side in ("", "lent_")], 1)

    def loss(self, phase, nets, batch, total):
        s = self.settings
        ratio = logp(nets["model"], batch) - batch["reference_logp"][:, 0]
        valid, good = batch["valid"], batch["desirable"]
        z0 = batch["z0"] if nets["model"].training and "z0" in batch else self.state["kl"]
        weight = torch.where(good, s.desirable_weight, s.undesirable_weight) * valid
        loss = (example_loss(ratio, good, z0, s.beta) * weight).sum()
        rewards = s.beta * ratio.detach()
        seen = {
            "loss": loss.detach(),
            "examples": valid.sum(),
            "good": (valid & good).sum(),
            "good_reward": (rewards * (valid & good)).sum(),
            "bad_reward": (rewards * (valid & ~good)).sum(),
            "kl": batch.get("kl", torch.zeros_like(loss.detach())),
        }
        return loss / total["examples"], seen

    def after(self, phase, seen, applied):
        """Held-out examples are measured with the z0 of the last step, whatever micro-batch they are in."""
        if self.settings.loss == "kto":
            self.state["kl"] = max(0.0, float(seen["kl"] / seen["examples"]))

    def metrics(self, phase, seen):
        """`margin`: mean reward (beta * log-ratio) of good replies less that of bad ones; `kl`: of z0."""
        good = seen["good_reward"] / max(seen["good"], 1)
        bad = seen["bad_reward"] / max(seen["examples"] - seen["good"], 1)
        figures = {
            "loss": seen["loss"] / seen["examples"],
            "margin": good - bad,
            "desirable_reward": good,
            "undesirable_reward": bad,
        }
        return figures | ({"kl": seen["kl"] / seen["examples"]} if self.settings.loss == "kto" else {})


def logp(net, batch, side: str = "") -> Tensor:
    """(B, P): the summed log-probability of each labelled reply; segment p + 1 of a row is example p."""
    tokens, segments, labels = (batch[side + key] for key in ("tokens", "segments", "labels"))
    nll = net.nll(tokens, segments, labels) * (labels != IGNORED)
    sums = nll.new_zeros(len(nll), batch["valid"].shape[1] + 1)
    return -sums.scatter_add(1, segments.long(), nll)[:, 1:]
