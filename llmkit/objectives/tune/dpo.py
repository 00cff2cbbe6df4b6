"""Direct preference optimisation (Rafailov et al. 2023): prefer one reply over another, against a reference.

x      = log policy(token) - log reference(token)            per reply token
ratio  = sum of x over a reply, its end marker included      per reply, (B, P, 2) = chosen, rejected
delta  = ratio of chosen - ratio of rejected                 per pair
loss   = -log sigmoid(beta * delta), or a relative of it     mean over the pairs of the global batch
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch.nn.functional import logsigmoid

from llmkit.config import Section
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Objective, Phase
from llmkit.registry import register


def sum_by_reply(values, segments, pairs: int):
    """Sums of `values` (B, T) over each reply -> (B, pairs, 2).

    Pair p of a packed row is the segments 2p+1 (chosen) and 2p+2 (rejected); segment 0 is padding.
    """
    sums = values.new_zeros(len(values), 2 * pairs + 1)
    sums = sums.scatter_add(1, segments.long(), values)
    return sums[:, 1:].reshape(len(values), pairs, 2)


def preference_loss(loss: str, delta, mean_delta, beta: float, smoothing: float = 0.0):
    """The loss of each pair. `delta` is the difference of log-ratios, `mean_delta` that of their token means.

    sigmoid with smoothing is cDPO (Mitchell 2023); robust is Chowdhury et al. (2024, eq. 12); ipo is Azar et
    al. (2023, eq. 17) on token means, as TRL has it, and ipo_sum on sums, as OpenRLHF has it; sigmoid_norm is
    the length-normalised DPO of Tulu 3 (Lambert et al. 2024); hinge is SLiC's (Zhao et al. 2023).
    """
    if loss in ("sigmoid", "robust", "sigmoid_norm"):
        logit = beta * (mean_delta if loss == "sigmoid_norm" else delta)
        right, wrong = -logsigmoid(logit), -logsigmoid(-logit)
        if loss == "robust":
            return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
        return (1 - smoothing) * right + smoothing * wrong
    if loss == "hinge":
        return (1 - beta * delta).clamp(min=0)
    return ((mean_delta if loss == "ipo" else delta) - 1 / (2 * beta)).square()


@register("objective", "dpo")
class Dpo(Objective):
    """Trains `model` on pairs; `reference` has the same initial weights, frozen, asked for every batch.

    Neither has dropout, which would be noise in the difference of their log-probabilities.
    """

    class Settings(Section):
        name: Literal["dpo"] = "dpo"
        loss: Literal["sigmoid", "sigmoid_norm", "ipo", "ipo_sum", "hinge", "robust"] = Field(
            "sigmoid", description="which preference loss; sigmoid is DPO and cDPO"
        )
        beta: float = Field(
            0.1, gt=0.0, description="strength of the tie to the reference; usual: 0.1, sigmoid_norm 5"
        )
        label_smoothing: float = Field(
            0.0, ge=0.0, lt=0.5, description="probability that a pair is the wrong way round"
        )
        sft_weight: float = Field(
            0.0, ge=0.0, description="weight of the chosen replies' NLL per token beside the loss; 0 = none"
        )

        @model_validator(mode="after")
        def _smoothing_is_used(self):
            if self.label_smoothing and self.loss not in ("sigmoid", "sigmoid_norm", "robust"):
                raise ValueError(f"label_smoothing does nothing to the {self.loss} loss; set it to 0")
            return self

    phases = (Phase("train", "model"),)
    metric = "accuracy"
    metric_mode = "max"

    def build(self, make):
        return {"model": make(dropout=0.0), "reference": make(dropout=0.0)}

    def count(self, phase, batch):
        return {"pairs": batch["valid"].sum(), "chosen_tokens": _chosen(batch).sum()}

    def prepare(self, group, nets, total, key):
        """Adds `reference_nll` (B, T), the reference's NLL of each reply token, to each batch."""
        with torch.no_grad():
            return [{**batch, "reference_nll": _nll(nets["reference"], batch)} for batch in group]

    def loss(self, phase, nets, batch, total):
        s = self.settings
        nll = _nll(nets["model"], batch)
        x = batch["reference_nll"] - nll
        pairs = batch["valid"].shape[1]
        lengths = sum_by_reply((batch["labels"] != IGNORED).to(x.dtype), batch["segments"], pairs)
        ratio = sum_by_reply(x, batch["segments"], pairs)
        mean = ratio / lengths.clamp(min=1)
        delta, mean_delta = ratio[..., 0] - ratio[..., 1], mean[..., 0] - mean[..., 1]
        valid = batch["valid"].to(x.dtype)
        preference = (preference_loss(s.loss, delta, mean_delta, s.beta, s.label_smoothing) * valid).sum()
        chosen = _chosen(batch)
        chosen_nll = (nll * chosen).sum()
        share = preference / total["pairs"] + s.sft_weight * chosen_nll / total["chosen_tokens"]
        return share, self._seen(batch, x.detach(), ratio.detach(), valid, chosen, preference, chosen_nll)

    def _seen(self, batch, x, ratio, valid, chosen, preference, chosen_nll):
        rewards = self.settings.beta * ratio * valid[..., None]
        return {
            "pairs": batch["valid"].sum(),
            "preference": preference.detach(),
            "correct": (rewards[..., 0] > rewards[..., 1]).sum(),
            "chosen_reward": rewards[..., 0].sum(),
            "rejected_reward": rewards[..., 1].sum(),
            "chosen_tokens": chosen.sum(),
            "chosen_nll": chosen_nll.detach(),
            "chosen_change": (x * chosen).sum(),
            "chosen_kl": (x.square() / 2 * chosen).sum(),
        }

    def metrics(self, phase, seen):
        """`accuracy` counts pairs whose reward (beta * log-ratio) is strictly higher for the chosen reply.

        `chosen_change`: mean change of a chosen token's log-probability since the reference, in nats. `kl`:
        Schulman's k2 (2020), x^2 / 2 per token, on the chosen replies; k1 and k3 mean nothing on replies that
        neither net has drawn.
        """
        pairs, tokens = seen["pairs"], seen["chosen_tokens"]
        chosen, rejected = seen["chosen_reward"] / pairs, seen["rejected_reward"] / pairs
        return {
            "loss": seen["preference"] / pairs + self.settings.sft_weight * seen["chosen_nll"] / tokens,
            "accuracy": seen["correct"] / pairs,
            "margin": chosen - rejected,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "chosen_change": seen["chosen_change"] / tokens,
            "kl": seen["chosen_kl"] / tokens,
        }


def _nll(net, batch):
    return net.nll(batch["tokens"], batch["segments"], batch["labels"])


def _chosen(batch):
    """(B, T) bool: labelled tokens of chosen replies, which are the odd segments."""
    return (batch["segments"] % 2 == 1) & (batch["labels"] != IGNORED)
