"""Group-relative policy optimisation (Shao et al. 2024), and its relatives that need no value net either.

| `advantage` | of a reply | |
|---|---|---|
| grpo | (r - group mean) / (group std + 1e-4) | Shao et al. 2024 |
| batch | (r - group mean) / (std over the step + 1e-4) | TRL's scale_rewards=batch |
| centered | r - group mean | Dr. GRPO: Liu et al. 2025, with loss dr_grpo |
| rloo | r - mean of the others | Ahmadian et al. 2024, with ratio sequence, loss grpo, kl_in reward |
| reinforce_pp | reward to go, KL included, whitened over the step | REINFORCE++: Hu 2025, with kl_in reward |
"""

from typing import Literal

import torch
from pydantic import model_validator

from llmkit.config import Field
from llmkit.objectives.phase import Phase
from llmkit.objectives.rl.advantages import GROUP_EPS, grouped, to_go, whitened
from llmkit.objectives.rl.policy import PolicyGradient, PolicySettings, labelled, total_moments
from llmkit.objectives.rl.rollout import token_nll
from llmkit.registry import register


@register("objective", "grpo")
class Grpo(PolicyGradient):
    """One phase: the policy, from the comparison of several replies to the same prompt."""

    class Settings(PolicySettings):
        name: Literal["grpo"] = "grpo"
        advantage: Literal["grpo", "batch", "centered", "rloo", "reinforce_pp"] = Field(
            "grpo", description="what a reply is compared with; see docs/rlhf.md"
        )

        @model_validator(mode="after")
        def _has_a_group(self):
            if self.samples < 2 and self.advantage != "reinforce_pp":
                raise ValueError(
                    f"advantage {self.advantage} compares replies to a prompt; set samples to 2 or more"
                )
            return self

    whole = ("model",)
    metric = "reward"

    def __init__(self, settings):
        super().__init__(settings)
        self.phases = (Phase("policy", "model", updates=self.updates),)

    def advantages(self, group, total):
        kind, samples = self.settings.advantage, self.settings.samples
        for rows in group:
            penalty = self.penalty(rows)
            if kind == "reinforce_pp":
                rewards = -penalty
                mask = labelled(rows)
                end = mask * (mask.cumsum(1) == mask.sum(1, keepdim=True))
                rows["advantage"] = to_go(rewards + end * rows["reward"][:, None], mask)
            else:
                r = rows["reward"] - penalty.sum(1)
                away = grouped("centered" if kind == "batch" else kind, r, samples)
                rows["advantage"] = away[:, None] * rows["valid"][:, None]
                rows["net_reward"] = r
        if kind == "reinforce_pp":
            sums = total_moments(group, "advantage", total, labelled)
            for rows in group:
                rows["advantage"] = whitened(rows["advantage"], labelled(rows), sums, "bessel")
        elif kind == "batch":
            sums = total_moments(group, "net_reward", total, lambda rows: rows["valid"])
            n = sums["n"].clamp(min=2)
            variance = (sums["square"] - sums["sum"].square() / n).clamp(min=0) / (n - 1)
            for rows in group:
                rows["advantage"] = rows["advantage"] / (variance.sqrt() + GROUP_EPS).to(torch.float32)
        return group

    def loss(self, phase, nets, batch, total):
        return self.policy_loss(batch, token_nll(nets["model"], batch), total)
