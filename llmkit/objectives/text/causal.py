"""Next-token prediction: the mean negative log-likelihood of every labelled token of the global batch."""

import math
from typing import Literal

from llmkit.config import Section
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Batch, Numbers, Objective, Phase
from llmkit.registry import register


def count_labels(batch: Batch) -> Numbers:
    """How many positions of `labels` (B, T) carry loss, as a 0-d tensor."""
    return {"tokens": (batch["labels"] != IGNORED).sum()}


CONTEXT = ("source", "source_segments", "prefix")
"""What a net may see besides `tokens`: an encoder's side (B, S), or which positions all others see (B, T)."""


def context(batch: Batch) -> Batch:
    """The keyword arguments of `nll` and `hidden` that `batch` has beside tokens, segments and labels."""
    return {key: batch[key] for key in CONTEXT if key in batch}


def summed_nll(net, batch: Batch):
    """The negative log-likelihood of the labelled tokens in nats, summed over the batch to a scalar.

    A batch with a `source` is an encoder-decoder's: its `tokens` are what the decoder reads.
    """
    return net.nll(batch["tokens"], batch["segments"], batch["labels"], **context(batch)).sum()


@register("objective", "causal")
class Causal(Objective):
    """Pretraining of a decoder. The loss is sum(NLL) / tokens, both over the whole step and all ranks."""

    class Settings(Section):
        name: Literal["causal"] = "causal"

    phases = (Phase("train", "model"),)

    def count(self, phase, batch):
        return count_labels(batch)

    def loss(self, phase, nets, batch, total):
        nll = summed_nll(nets["model"], batch)
        seen = {"nll": nll.detach(), **count_labels(batch)}
        if "bytes" in batch:
            seen["bytes"] = batch["bytes"].sum()
        return nll / total["tokens"], seen

    def metrics(self, phase, seen):
        """Nats per token, and bits per byte of the labelled text where the data set counts bytes."""
        figures = {"loss": seen["nll"] / seen["tokens"]}
        if seen.get("bytes"):
            figures["bits_per_byte"] = seen["nll"] / seen["bytes"] / math.log(2)
        return figures
