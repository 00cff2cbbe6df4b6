"""Tagging: a label for every word, read at its first piece, as for entities and parts of speech.

words    Angela   Merkel   spoke          tokens   [CLS] Ang ##ela Mer ##kel spoke [SEP]
tags     B-person I-person O              labels     -    3    -    4    -     0     -
"""

from typing import Literal

import torch
import torch.nn.functional as F

from llmkit.config import Field, Section
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.text.causal import count_labels
from llmkit.objectives.tune import label_counts
from llmkit.registry import register


@register("objective", "tag")
class Tag(Objective):
    """Cross-entropy, a mean over the words of the global batch. Data: `tagged`, which tells the tags."""

    class Settings(Section):
        name: Literal["tag"] = "tag"
        labels: list[str] | None = Field(
            None, description="the tags in order; the data set's, if given or not"
        )

    phases = (Phase("train", "model"),)
    metric = "accuracy"
    metric_mode = "max"

    def build(self, make):
        return {"model": make(head="tag", outputs=len(self.settings.labels))}

    def count(self, phase, batch):
        return count_labels(batch)

    def loss(self, phase, nets, batch, total):
        words = batch["labels"] != IGNORED
        logits = nets["model"].label_logits(batch["tokens"], batch["segments"])[words]
        truth, said = batch["labels"][words], logits.argmax(-1)
        loss = F.cross_entropy(logits, truth, reduction="sum")
        seen = {"loss": loss.detach(), "right": (said == truth).sum(), **count_labels(batch)}
        if not torch.is_grad_enabled():
            hot = (label_counts.one_hot(numbers, logits.shape[-1]) for numbers in (said, truth))
            seen |= label_counts.counted(*hot)
        return loss / total["tokens"], seen

    def metrics(self, phase, seen):
        """Nats a word, and words tagged right; held out also macro F1 and MCC over tags.

        F1 of whole entities is `llmkit eval --suite tag`'s: it needs the words of a sentence in order.
        """
        figures = {"loss": seen["loss"] / seen["tokens"], "accuracy": seen["right"] / seen["tokens"]}
        return figures | (label_counts.figures(seen, len(self.settings.labels)) if "true_0" in seen else {})
