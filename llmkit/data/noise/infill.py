"""Text infilling and sentence permutation for an encoder-decoder (Lewis et al. 2020, section 2.2: BART).

    text      A b c d e. F g h.
    source    <s> F <mask> h. A b <mask> e. <mask> </s>       sentences in another order; spans of Poisson(3)
    labels    <s> A b c d e. F g h. </s>                      tokens, or of none, become one mask each
    tokens    </s> <s> A b c d e. F g h.                       the decoder's input: labels, one later

A source is at most as long as its text, and about a fifth shorter, which is padding of the encoder's rows.
"""

import math
from typing import Literal

import numpy as np
from pydantic import Field

from llmkit.config import Section
from llmkit.data.words import sentence_ends
from llmkit.registry import register
from llmkit.tokenizer import special


def poisson_table(mean: float) -> np.ndarray:
    """P(N <= 0), P(N <= 1), ...: a uniform number's place among them is a draw from Poisson(mean)."""
    chances = [math.exp(-mean)]
    while sum(chances) < 1 - 1e-12 and len(chances) < 1000:
        chances.append(chances[-1] * mean / len(chances))
    return np.cumsum(chances)


@register("noise", "infill")
class Infill:
    """Spans replaced by one mask each, sentences shuffled, the text written anew. Goes with `denoise`."""

    class Settings(Section):
        name: Literal["infill"] = "infill"
        rate: float = Field(0.3, gt=0, le=0.5, description="share of the tokens that masks stand for")
        mean_span: float = Field(
            3.0, ge=1, le=50, description="mean of the Poisson lengths of spans, in tokens"
        )
        permute: bool = Field(True, description="put the sentences of the source in a random order first")

    extra: dict[str, int] = {}
    start = "eos"
    shortest = 2
    counts_bytes = False

    def __init__(self, settings: Settings, tokenizer, seq_len: int):
        self.settings = settings
        where = "data.noise"
        self._bos, self._eos = (special.marker(tokenizer, which, where) for which in ("bos", "eos"))
        self._mask = special.find(tokenizer, special.MASK, where)
        self._ends = sentence_ends(tokenizer) if settings.permute else None
        self._poisson = poisson_table(settings.mean_span)
        self.longest = seq_len - 2
        self.sides = {"source": seq_len, "tokens": seq_len}

    def size(self, n: int) -> tuple[int, ...]:
        return n + 2, n + 2

    def __call__(self, ids: np.ndarray, before: int, draws) -> dict[str, np.ndarray]:
        source = self.infilled(self.permuted(ids, draws), draws)
        labels = np.concatenate([[self._bos], ids, [self._eos]])
        return {
            "source": np.concatenate([[self._bos], source, [self._eos]]),
            "tokens": np.concatenate([[self._eos], labels[:-1]]),
            "labels": labels,
        }

    def permuted(self, ids: np.ndarray, draws) -> np.ndarray:
        """The sentences of `ids` in a random order; `ids` itself if that is not asked for."""
        if self._ends is None:
            return ids
        sentences = np.split(ids, np.flatnonzero(self._ends[ids[:-1]]) + 1)
        return np.concatenate([sentences[i] for i in draws.order(len(sentences))])

    def infilled(self, ids: np.ndarray, draws) -> np.ndarray:
        """`ids` with spans of `rate` of it in all replaced by masks; no two spans touch."""
        lengths = self.lengths(len(ids), draws)
        kept = len(ids) - int(lengths.sum())
        gaps = np.sort(draws.order(kept + 1)[: len(lengths)])  # behind how many kept tokens each span stands
        ends = gaps + np.cumsum(lengths)
        out, start = [], 0
        for end, length in zip(ends, lengths, strict=True):
            out += [ids[start : end - length], [self._mask]]
            start = end
        return np.concatenate([*out, ids[start:]])

    def lengths(self, n: int, draws) -> np.ndarray:
        """Lengths of spans that cover round(rate * n) of `n` tokens, the last one cut to fit.

        Empty ones, which insert a mask, are kept as far as the source stays no longer than the text.
        """
        budget = min(max(round(self.settings.rate * n), 1), n - 1)
        drawn = np.searchsorted(self._poisson, draws.uniform(8 + 4 * budget), "right")
        reached = int(np.searchsorted(np.cumsum(drawn), budget))
        spans = drawn[: reached + 1].copy()
        spans[-1] -= spans.sum() - budget
        empty = np.flatnonzero(spans == 0)
        room = min(budget, n - budget + 1) - (len(spans) - len(empty))
        return np.delete(spans, empty[max(0, room) :])
