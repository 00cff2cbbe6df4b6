"""What all preference losses on pairs share: the log-probabilities of both replies, the anchor, the figures.

net ─► -log p(token) ─► summed over each reply, its end marker included ─► Replies ─► pair_loss  (B, P)
reference, if the loss has one ──────────────────────────────────────────┘
loss = mean over the pairs of the global batch + sft_weight * NLL of the chosen replies

A loss is one file: a subclass of `Pairwise` with Settings and `pair_loss`; simpo.py is the shortest.
"""

from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmkit.config import Section
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.text.causal import context


class Replies(NamedTuple):
    """Both replies of every pair, (B, P, 2) each: chosen, rejected."""

    logp: Tensor
    """Sum of the log-probabilities of a reply's tokens, its end marker included."""
    length: Tensor
    """How many tokens these are; 1 where there is no pair."""
    reference: Tensor | None = None
    """`logp` of the reference."""

    @property
    def mean(self) -> Tensor:
        """Log-probability per token."""
        return self.logp / self.length

    @property
    def ratio(self) -> Tensor:
        """log p - log p of the reference."""
        return self.logp - self.reference

    @property
    def mean_ratio(self) -> Tensor:
        """`ratio` per token."""
        return self.ratio / self.length


def gap(values: Tensor) -> Tensor:
    """(..., 2) -> (...): of the chosen reply minus of the rejected one."""
    return values[..., 0] - values[..., 1]


def smoothed(logit: Tensor, smoothing: float) -> Tensor:
    """-log sigmoid(logit), where each pair is the wrong way round with probability `smoothing`.

    Mitchell (2023), "A note on DPO with noisy preferences".
    """
    return -(1 - smoothing) * logsigmoid(logit) - smoothing * logsigmoid(-logit)


def sum_by_reply(values: Tensor, segments: Tensor, pairs: int) -> Tensor:
    """Sums of `values` (B, T) over each reply -> (B, pairs, 2).

    Pair p of a packed row is the segments 2p+1 (chosen) and 2p+2 (rejected); segment 0 is padding.
    """
    sums = values.new_zeros(len(values), 2 * pairs + 1)
    sums = sums.scatter_add(1, segments.long(), values)
    return sums[:, 1:].reshape(len(values), pairs, 2)


class PairwiseSettings(Section):
    """Settings of every loss on pairs."""

    beta: float = Field(0.1, gt=0.0, description="how steeply the loss falls with the gap of a pair")
    sft_weight: float = Field(
        0.0, ge=0.0, description="weight of the chosen replies' NLL per token beside the loss; 0 = none"
    )


