"""Next-token prediction: the mean negative log-likelihood of every labelled token of the global batch."""

import math
from typing import Literal

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.models.crossentropy import IGNORED
from llmkit.models.generate import generate
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
    """Pretraining of a decoder. The loss is sum(NLL) / tokens, both over the whole step and all ranks.

    A mixture of experts adds two losses of its routers, whose means are over rows and over tokens.
    """

    class Settings(Section):
        name: Literal["causal"] = "causal"
        balance: float = Field(
            0.01, ge=0, description="experts only: weight of the load-balancing loss, a mean over rows"
        )
        router_z: float = Field(
            0.001, ge=0, description="experts only: weight of the routers' z-loss, a mean over tokens"
        )
        prompts: tuple[str, ...] = Field(
            (), description="texts that are continued at every evaluation, into samples/ of the run"
        )
        continue_tokens: int = Field(64, gt=0, description="how far they are continued")
        only_with = {
            "balance": ("model.experts",), "router_z": ("model.experts",), "continue_tokens": ("prompts",),
        }  # fmt: skip

    phases = (Phase("train", "model"),)

    def build(self, make):
        nets = super().build(make)
        if self.settings.prompts and hasattr(nets["model"], "encode"):
            raise ConfigError("objective.prompts: an encoder-decoder has no text to go on with; leave it out")
        return nets

    def count(self, phase, batch):
        real = batch["segments"] > 0
        return {**count_labels(batch), "rows": real.any(1).sum(), "real": real.sum()}

    def loss(self, phase, nets, batch, total):
        net, counted = nets["model"], self.count(phase, batch)
        nll, routed = _losses(net, batch)
        seen = {"nll": nll.detach(), **counted}
        if "bytes" in batch:
            seen["bytes"] = batch["bytes"].sum()
        share = nll / total["tokens"]
        if routed:
            s = self.settings
            share = share + s.balance * routed["balance"] / total["rows"]
            share = share + s.router_z * routed["router_z"] / total["real"]
            chosen = {f"load_{i}": n for i, n in enumerate(routed["load"].flatten().unbind())}
            seen |= {"balance": routed["balance"].detach(), "router_z": routed["router_z"].detach(), **chosen}
        return share, seen

    @property
    def shows(self):
        return bool(self.settings.prompts)

    def show(self, nets):
        """Each prompt and how it goes on, drawn at temperature 0.8: the same draws at every evaluation."""
        net, tokenizer, new = nets["model"], self.tokenizer, self.settings.continue_tokens
        room = max(1, net.settings.context - new)
        ids = [[tokenizer.bos, *tokenizer.encode(prompt)][:room] for prompt in self.settings.prompts]
        found = generate(net, ids, min(new, net.settings.context - 1), temperature=0.8, stop=[tokenizer.eos])
        texts = zip(self.settings.prompts, map(tokenizer.decode, found), strict=True)
        return {"continued.txt": "\n\n".join(f"[{prompt}] {text}" for prompt, text in texts).encode() + b"\n"}

    def metrics(self, phase, seen):
        """Nats per token, and bits per byte of the labelled text where the data set counts bytes.

        Of a mixture of experts also `balance` (1 = even), `router_z`, and the load of the least and the most
        used expert of any layer, relative to an even one: loads of different layers are not added up, since
        what is too much in one would make up for what is too little in another.
        """
        figures = {"loss": seen["nll"] / seen["tokens"]}
        if seen.get("bytes"):
            figures["bits_per_byte"] = seen["nll"] / seen["bytes"] / math.log(2)
        if "balance" in seen:
            loads = [value for key, value in seen.items() if key.startswith("load_")]
            even = max(sum(loads), 1) / len(loads)
            figures |= {
                "balance": seen["balance"] / seen["rows"],
                "router_z": seen["router_z"] / seen["real"],
                "load_least": min(loads) / even,
                "load_most": max(loads) / even,
            }
        return figures


def _losses(net, batch: Batch):
    """The summed NLL, and what the routers of a mixture of experts did; {} for any other net."""
    if not hasattr(net, "routed_nll"):
        return summed_nll(net, batch), {}
    nll, routed = net.routed_nll(batch["tokens"], batch["segments"], batch["labels"], **context(batch))
    return nll.sum(), routed
