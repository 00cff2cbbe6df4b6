"""Span corruption for an encoder-decoder (Raffel et al. 2020, section 3.1.4), as seqio computes it.

    text      Thank you for inviting me to your party last week
    source    Thank you <X> me to your party <Y> week </s>        X, Y: <extra_id_0>, <extra_id_1>
    labels    <X> for inviting <Y> last </s>
    tokens    <pad> <X> for inviting <Y> last                     the decoder's input: labels, one later
    spans       0    1     1     0    2   0                       which span a label belongs to

Both lengths follow from the text's own, so pieces are packed exactly.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from llmkit.config import Section
from llmkit.registry import register
from llmkit.tokenizer import special


def noise_lengths(n: int, density: float, mean_span: float) -> tuple[int, int]:
    """(tokens, spans) that are taken out of `n` tokens: seqio's random_spans_noise_mask."""
    tokens = min(max(round(n * density), 1), n - 1)
    return tokens, min(max(round(tokens / mean_span), 1), n - tokens)


def row_lengths(source_len: int, density: float, mean_span: float) -> tuple[int, int]:
    """(tokens of text, tokens of its target) that fill `source_len`: seqio's random_spans_helper."""

    def sizes(n: int) -> tuple[int, int]:
        tokens, spans = noise_lengths(n, density, mean_span)
        return n - tokens + spans + 1, tokens + spans + 1

    n = source_len
    while sizes(n + 1)[0] <= source_len:
        n += 1
    if density == 0.5 and sizes(n)[1] > source_len:
        n -= 1
    return n, sizes(n)[1]


def random_parts(n: int, parts: int, draws) -> np.ndarray:
    """`n` items in `parts` parts of at least one, every way of cutting them equally likely -> the lengths."""
    cuts = np.sort(draws.order(n - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [n]]))


@register("noise", "span")
class Span:
    """Spans become sentinels in the source and are spelt out in the target. Goes with `denoise`."""

    class Settings(Section):
        name: Literal["span"] = "span"
        density: float = Field(0.15, gt=0, le=0.5, description="share of the tokens that are taken out")
        mean_span: float = Field(3.0, ge=1, description="mean length of a span in tokens")
        target_len: int | None = Field(
            None, gt=2, description="positions of a row of the decoder; None: what a full source needs (T5)"
        )

    extra = {"spans": 0}
    start = "pad"
    shortest = 2
    counts_bytes = False

    def __init__(self, settings: Settings, tokenizer, seq_len: int):
        self.settings = settings
        self.longest, target_len = row_lengths(seq_len, settings.density, settings.mean_span)
        self.sides = {"source": seq_len, "tokens": settings.target_len or target_len}
        while self.size(self.longest)[1] > self.sides["tokens"]:
            self.longest -= 1
        where = "data.noise"
        self._start, self._eos = (special.marker(tokenizer, which, where) for which in (self.start, "eos"))
        self._sentinels = np.array(special.sentinels(tokenizer, self._lengths(self.longest)[1], where))

    def _lengths(self, n: int) -> tuple[int, int]:
        return noise_lengths(n, self.settings.density, self.settings.mean_span)

    def size(self, n: int) -> tuple[int, ...]:
        tokens, spans = self._lengths(n)
        return n - tokens + spans + 1, tokens + spans + 1

    def __call__(self, ids: np.ndarray, before: int, draws) -> dict[str, np.ndarray]:
        tokens, spans = self._lengths(len(ids))
        taken, kept = (random_parts(n, spans, draws) for n in (tokens, len(ids) - tokens))
        cuts = np.cumsum(np.stack([kept, taken], 1).ravel())[:-1]
        texts = np.split(ids, cuts)
        source, target, number = [], [], []
        for i, sentinel in enumerate(self._sentinels[:spans]):
            left, out = texts[2 * i : 2 * i + 2]
            source += [left, [sentinel]]
            target += [[sentinel], out]
            number += [[0], np.full(len(out), i + 1)]
        labels = np.concatenate([*target, [self._eos]])
        return {
            "source": np.concatenate([*source, [self._eos]]),
            "tokens": np.concatenate([[self._start], labels[:-1]]),
            "labels": labels,
            "spans": np.concatenate([*number, [0]]),
        }
