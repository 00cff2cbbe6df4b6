"""A caption as the set of its words: what tells a model of images what to draw.

"Red heart, red" ─► red, heart ─► (L,) their numbers in a list of words, from 1; 0 where there is none
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from llmkit.errors import ConfigError

WORD = re.compile(r"\w+")
LEAST, MOST = 2, 4096


def words(caption: str) -> list[str]:
    """The different words of a caption, in lower case, in order."""
    return list(dict.fromkeys(WORD.findall(caption.lower())))


def vocabulary(captions: Sequence[str]) -> tuple[str, ...]:
    """The words that stand in LEAST of these captions, the most frequent first, at most MOST.

    ConfigError if there is none.
    """
    found = Counter(word for caption in captions for word in words(caption))
    known = sorted((-count, word) for word, count in found.items() if count >= LEAST)[:MOST]
    if not known:
        raise ConfigError(f"data.captions: no word stands in {LEAST} captions; set it to false")
    return tuple(word for _, word in known)


def numbered(captions: Sequence[str], known: Sequence[str], length: int | None = None) -> np.ndarray:
    """(N, L) int64: the words' places in `known`, from 1, then zeros; L is the most there are, or `length`.

    Words that are not known are left out.
    """
    places = {word: place for place, word in enumerate(known, 1)}
    rows = [[places[word] for word in words(caption) if word in places] for caption in captions]
    out = np.zeros((len(rows), length or max(map(len, rows), default=0) or 1), np.int64)
    for row, numbers in zip(out, rows, strict=True):
        row[: len(numbers)] = numbers
    return out
