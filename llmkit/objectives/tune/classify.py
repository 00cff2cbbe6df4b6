"""Classification of texts or pairs of texts: one label of L for each, or any number of them.

one label      cross-entropy, a mean over texts                       a text is spam or it is not
several        binary cross-entropy, a mean over texts and labels     what a text is about; said above 1/2
"""

from typing import Literal

import torch
import torch.nn.functional as F

from llmkit.config import Field, Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.tune import label_counts
from llmkit.registry import register


@register("objective", "classify")
class Classify(Objective):
    """The loss is a mean over the texts of the global batch. Data: `labelled`, which tells the labels."""

    class Settings(Section):
        name: Literal["classify"] = "classify"
        labels: list[str] | None = Field(
            None, description="the labels in order; the data set's, if given or not"
        )
        several: bool | None = Field(None, description="a text may have several labels; the data set knows")

    phases = (Phase("train", "model"),)
    metric = "accuracy"
    metric_mode = "max"

    def build(self, make):
        return {"model": make(head="classify", outputs=len(self.settings.labels))}

    def count(self, phase, batch):
        return {"texts": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        logits = nets["model"].label_logits(
            batch["tokens"], batch["segments"], batch["starts"], batch["ends"]
        )
        logits, truth = logits[batch["valid"]], batch["label"][batch["valid"]]
        if self.settings.several:
            loss = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
            loss, said = loss.mean(-1).sum(), logits > 0
        else:
            loss = F.cross_entropy(logits, truth, reduction="sum")
            said = label_counts.one_hot(logits.argmax(-1), logits.shape[-1])
            truth = label_counts.one_hot(truth, logits.shape[-1])
        right = (said == truth).all(-1).sum()
        seen = {"loss": loss.detach(), "right": right, **self.count(phase, batch)}
        if not torch.is_grad_enabled():
            seen |= label_counts.counted(said.long(), truth.long())
        return loss / total["texts"], seen

    def metrics(self, phase, seen):
        """Loss in nats a text, accuracy (of several labels: all of them right); held out also F1 and MCC."""
        figures = {"loss": seen["loss"] / seen["texts"], "accuracy": seen["right"] / seen["texts"]}
        labels = len(self.settings.labels)
        if "true_0" not in seen:
            return figures
        more = label_counts.figures(seen, labels)
        if self.settings.several:  # MCC is of one decision a text
            return figures | {"macro_f1": more["macro_f1"], "micro_f1": label_counts.micro_f1(seen, labels)}
        return figures | more
