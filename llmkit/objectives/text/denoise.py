"""Denoising of an encoder-decoder: T5's span corruption, BART's infilling; the noise is the dataset's."""

from typing import Literal

import torch

from llmkit.config import Section
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Batch, Objective, Phase
from llmkit.objectives.text.causal import count_labels, summed_nll
from llmkit.objectives.text.guesses import guesses
from llmkit.registry import register


@register("objective", "denoise")
class Denoise(Objective):
    """Pretraining on `documents` with the noise `span` or `infill`: the mean NLL of every target token."""

    class Settings(Section):
        name: Literal["denoise"] = "denoise"

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
            if "spans" in batch:
                seen |= whole_spans(batch, right)
        return nll / total["tokens"], {"nll": nll.detach(), **seen}

    def metrics(self, phase, seen):
        """Nats per target token; at evaluation the share guessed, and of spans those guessed in every token.

        Guesses are made with the true tokens before them ("teacher forcing"); sentinels are in no span.
        """
        figures = {"loss": seen["nll"] / seen["tokens"]}
        if "right" in seen:
            figures["accuracy"] = seen["right"] / seen["tokens"]
        if seen.get("spans"):
            figures["span_accuracy"] = seen["right_spans"] / seen["spans"]
        return figures


def whole_spans(batch: Batch, right: torch.Tensor) -> dict[str, torch.Tensor]:
    """How many spans the batch has, and in how many every label is `right` (N,)."""
    labelled = batch["labels"] != IGNORED
    row = torch.arange(len(labelled), device=right.device)[:, None].expand_as(labelled)
    place = torch.stack([row, batch["segments"].long(), batch["spans"]], -1)[labelled]
    in_span = place[:, 2] > 0
    spans, which = torch.unique(place[in_span], dim=0, return_inverse=True)
    wrong = torch.zeros(len(spans), device=right.device).index_add_(0, which, (~right[in_span]).float())
    return {"spans": torch.tensor(len(spans), device=right.device), "right_spans": (wrong == 0).sum()}
