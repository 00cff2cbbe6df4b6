"""Masked language modelling: the labelled positions are guessed from both sides (Devlin et al. 2019)."""

import math
from typing import Literal

import torch

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.text.causal import count_labels, summed_nll
from llmkit.objectives.text.guesses import guesses
from llmkit.registry import register


@register("objective", "masked")
class Masked(Objective):
    """Pretraining of an encoder on `documents` with the noise `masked`. The loss is sum(NLL) / masked tokens,
    over the whole step and all ranks, however unevenly the masks fall."""

    class Settings(Section):
        name: Literal["masked"] = "masked"

    phases = (Phase("train", "model"),)

    def count(self, phase, batch):
        return count_labels(batch)

    def loss(self, phase, nets, batch, total):
        seen = count_labels(batch)
        if torch.is_grad_enabled():
            nll = summed_nll(nets["model"], batch)
        else:
            each, right = guesses(nets["model"], batch)
            nll, seen["right"] = each.sum(), right.sum()
        return nll / total["tokens"], {"nll": nll.detach(), **seen}

    def metrics(self, phase, seen):
        """Nats per masked token; at evaluation also their perplexity and the share that was guessed."""
        loss = seen["nll"] / seen["tokens"]
        if "right" not in seen:
            return {"loss": loss}
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": seen["right"] / seen["tokens"],
        }
