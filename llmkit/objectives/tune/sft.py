"""Supervised fine-tuning: next-token prediction on the assistant's replies alone.

    <user> last word: red green <end> <assistant> green <end>
                                                  ^^^^^^^^^^^   only these carry loss, the end marker included

Which tokens those are is the chat template's business (`{% generation %}`); the data set makes labels of it.
"""

import contextlib
import math
from typing import Literal

import torch
from torch import Tensor

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.text.causal import count_labels, summed_nll
from llmkit.registry import register


def noise_scale(segments: Tensor, width: int, alpha: float) -> Tensor:
    """NEFTune's alpha / sqrt(L D) of each position, (B, T); L is the length of its own document."""
    segments = segments.long()
    lengths = segments.new_zeros(len(segments), segments.shape[1] + 1)
    lengths = lengths.scatter_add(1, segments, torch.ones_like(segments)).gather(1, segments)
    return alpha / (lengths * width).float().sqrt()


@contextlib.contextmanager
def noisy(net, segments: Tensor, alpha: float):
    """Inside, uniform noise is added to the embeddings of the tokens (Jain et al. 2023, algorithm 1).

    It is drawn like dropout, from the generator that the engine seeds by step, rank and micro-batch.
    """
    if not hasattr(net, "embed_tokens"):
        raise ConfigError(f"objective.neftune: {type(net).__name__} has no embeddings to add noise to; set 0")

    def add(module, args, out):
        scale = noise_scale(segments, out.shape[-1], alpha)[..., None]
        return out + torch.empty_like(out).uniform_(-1, 1) * scale.to(out.dtype)

    handle = net.embed_tokens.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@register("objective", "sft")
class Sft(Objective):
    """The loss is sum(NLL) / reply tokens, both over the whole optimiser step and all ranks."""

    class Settings(Section):
        name: Literal["sft"] = "sft"
        neftune: float = Field(
            0.0, ge=0.0, description="NEFTune's alpha, noise on the embeddings in training; usual: 5; 0: none"
        )

    phases = (Phase("train", "model"),)

    def count(self, phase, batch):
        return count_labels(batch)

    def loss(self, phase, nets, batch, total):
        net, alpha = nets["model"], self.settings.neftune
        around = noisy(net, batch["segments"], alpha) if alpha and net.training else contextlib.nullcontext()
        with around:
            nll = summed_nll(net, batch)
        return nll / total["tokens"], {"nll": nll.detach(), **count_labels(batch)}

    def metrics(self, phase, seen):
        """Nats per reply token, and its exponential."""
        loss = seen["nll"] / seen["tokens"]
        return {"loss": loss, "perplexity": math.exp(min(loss, 80.0))}
