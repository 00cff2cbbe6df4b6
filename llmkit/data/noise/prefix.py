"""Prefix language modelling (Liu et al. 2018; Raffel et al. 2020, section 3.2.1).

tokens   <s> a b c d e f         the prefix is seen from everywhere in its document,
prefix    1  1 1 1 0 0 0         the rest is causal
labels    -  - - d e f g         inside the prefix nothing is predicted: it could be looked up
"""

from typing import Literal

import numpy as np

from llmkit.config import Section
from llmkit.data.pack import IGNORED
from llmkit.registry import register


@register("noise", "prefix")
class Prefix:
    """A prefix of a length drawn uniformly, and the rest predicted. The net must honour `prefix` (B, T)."""

    class Settings(Section):
        name: Literal["prefix"] = "prefix"

    extra = {"prefix": False}
    shortest = 1
    counts_bytes = False

    def __init__(self, settings: Settings, tokenizer, seq_len: int):
        self.longest = seq_len
        self.sides = {"tokens": seq_len}

    def size(self, n: int) -> tuple[int, ...]:
        return (n,)

    def __call__(self, ids: np.ndarray, before: int, draws) -> dict[str, np.ndarray]:
        seen = 1 + int(draws.below(len(ids), 1)[0])
        labels = ids.copy()
        labels[: seen - 1] = IGNORED
        return {
            "tokens": np.concatenate([[before], ids[:-1]]),
            "labels": labels,
            "prefix": np.arange(len(ids)) < seen,
        }
