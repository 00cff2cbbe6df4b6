"""No noise: every position predicts the next token of its document."""

from typing import Literal

import numpy as np

from llmkit.config import Section
from llmkit.registry import register


@register("noise", "none")
class Plain:
    """The token before a piece is its first input, so every token but BOS is a label."""

    class Settings(Section):
        name: Literal["none"] = "none"

    extra: dict[str, int] = {}
    shortest = 1
    counts_bytes = True

    def __init__(self, settings: Settings, tokenizer, seq_len: int):
        self.longest = seq_len
        self.sides = {"tokens": seq_len}

    def size(self, n: int) -> tuple[int, ...]:
        return (n,)

    def __call__(self, ids: np.ndarray, before: int, draws) -> dict[str, np.ndarray]:
        return {"tokens": np.concatenate([[before], ids[:-1]]), "labels": ids}
