"""Writing one text for another: translation, summaries, answers. The mean loss of every target token.

    encdec    source  How are you? </s>        tokens <pad> Wie geht es     labels  Wie geht es </s>
    decoder   tokens  <s> How are you? </s> Wie geht es       labels  - - - - Wie geht es </s>

With smoothing e each label is a mixture of 1 - e of itself and e of all pieces alike (Szegedy et al. 2016).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F

from llmkit.config import Field, Section
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.text.causal import context, count_labels, summed_nll
from llmkit.objectives.text.guesses import guesses
from llmkit.registry import register


@register("objective", "seq2seq")
class Seq2seq(Objective):
    """The loss is sum / target tokens, both over the whole step and all ranks. Data: `text_pairs`."""

    class Settings(Section):
        name: Literal["seq2seq"] = "seq2seq"
        label_smoothing: float = Field(
            0.0, ge=0, lt=1, description="share of each label that is spread over all pieces; usual: 0.1"
        )

    phases = (Phase("train", "model"),)

    def count(self, phase, batch):
        return count_labels(batch)

    def loss(self, phase, nets, batch, total):
        seen, smoothing = count_labels(batch), self.settings.label_smoothing
        if not torch.is_grad_enabled():
            each, right = guesses(nets["model"], batch)
            nll, seen["right"] = each.sum(), right.sum()
            return nll / total["tokens"], {"nll": nll, **seen}
        if not smoothing:
            nll = summed_nll(nets["model"], batch)
            return nll / total["tokens"], {"nll": nll.detach(), **seen}
        smoothed, nll = smoothed_nll(nets["model"], batch, smoothing)
        return smoothed / total["tokens"], {"nll": nll.detach(), "smoothed": smoothed.detach(), **seen}

    def metrics(self, phase, seen):
        """Nats per target token without smoothing; what is minimised where there is any; held out also the
        share of tokens guessed, the true ones before them given."""
        loss = seen["nll"] / seen["tokens"]
        figures = {"loss": loss, "perplexity": math.exp(min(loss, 80.0))}
        if "smoothed" in seen:
            figures["smoothed_loss"] = seen["smoothed"] / seen["tokens"]
        if "right" in seen:
            figures["accuracy"] = seen["right"] / seen["tokens"]
        return figures


def smoothed_nll(net, batch, smoothing: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss against smoothed labels, against plain ones), summed over the batch's target tokens.

    The logits of all of them are held at once, unlike in `nll`.
    """
    labelled = batch["labels"] != IGNORED
    hidden = net.hidden(batch["tokens"], batch["segments"], **context(batch))[labelled]
    logp = net.logits(hidden).float().log_softmax(-1)
    nll = F.nll_loss(logp, batch["labels"][labelled], reduction="sum")
    return (1 - smoothing) * nll - smoothing * logp.mean(-1).sum(), nll
