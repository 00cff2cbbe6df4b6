"""Writing what an image shows: `seq2seq` whose source is an image, and a look at what is written."""

import math
from typing import Literal

import torch

from llmkit.models.crossentropy import IGNORED
from llmkit.models.generate import generate
from llmkit.objectives.tune.seq2seq import Seq2seq
from llmkit.registry import register
from llmkit.vision import gallery

SHOWN = 16
"""Held-out images in a sheet."""


@register("objective", "caption")
class Caption(Seq2seq):
    """The mean NLL of every token of the captions, their ends included. Data: `captioned`."""

    class Settings(Seq2seq.Settings):
        name: Literal["caption"] = "caption"

    watched: tuple[torch.Tensor, torch.Tensor] | None = None

    def loss(self, phase, nets, batch, total):
        share, seen = super().loss(phase, nets, batch, total)
        seen["bytes"] = batch["bytes"].sum()
        if not torch.is_grad_enabled() and self.watched is None:
            self.watched = batch["source"][:SHOWN], batch["labels"][:SHOWN]
        return share, seen

    def metrics(self, phase, seen):
        """As of `seq2seq`; bits per byte of the captions compare across tokenizers."""
        return super().metrics(phase, seen) | {"bits_per_byte": seen["nll"] / seen["bytes"] / math.log(2)}

    def show(self, nets):
        """Some held-out images, each with its own caption and the one that is written, greedily."""
        net, tokenizer = nets["model"], self.tokenizer
        (images, labels), self.watched = self.watched, None
        own = [tokenizer.decode([i for i in row if i != IGNORED]) for row in labels.tolist()]
        start, most = [getattr(tokenizer, net.settings.start)], labels.shape[1]
        said = [
            tokenizer.decode(ids) for ids in generate(net, images, most, stop=[tokenizer.eos], start=start)
        ]
        lines = [(text, f"> {guess}") for text, guess in zip(own, said, strict=True)]
        return {"captions.png": gallery.beside(images.float() / 255, lines)}
