"""SimPO (Meng et al. 2024, eq. 6): the reward is the mean log-probability of a token; no reference.

loss = -log sigmoid(beta * (mean log p(chosen) - mean log p(rejected)) - gamma)

With an `sft_weight` it is CPO-SimPO.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from llmkit.objectives.tune.pairwise import Pairwise, PairwiseSettings, Replies, gap, smoothed
from llmkit.registry import register


@register("objective", "simpo")
class SimPo(Pairwise):
    """Prefers by the mean log-probability, with a margin."""

    class Settings(PairwiseSettings):
        name: Literal["simpo"] = "simpo"
        beta: float = Field(2.0, gt=0.0, description="scale of the mean log-probabilities; usual: 2 to 10")
        gamma: float = Field(0.5, ge=0.0, description="the margin; see convention")
        label_smoothing: float = Field(
            0.0, ge=0.0, lt=0.5, description="probability that a pair is the wrong way round"
        )
        convention: Literal["trl", "open_instruct"] = Field(
            "trl",
            description="gamma is taken from beta * gap (trl, the paper), or from the gap (open_instruct's "
            "gamma_beta_ratio)",
        )

    def rewards(self, replies: Replies) -> Tensor:
        return self.settings.beta * replies.mean

    def pair_loss(self, replies: Replies) -> Tensor:
        s = self.settings
        margin = s.gamma if s.convention == "trl" else s.beta * s.gamma
        return smoothed(gap(self.rewards(replies)) - margin, s.label_smoothing)
