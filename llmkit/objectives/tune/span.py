"""Extractive question answering: which piece of the passage an answer begins with, and which it ends with.

    loss = (-log p(start) - log p(end)) / 2        p over the pieces of the question's own passage

As in BERT (Devlin et al. 2019, section 4.2), but [CLS] is no answer: every question trained on has one.
"""

from typing import Literal

import torch

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.registry import register


@register("objective", "span")
class Span(Objective):
    """The loss is a mean over the questions of the global batch. Data: `spans`; an encoder."""

    class Settings(Section):
        name: Literal["span"] = "span"

    phases = (Phase("train", "model"),)
    metric = "exact"
    metric_mode = "max"

    def build(self, make):
        return {"model": make(head="span", outputs=2)}

    def count(self, phase, batch):
        return {"questions": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        logp = span_log_probs(nets["model"], batch)
        at = batch["answer"][..., None, :].clamp(min=0)
        nll = -logp.gather(2, at)[:, :, 0][batch["valid"]]
        loss = nll.sum() / 2
        said = logp.argmax(2)
        seen = {
            "loss": loss.detach(),
            "exact": ((said == batch["answer"]).all(-1) & batch["valid"]).sum(),
            **self.count(phase, batch),
        }
        return loss / total["questions"], seen

    def metrics(self, phase, seen):
        """Nats per end, and questions whose both ends are the most likely ones; not SQuAD's exact match."""
        return {"loss": seen["loss"] / seen["questions"], "exact": seen["exact"] / seen["questions"]}


def span_log_probs(net, batch) -> torch.Tensor:
    """(B, P, T, 2): log p that the answer of window p begins or ends at a position; tiny elsewhere."""
    logits = net.label_logits(batch["tokens"], batch["segments"])
    windows = torch.arange(1, batch["valid"].shape[1] + 1, device=logits.device)
    own = batch["passage"][:, None] & (batch["segments"][:, None] == windows[:, None])
    low = torch.finfo(logits.dtype).min / 4  # -inf would make windows that are not there NaN
    return logits[:, None].masked_fill(~own[..., None], low).log_softmax(2)
