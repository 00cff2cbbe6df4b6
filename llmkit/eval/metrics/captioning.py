"""Captions of held-out images, written and weighed: does the net say what they show, and does it look at all?

    own         each caption under its own image
    shuffled    under another image; and what was written of another image, held against this one's caption
    constant    the one training caption that is closest to all others, said of every image
    blind       a net that was trained on black images: what its captions cost without seeing

Shuffling asks whether this net looks: one that does not gives equal figures. `blind` asks what seeing is
worth: a net that expects an image is worse off with a wrong one than one that never had any. Images that
belong together (the tones of an emoji) are resampled together, and no image is given another of them.
"""

import math
from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.data.captions import words
from llmkit.data.sets.captioned import Captioned
from llmkit.errors import ConfigError, DataError
from llmkit.eval import captioning
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import Interval, bootstrap, keyed
from llmkit.opened import open_model
from llmkit.registry import register

CLOUD = 2048
"""Most training captions among which a constant one is looked for."""


@register("metric", "captioning")
class Captioning(Metric):
    """Nats per caption, bits per byte, word F1 and exact matches of greedy captions, beside baselines."""

    class Settings(Section):
        name: Literal["captioning"] = "captioning"
        images: Captioned.Settings = Field(
            description="the set that the net was trained on; its tokenizer is the net's"
        )
        blind: str | None = Field(
            None, description="run of the same recipe with data.blank=true, to compare with"
        )
        beams: int = Field(1, ge=1, description="candidates of beam search; 1: greedy")

    head = "caption"
    headline = "word_f1"

    def measure(self, opened):
        s, net = self.settings, opened.net
        train, held = (self._set(opened, split) for split in ("train", "heldout"))
        groups = np.unique(held.origins, return_inverse=True)[1]
        others = elsewhere(groups)
        own = captioning.nll(net, held, held.images)
        shuffled = captioning.nll(net, held, held.images[others])
        most = held.settings.seq_len - 1
        said = captioning.written(opened, held.images, most, beams=s.beams)
        constant = central(train.texts)
        f1 = scored(said, held.texts)
        f1_shuffled, f1_constant = (
            scored(texts, held.texts) for texts in ([said[i] for i in others], [constant] * len(said))
        )
        exact = np.array([a.strip() == b for a, b in zip(said, held.texts, strict=True)], float)
        sizes = np.array([len(text.encode()) for text in held.texts])

        def mean(values: np.ndarray) -> Interval:
            return clustered(values, groups)

        figures = {
            "word_f1": mean(f1).value,
            "ci95": _ends(mean(f1)),
            "word_f1_shuffled": float(f1_shuffled.mean()),
            "word_f1_constant": float(f1_constant.mean()),
            "constant": constant,
            **_told("word_f1_above_shuffled", mean(f1 - f1_shuffled)),
            **_told("word_f1_above_constant", mean(f1 - f1_constant)),
            **_told("exact_match", mean(exact)),
            "exact_match_shuffled": float(
                np.mean([said[i].strip() == t for i, t in zip(others, held.texts)])
            ),
            **_told("nats_per_caption", mean(own)),
            "bits_per_byte": float(own.sum() / sizes.sum() / math.log(2)),
            **_told("nats_by_own_image", mean(shuffled - own)),
            "samples": len(said),
            "groups": int(groups.max()) + 1,
            "counts": dict(held.counts),
        }
        if s.blind:
            blind = captioning.nll(self._blind(opened).net, held, torch.zeros_like(held.images))
            figures |= _told("nats_by_seeing", mean(blind - own))
            figures["nats_per_caption_blind"] = float(blind.mean())
        rows = [
            {"id": f"{name}-{text}", "value": float(v), "said": a, "wanted": text}
            for name, text, v, a in zip(held.origins, held.texts, f1, said, strict=True)
        ]
        return Measured(figures, rows)

    def _set(self, opened, split: Literal["train", "heldout"]) -> Captioned:
        """The images that the net was made for, in its own tokens."""
        s, net = self.settings.images, opened.net.settings
        data = Captioned(s.model_copy(update={"tokenizer": str(opened.tokenizer.folder)}), split, 0)
        if (data.size, data.channels) != (net.size, net.channels):
            raise ConfigError(
                f"images: {data.channels} x {data.size} x {data.size}, the net looks at {net.channels} x "
                f"{net.size} x {net.size}; set size and channels as its data was"
            )
        return data

    def _blind(self, opened):
        device = next(opened.net.parameters()).device
        other = open_model(self.settings.blind, "caption", device)
        if other.tokenizer.fingerprint != opened.tokenizer.fingerprint:
            raise DataError(
                f"blind: {self.settings.blind} writes in another tokenizer; train it on the same captions"
            )
        return other


def elsewhere(groups: np.ndarray) -> np.ndarray:
    """For each of N images the place of one of another group: (N,), every image once.

    DataError if one group has more than half of them.
    """
    if 2 * np.bincount(groups).max() > len(groups):
        raise DataError("images: more than half belong together; there are too few others to compare with")
    order = np.argsort(keyed("captioning").permutation(groups.max() + 1)[groups], kind="stable")
    out = np.empty_like(order)
    out[order] = np.roll(order, len(order) // 2)
    return out


def clustered(values: np.ndarray, groups: np.ndarray) -> Interval:
    """The mean of `values` (N,), its interval by a bootstrap of whole `groups` (N,)."""
    sizes = np.bincount(groups)
    return bootstrap(np.bincount(groups, values) / sizes, sizes, key="captioning")


def central(texts: tuple[str, ...]) -> str:
    """The text with the largest mean word F1 to all of `texts`; of many, to CLOUD of them."""
    texts = texts[:: -(-len(texts) // CLOUD)]
    bags = [words(text) for text in texts]
    places = {word: place for place, word in enumerate(dict.fromkeys(word for bag in bags for word in bag))}
    there = np.zeros((len(texts), len(places)), np.float32)
    for row, bag in zip(there, bags, strict=True):
        row[[places[word] for word in bag]] = 1
    size = there.sum(1)
    f1 = 2 * there @ there.T / np.maximum(1, size[:, None] + size)
    return texts[f1.mean(1).argmax()]


def scored(said: list[str], wanted) -> np.ndarray:
    """Word F1 of each pair (N,)."""
    return np.array([captioning.word_f1(a, b) for a, b in zip(said, wanted, strict=True)])


def _told(name: str, found: Interval) -> dict:
    return {name: found.value, f"{name}_ci95": _ends(found)}


def _ends(found: Interval) -> list[float]:
    return [found.low, found.high]
