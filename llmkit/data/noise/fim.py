"""Fill in the middle (Bavarian et al. 2022): a causal model learns to write what stands between two texts.

    text       prefix | middle | suffix          cut at two places, drawn uniformly between tokens
    PSM        <s> <PRE> prefix <SUF> suffix <MID> middle </s>
    SPM        <s> <PRE> <SUF> suffix <MID> prefix middle </s>         (their variant 2)

Every position is a label, as in the paper. Cuts are made in the pieces that rows consist
of ("context level"), so no row holds a fragment of a rearranged text.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from llmkit.config import Section
from llmkit.registry import register
from llmkit.tokenizer import special


@register("noise", "fim")
class FillInTheMiddle:
    """Some pieces rearranged, the others as they are. Goes with the objective `causal`."""

    class Settings(Section):
        name: Literal["fim"] = "fim"
        rate: float = Field(0.5, gt=0, le=1, description="share of the pieces that are rearranged")
        spm_frac: float = Field(0.5, ge=0, le=1, description="share of those that put the suffix first (SPM)")

    extra: dict[str, int] = {}
    shortest = 1
    counts_bytes = True

    def __init__(self, settings: Settings, tokenizer, seq_len: int):
        self.settings = settings
        where = "data.noise"
        self._bos, self._eos = (special.marker(tokenizer, which, where) for which in ("bos", "eos"))
        names = special.FIM_PREFIX, special.FIM_SUFFIX, special.FIM_MIDDLE
        self._marks = [special.find(tokenizer, spellings, where) for spellings in names]
        self.longest = seq_len - 4
        self.sides = {"tokens": seq_len}

    def size(self, n: int) -> tuple[int, ...]:
        return (n + 4,)

    def __call__(self, ids: np.ndarray, before: int, draws) -> dict[str, np.ndarray]:
        chance, layout = draws.uniform(2)
        if chance >= self.settings.rate:
            text = np.concatenate([[before], ids])
        else:
            first, second = np.sort(draws.below(len(ids) + 1, 2))
            text = self.arranged(
                ids[:first], ids[first:second], ids[second:], layout < self.settings.spm_frac
            )
        return {"tokens": text[:-1], "labels": text[1:]}

    def arranged(self, prefix, middle, suffix, suffix_first: bool) -> np.ndarray:
        """The three parts in SPM order if `suffix_first`, else in PSM order, with the marks between them."""
        pre, suf, mid = ([mark] for mark in self._marks)
        head, tail = [self._bos], [self._eos]
        if suffix_first:
            return np.concatenate([head, pre, suf, suffix, mid, prefix, middle, tail])
        return np.concatenate([head, pre, prefix, suf, suffix, mid, middle, tail])
