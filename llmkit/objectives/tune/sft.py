"""Supervised fine-tuning: next-token prediction on the assistant's replies alone.

    <user> last word: red green <end> <assistant> green <end>
                                                  ^^^^^^^^^^^   only these carry loss, the end marker included

Which tokens those are is the chat template's business (`{% generation %}`); the data set makes labels of it.
"""

import math
from typing import Literal

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.text.causal import count_labels, summed_nll
from llmkit.registry import register


@register("objective", "sft")
class Sft(Objective):
    """The loss is sum(NLL) / reply tokens, both over the whole optimiser step and all ranks."""

    class Settings(Section):
        name: Literal["sft"] = "sft"

    phases = (Phase("train", "model"),)

    def count(self, phase, batch):
        return count_labels(batch)

    def loss(self, phase, nets, batch, total):
        nll = summed_nll(nets["model"], batch)
        return nll / total["tokens"], {"nll": nll.detach(), **count_labels(batch)}

    def metrics(self, phase, seen):
        """Nats per reply token, and its exponential."""
        loss = seen["nll"] / seen["tokens"]
        return {"loss": loss, "perplexity": math.exp(min(loss, 80.0))}
