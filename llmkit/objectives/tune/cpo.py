"""CPO (Xu et al. 2024, eq. 3 to 5): DPO against a uniform reference, beside the NLL of the chosen replies.

loss = -log sigmoid(beta * (log p(chosen) - log p(rejected))) + sft_weight * NLL(chosen) per token

Its length-normalised relative with a margin is `simpo`.
"""

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from llmkit.objectives.tune.dpo import preference_loss
from llmkit.objectives.tune.pairwise import Pairwise, PairwiseSettings, Replies, gap
from llmkit.registry import register


@register("objective", "cpo")
class Cpo(Pairwise):
    """Prefers by the log-probability; ipo, as in TRL, by its mean over tokens."""

    class Settings(PairwiseSettings):
        name: Literal["cpo"] = "cpo"
        loss: Literal["sigmoid", "hinge", "ipo"] = Field("sigmoid", description="the shape of the loss")
        sft_weight: float = Field(
            1.0, ge=0.0, description="weight of the chosen replies' NLL per token (TRL's cpo_alpha)"
        )
        label_smoothing: float = Field(
            0.0, ge=0.0, lt=0.5, description="probability that a pair is the wrong way round"
        )

        @model_validator(mode="after")
        def _smoothing_is_used(self):
            if self.label_smoothing and self.loss != "sigmoid":
                raise ValueError(f"label_smoothing does nothing to the {self.loss} loss; set it to 0")
            return self

    def pair_loss(self, replies: Replies) -> Tensor:
        s = self.settings
        values = replies.mean if s.loss == "ipo" else replies.logp
        return preference_loss(s.loss, gap(values), s.beta, s.label_smoothing)
