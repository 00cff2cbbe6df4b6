"""Direct preference optimisation (Rafailov et al. 2023): prefer one reply over another, against a reference.

ratio = log policy(reply) - log reference(reply)             per reply, its end marker included
score = f'(exp ratio)                                        the ratio itself for the reverse KL
delta = score of chosen - score of rejected                  per pair
loss  = -log sigmoid(beta * delta), or a relative of it      mean over the pairs of the global batch
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmkit.objectives.tune.pairwise import Pairwise, PairwiseSettings, Replies, gap, smoothed
from llmkit.objectives.tune.reference import ReferenceSettings
from llmkit.registry import register

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
SMOOTHED = ("sigmoid", "sigmoid_norm", "robust", "exo_pair")
HIGHEST = 80.0
"""Largest exponent of the alpha divergence, as in TRL: exp of it is still a number in fp32."""


def scores(divergence: Divergence, ratio: Tensor, alpha: float = 0.5) -> Tensor:
    """f'(t) at t = exp(ratio) for the divergence that ties the policy to its reference (Wang et al. 2023).

    Constants as in TRL 1.16: reverse KL log t, forward KL 1 - 1/t, Jensen-Shannon log 2t/(t+1), alpha
    (t^(alpha-1) - 1) / (alpha-1), which is log t for alpha = 1.
    """
    if divergence == "forward_kl":
        return 1 - torch.exp(-ratio)
    if divergence == "js":
        return math.log(2) + logsigmoid(ratio)
    if divergence == "alpha" and alpha != 1:
        return torch.expm1(((alpha - 1) * ratio).clamp(max=HIGHEST)) / (alpha - 1)
    return ratio


def preference_loss(loss: str, delta: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """The loss of each pair from `delta`, the difference of their scores, or of the scores' token means.

    sigmoid with smoothing is cDPO; robust is Chowdhury et al. (2024, eq. 12); ipo is Azar et al. (2023, eq.
    17); hinge is SLiC's (Zhao et al. 2023); exo_pair is Ji et al. (2024, eq. 16).
    """
    logit = beta * delta
    if loss == "robust":
        flipped = smoothed(logit, 0.0), smoothed(-logit, 0.0)
        return ((1 - smoothing) * flipped[0] - smoothing * flipped[1]) / (1 - 2 * smoothing)
    if loss == "hinge":
        return (1 - logit).clamp(min=0)
    if loss == "ipo":
        return (delta - 1 / (2 * beta)).square()
    if loss == "exo_pair":
        right = logit.sigmoid() * (logsigmoid(logit) - math.log1p(-smoothing))
        return right + (-logit).sigmoid() * (logsigmoid(-logit) - math.log(smoothing))
    return smoothed(logit, smoothing)


@register("objective", "dpo")
class Dpo(Pairwise):
    """DPO and those of its relatives that differ in the shape of the loss alone.

    sigmoid_norm is the length-normalised DPO of Tulu 3 (Lambert et al. 2024).
    """

    class Settings(PairwiseSettings, ReferenceSettings):
        name: Literal["dpo"] = "dpo"
        loss: Literal["sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "exo_pair"] = Field(
            "sigmoid", description="which preference loss; sigmoid is DPO and, with label_smoothing, cDPO"
        )
        beta: float = Field(
            0.1, gt=0.0, description="strength of the tie to the reference; usual: 0.1, sigmoid_norm 5"
        )
        label_smoothing: float = Field(
            0.0, ge=0.0, lt=0.5, description="probability that a pair is the wrong way round"
        )
        convention: Literal["trl", "openrlhf"] = Field(
            "trl", description="ipo: token means of the log-ratios (trl, as its authors), or sums (openrlhf)"
        )
        divergence: Divergence = Field(
            "reverse_kl", description="what ties the policy to the reference; reverse_kl is DPO's"
        )
        alpha: float = Field(0.5, description="order of the alpha divergence; 1: the reverse KL")

        @model_validator(mode="after")
        def _everything_is_used(self):
            if self.label_smoothing and self.loss not in SMOOTHED:
                raise ValueError(f"label_smoothing does nothing to the {self.loss} loss; set it to 0")
            if self.loss == "exo_pair" and not self.label_smoothing:
                raise ValueError("exo_pair needs a label_smoothing above 0; usual: 0.001")
            if self.convention != "trl" and self.loss != "ipo":
                raise ValueError(f"convention={self.convention} is about ipo, not {self.loss}; leave it out")
            if self.alpha != 0.5 and self.divergence != "alpha":
                raise ValueError(f"alpha does nothing to {self.divergence}; set divergence=alpha")
            return self

    referred = True

    def pair_loss(self, replies: Replies) -> Tensor:
        s = self.settings
        score = scores(s.divergence, replies.ratio, s.alpha)
        if s.loss == "sigmoid_norm" or (s.loss == "ipo" and s.convention == "trl"):
            score = score / replies.length
        return preference_loss(s.loss, gap(score), s.beta, s.label_smoothing)
