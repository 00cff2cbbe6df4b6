"""Proximal policy optimisation (Schulman et al. 2017) with a value head, as for language models in Ouyang et
al. (2022).

reward of a token   -kl * KL(policy, reference)   where kl_in = reward; the last token: + the reply's reward
advantage           GAE over the reply's tokens against the value net's estimates, whitened over the step
value loss          half the squared error to advantage + old value, clipped around the old value
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator

from llmkit.config import Field
from llmkit.objectives.phase import Phase
from llmkit.objectives.rl.advantages import gae, whitened
from llmkit.objectives.rl.policy import PolicyGradient, PolicySettings, labelled, total_moments
from llmkit.objectives.rl.rollout import token_nll
from llmkit.objectives.rl.surrogate import value_loss
from llmkit.registry import register


@register("objective", "ppo")
class Ppo(PolicyGradient):
    """Two nets in two phases, or one net with two heads in one; then the losses are added."""

    class Settings(PolicySettings):
        name: Literal["ppo"] = "ppo"
        samples: int = Field(1, ge=1, description="replies drawn for each prompt")
        kl: float = Field(0.05, ge=0, description="weight of the KL to the reference; 0: none is computed")
        kl_in: Literal["loss", "reward"] = Field("reward", description="where it is added")
        kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="Schulman's estimators of the KL")
        value: Literal["separate", "shared"] = Field(
            "separate", description="a net of its own, or a second head on the policy's trunk"
        )
        value_init: str | None = Field(
            None, description="what a separate value net starts from; default: the reward model, else init"
        )
        value_clip: float = Field(0.2, ge=0, description="how far a value may move in a step; 0: any way")
        value_weight: float = Field(0.1, gt=0, description="of the value loss, where the trunk is shared")
        gamma: float = Field(1.0, gt=0, le=1, description="discount of a token")
        lam: float = Field(0.95, ge=0, le=1, description="lambda of GAE; verl: 1")
        whiten: Literal["bessel", "biased", "none"] = Field(
            "bessel", description="advantages over the step: TRL and verl, OpenRLHF, DeepSpeed-Chat"
        )
        only_with = {**PolicySettings.only_with, "value_weight": ("value", "shared")}
        quick_values: ClassVar = {"max_new": 8}

        @model_validator(mode="after")
        def _one_value_net(self):
            if self.value == "shared" and self.value_init:
                raise ValueError("value_init is for a separate value net; leave it out, or value: separate")
            return self

    def __init__(self, settings):
        super().__init__(settings)
        if settings.value == "shared":
            self.phases, self.whole, self.metric = (
                (Phase("policy", "model", updates=self.updates),),
                ("model",),
                "reward",
            )
            return
        if start := settings.value_init or settings.reward_model:
            self.inits["value"] = start
        self.phases = (
            Phase("policy", "model", updates=self.updates),
            Phase("value", "value", updates=self.updates),
        )
        self.whole, self.metric = ("model", "value"), "policy/reward"

    def build(self, make):
        if self.settings.value == "shared":
            return {**super().build(make), "model": make(head="lm_value", dropout=0.0)}
        return {**super().build(make), "value": make(head="value", net="value", dropout=0.0)}

    def remember(self, nets, rows):
        if self.settings.value == "shared":
            return {"old_value": _both(nets["model"], rows)[1]}
        return {"old_value": _values(nets["value"], rows)}

    def advantages(self, group, total):
        s = self.settings
        for rows in group:
            mask = labelled(rows)
            end = mask * (mask.cumsum(1) == mask.sum(1, keepdim=True))
            rewards = end * rows["reward"][:, None] - self.penalty(rows)
            rows["advantage"] = gae(rewards, rows["old_value"], mask, s.gamma, s.lam)
            rows["return"] = rows["advantage"] + rows["old_value"] * mask
        sums = total_moments(group, "advantage", total, labelled)
        for rows in group:
            rows["advantage"] = whitened(rows["advantage"], labelled(rows), sums, s.whiten)
        return group

    def loss(self, phase, nets, batch, total):
        if phase.name == "value":
            return self._value_loss(batch, _values(nets["value"], batch), total)
        if self.settings.value == "separate":
            return self.policy_loss(batch, token_nll(nets["model"], batch), total)
        nll, values = _both(nets["model"], batch)
        policy, seen = self.policy_loss(batch, nll, total)
        value, seen_too = self._value_loss(batch, values, total)
        return policy + self.settings.value_weight * value, seen | seen_too

    def _value_loss(self, batch, values, total):
        mask, returns = labelled(batch), batch["return"]
        loss = (value_loss(values, batch["old_value"], returns, self.settings.value_clip) * mask).sum()
        error = (values.detach() - returns) * mask
        seen = {
            "tokens": mask.sum(),
            "value_loss": loss.detach(),
            "error": error.sum(),
            "error_square": error.square().sum(),
            "return": (returns * mask).sum(),
            "return_square": (returns.square() * mask).sum(),
        }
        return loss / total["tokens"], seen

    def metrics(self, phase, seen):
        """`explained`: the share of the returns' variance that the values foresee; 1 is all, 0 none."""
        figures = super().metrics(phase, seen) if "reward" in seen else {}
        if "value_loss" not in seen:
            return figures
        n = max(seen["tokens"], 1)
        spread = seen["return_square"] / n - (seen["return"] / n) ** 2
        left = seen["error_square"] / n - (seen["error"] / n) ** 2
        return figures | {
            "value_loss": seen["value_loss"] / n,
            "explained": 1 - left / spread if spread > 1e-12 else 0.0,
            "value_return": seen["return"] / n,
        }


def _values(net, rows):
    return net.scores(rows["tokens"], rows["segments"])


def _both(net, rows):
    """(NLL of the labels, values), each (B, T) fp32, of a net with two heads."""
    hidden = net.hidden(rows["tokens"], rows["segments"])
    nll = net.nll_of(hidden, rows["labels"])
    with torch.autocast(hidden.device.type, enabled=False):
        values = F.linear(hidden.float(), net.value_head.weight.float())[..., 0]
    return nll, values
