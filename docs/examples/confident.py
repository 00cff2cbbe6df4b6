"""A plug-in objective in one file: next-token prediction with a confidence penalty (Pereyra et al. 2017).

llmkit train docs/examples/confident.yaml --plugin docs/examples/confident.py
"""

from typing import Literal

from llmkit.config import Field, Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.registry import register


@register("objective", "confident")
class Confident(Objective):
    """loss = sum(NLL) / tokens - weight * sum(entropy) / tokens, both over the whole global batch."""

    class Settings(Section):
        name: Literal["confident"] = "confident"
        weight: float = Field(0.1, ge=0, description="what a nat of entropy per token earns")

    phases = (Phase("train", "model"),)

    def count(self, phase, batch):
        return {"tokens": (batch["labels"] != -100).sum()}

    def loss(self, phase, nets, batch, total):
        net, labels = nets["model"], batch["labels"]
        log_p = net.logits(net.hidden(batch["tokens"], batch["segments"])).float().log_softmax(-1)
        nll = -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        entropy = -(log_p.exp() * log_p).sum(-1)
        labelled = labels != -100
        share = ((nll - self.settings.weight * entropy) * labelled).sum() / total["tokens"]
        return share, {"nll": (nll * labelled).sum().detach(), "tokens": labelled.sum()}

    def metrics(self, phase, seen):
        return {"loss": seen["nll"] / seen["tokens"]}
