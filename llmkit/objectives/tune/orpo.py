"""ORPO (Hong et al. 2024, eq. 6 and 7): the odds of a chosen token against those of a rejected one, and NLL.

a       = mean log p of a reply's tokens                        so exp(a) is a token's probability
odds    = a - log(1 - exp a)                                    the log-odds of a reply
loss    = NLL(chosen) - beta * log sigmoid(odds of chosen - odds of rejected)
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.tune.pairwise import Pairwise, PairwiseSettings, Replies, gap, token_nll
from llmkit.registry import register


def log_odds(mean_logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean_logp), without the cancellation of 1 - p (Maechler 2012)."""
    a = mean_logp.clamp(max=-1e-6)  # p = 1 has no odds
    near_one = a > -math.log(2)
    small = torch.where(near_one, a, -1.0)
    large = torch.where(near_one, -1.0, a)
    return a - torch.where(near_one, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


@register("objective", "orpo")
class Orpo(Pairwise):
    """Fine-tuning and preference in one stage, from a base model, without a reference."""

    class Settings(PairwiseSettings):
        name: Literal["orpo"] = "orpo"
        beta: float = Field(0.1, gt=0.0, description="weight of the odds ratio (the paper's lambda)")
        sft_weight: float = Field(1.0, gt=0.0, description="weight of the NLL of what was chosen")
        convention: Literal["trl", "llamafactory"] = Field(
            "trl",
            description="the NLL is a token mean over prompt and chosen reply (trl), or that of each chosen "
            "reply alone, averaged over pairs (llamafactory)",
        )

    def rewards(self, replies: Replies) -> Tensor:
        return self.settings.beta * replies.mean

    def pair_loss(self, replies: Replies) -> Tensor:
        return -self.settings.beta * logsigmoid(gap(log_odds(replies.mean)))

    def count(self, phase, batch):
        return {**super().count(phase, batch), "text_tokens": (_whole(batch) != IGNORED).sum()}

    def nll(self, net, batch):
        labels = _whole(batch) if self.settings.convention == "trl" else IGNORED
        return token_nll(net, batch, torch.where(batch["labels"] != IGNORED, batch["labels"], labels))

    def anchor(self, nll, replies, batch):
        if self.settings.convention == "trl":
            return (nll * (_whole(batch) != IGNORED)).sum(), "text_tokens"
        return -(replies.mean[..., 0] * batch["valid"]).sum(), "pairs"


def _whole(batch) -> Tensor:
    """(B, T) labels of every token of the chosen texts, the prompt's too, but not of a text's first."""
    segments = batch["segments"]
    same = torch.zeros_like(segments, dtype=torch.bool)
    same[:, :-1] = (segments[:, 1:] == segments[:, :-1]) & (segments[:, :-1] % 2 == 1)
    return torch.where(same, batch["tokens"].roll(-1, 1), IGNORED)
