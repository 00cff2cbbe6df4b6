"""Masked language modelling (Devlin et al. 2019), masked anew every epoch (Liu et al. 2019).

text     the quick brown fox jumps over
tokens   [CLS] the [MASK] brown fox apple over [SEP]     80 % masks, 10 % another piece, 10 % unchanged
labels     -    -  quick    -   fox jumps   -    -       what was chosen, and nothing else
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from llmkit.config import Section
from llmkit.data.pack import IGNORED
from llmkit.data.words import word_starts
from llmkit.registry import register
from llmkit.tokenizer import special


@register("noise", "masked")
class Masked:
    """A share of the pieces, or of whole words, to be guessed. Goes with the objective `masked`."""

    class Settings(Section):
        name: Literal["masked"] = "masked"
        rate: float = Field(
            0.15,
            gt=0,
            le=0.5,
            description="share of the tokens to be guessed: 0.15 as BERT, 0.3 as ModernBERT",
        )
        whole_words: bool = Field(False, description="all pieces of a word are chosen, or none")
        mask_frac: float = Field(
            0.8, ge=0, le=1, description="share of the chosen that become the mask piece"
        )
        random_frac: float = Field(
            0.1, ge=0, le=1, description="share that become another piece; what is left stays as it is"
        )

        @model_validator(mode="after")
        def _shares(self):
            if self.mask_frac + self.random_frac > 1:
                raise ValueError(
                    f"mask_frac={self.mask_frac} and random_frac={self.random_frac} are more than 1 together"
                )
            return self

    extra: dict[str, int] = {}
    shortest = 2
    counts_bytes = False

    def __init__(self, settings: Settings, tokenizer, seq_len: int):
        self.settings = settings
        where = "data.noise"
        self._bos, self._eos = (special.marker(tokenizer, which, where) for which in ("bos", "eos"))
        self._mask = special.find(tokenizer, special.MASK, where)
        self._ordinary = np.flatnonzero(tokenizer.piece_bytes() > 0)
        self._starts = word_starts(tokenizer) if settings.whole_words else None
        self.longest = seq_len - 2
        self.sides = {"tokens": seq_len}

    def size(self, n: int) -> tuple[int, ...]:
        return (n + 2,)

    def __call__(self, ids: np.ndarray, before: int, draws) -> dict[str, np.ndarray]:
        chosen = self._chosen(ids, draws)
        labels, noised = np.full(len(ids), IGNORED, np.int64), ids.copy()
        labels[chosen] = ids[chosen]
        fate = draws.uniform(len(chosen))
        other = self._ordinary[draws.below(len(self._ordinary), len(chosen))]
        masked = fate < self.settings.mask_frac
        replaced = ~masked & (fate < self.settings.mask_frac + self.settings.random_frac)
        noised[chosen[masked]] = self._mask
        noised[chosen[replaced]] = other[replaced]
        return {
            "tokens": np.concatenate([[self._bos], noised, [self._eos]]),
            "labels": np.concatenate([[IGNORED], labels, [IGNORED]]),
        }

    def _chosen(self, ids: np.ndarray, draws) -> np.ndarray:
        """The positions to be guessed: as near to `rate` of them as the words allow, and one at least."""
        wanted = max(1, round(self.settings.rate * len(ids)))
        if self._starts is None:
            return draws.order(len(ids))[:wanted]
        word = np.cumsum(self._starts(ids)) - 1
        lengths = np.bincount(word)
        order = draws.order(len(lengths))
        middles = np.cumsum(lengths[order]) - lengths[order] / 2
        taken = order[: max(1, np.searchsorted(middles, wanted))]
        return np.flatnonzero(np.isin(word, taken))