class Pairwise(Objective):
    """Trains `model` on pairs. `reference`, where a loss has one, has the same initial weights, frozen.

    Neither has dropout, which would be noise in the difference of their log-probabilities.
    """

    referred: ClassVar[bool] = False
    """Whether `pair_loss` looks at the reference; without, none is built."""

    phases = (Phase("train", "model"),)
    references: ClassVar[dict[str, str]] = {"reference": "model"}
    metric = "accuracy"
    metric_mode = "max"

    def __init__(self, settings):
        super().__init__(settings)
        if self.referred and settings.reference == "cached":
            self.column = "reference_nll"

    def pair_loss(self, replies: Replies) -> Tensor:
        """The loss of each pair, (B, P). What it gives where there is no pair is not used, but is finite."""
        raise NotImplementedError

    def rewards(self, replies: Replies) -> Tensor:
        """(B, P, 2): what the loss takes for a reply's reward, which `accuracy` and `margin` are about."""
        return self.settings.beta * (replies.ratio if self.referred else replies.logp)

    def build(self, make):
        names = ("model", "reference") if self.referred and not self.column else ("model",)
        return {name: make(dropout=0.0) for name in names}

    def count(self, phase, batch):
        return {"pairs": batch["valid"].sum(), "chosen_tokens": chosen_labels(batch).sum()}

    def prepare(self, group, nets, total, key):
        """Adds `reference_nll` (B, T), the reference's NLL of each reply token, to each batch."""
        if not self.referred or self.column:
            return group
        with torch.no_grad():
            return [{**batch, "reference_nll": self.cell(nets["reference"], batch)} for batch in group]

    def cell(self, net, batch):
        return token_nll(net, batch, batch["labels"])

    def loss(self, phase, nets, batch, total):
        nll, labels = self.nll(nets["model"], batch), batch["labels"] != IGNORED
        replies = summed(nll * labels, batch)
        valid = batch["valid"].to(nll.dtype)
        preference = (self.pair_loss(replies) * valid).sum()
        share = preference / total["pairs"]
        seen = {"preference": preference.detach(), **self._seen(batch, replies, valid)}
        if self.settings.sft_weight:
            anchor, counted = self.anchor(nll, replies, batch)
            share = share + self.settings.sft_weight * anchor / total[counted]
            seen |= {"anchor": anchor.detach(), "anchored": self.count(phase, batch)[counted]}
        if self.referred:
            seen |= _drift(nll, batch)
        return share, seen

    def nll(self, net, batch) -> Tensor:
        """(B, T): of the labelled tokens at least."""
        return token_nll(net, batch, batch["labels"])

    def anchor(self, nll: Tensor, replies: Replies, batch) -> tuple[Tensor, str]:
        """The summed NLL that `sft_weight` weighs, and the name of the count that it is divided by."""
        return (nll * chosen_labels(batch)).sum(), "chosen_tokens"

    def _seen(self, batch, replies: Replies, valid):
        rewards = self.rewards(replies).detach() * valid[..., None]
        return {
            "pairs": batch["valid"].sum(),
            "correct": (rewards[..., 0] > rewards[..., 1]).sum(),
            "chosen_reward": rewards[..., 0].sum(),
            "rejected_reward": rewards[..., 1].sum(),
            "chosen_logp": (replies.logp[..., 0].detach() * valid).sum(),
            "chosen_tokens": chosen_labels(batch).sum(),
        }

    def metrics(self, phase, seen):
        """`accuracy` counts pairs whose reward is strictly higher for the chosen reply.

        `chosen_logp`: nats per token. With a reference, `chosen_change` is the mean change of a chosen
        token's log-probability since then, in nats, and `kl` Schulman's k2 (2020), x^2 / 2 per token, on the
        chosen replies; k1 and k3 mean nothing on replies that neither net has drawn.
        """
        pairs, tokens = seen["pairs"], seen["chosen_tokens"]
        chosen, rejected = seen["chosen_reward"] / pairs, seen["rejected_reward"] / pairs
        anchor = self.settings.sft_weight * seen["anchor"] / seen["anchored"] if "anchor" in seen else 0.0
        figures = {
            "loss": seen["preference"] / pairs + anchor,
            "accuracy": seen["correct"] / pairs,
            "margin": chosen - rejected,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "chosen_logp": seen["chosen_logp"] / tokens,
        }
        if self.referred:
            figures |= {"chosen_change": seen["chosen_change"] / tokens, "kl": seen["chosen_kl"] / tokens}
        return figures


def token_nll(net, batch, labels) -> Tensor:
    """(B, T): the NLL of `labels`, 0 where there is none."""
    return net.nll(batch["tokens"], batch["segments"], labels, **context(batch))


def summed(nll: Tensor, batch) -> Replies:
    """The replies of a batch of packed pairs, from the NLL of their tokens (B, T)."""
    pairs = batch["valid"].shape[1]
    length = sum_by_reply((batch["labels"] != IGNORED).to(nll.dtype), batch["segments"], pairs)
    reference = batch.get("reference_nll")
    return Replies(
        -sum_by_reply(nll, batch["segments"], pairs),
        length.clamp(min=1),
        None if reference is None else -sum_by_reply(reference, batch["segments"], pairs),
    )


def chosen_labels(batch) -> Tensor:
    """(B, T) bool: labelled tokens of chosen replies, which are the odd segments."""
    return (batch["segments"] % 2 == 1) & (batch["labels"] != IGNORED)


def _drift(nll: Tensor, batch):
    """How far the chosen tokens' log-probabilities are from the reference's, summed."""
    x = (batch["reference_nll"] - nll.detach()) * chosen_labels(batch)
    return {"chosen_change": x.sum(), "chosen_kl": (x.square() / 2).sum()}
