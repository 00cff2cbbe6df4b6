r"""Where text can be cut without changing its ids: before spaces, and around runs of line breaks and tabs.

    "for  x\n\tin y"  ->  "for"  "  x"  "\n\t"  "in"  " y"

No piece of a vocabulary trained here crosses such a border, so each part is encoded by itself: a part that
came before is looked up, and neither library ever adds up the scores of more than one part.
"""

import re
from collections.abc import Callable, Iterable
from itertools import chain

LONGEST = 500
"""Spaces, and characters after them, of a part for unigram: its float32 sums are exact up to there."""


def _pattern(space: str, most: int | None) -> str:
    any_, some = ("*", "+") if most is None else (f"{{0,{most}}}", f"{{1,{most}}}")
    word = rf"[^{space}\n\t]"
    return rf"[{space}]{any_}{word}{some}|[{space}]{some}|[\n\t]{some}"


WORDS = re.compile(_pattern(" \u2581", None))
BOUNDED = re.compile(_pattern(" \u2581", LONGEST))
BOUNDED_ESCAPED = _pattern("\u2581", LONGEST)
"""BOUNDED for text whose spaces are U+2581 already, as a pattern of tokenizers' `Regex`."""


def crossing(pieces: Iterable[str]) -> str | None:
    """The first of `pieces` that lies across a border; None if every one lies within a part."""
    return next((piece for piece in pieces if not WORDS.fullmatch(piece)), None)


BEFORE_SPACES = re.compile(r"(?<=[!-~])(?= )")
"""Where byte-level vocabularies of byte_level.py can be cut: none of its words holds such a place."""


class Encoder:
    """Texts to ids: `cut` gives the parts of a text, `encode` the ids of one part or of a list of them."""

    def __init__(self, cut: Callable[[str], list[str]], encode):
        self._cut, self._seen = cut, Seen(encode)

    def one(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._seen.__getitem__, self._cut(text))))

    def all(self, texts: list[str]) -> list[list[int]]:
        """`one` of many, with what is new in them encoded at once."""
        cut = [self._cut(text) for text in texts]
        self._seen.learn(chain.from_iterable(cut))
        return [list(chain.from_iterable(map(self._seen.__getitem__, found))) for found in cut]


class Seen(dict):
    """Ids of parts by their text, encoded when first asked for; short parts are remembered, up to a limit."""

    MOST = 1 << 18
    SHORT = 64

    def __init__(self, encode):
        """`encode` takes one text, or a list of them, for which it is faster."""
        super().__init__()
        self._encode = encode

    def __missing__(self, part: str) -> list[int]:
        ids = self._encode(part)
        self._keep([part], [ids])
        return ids

    def learn(self, found: Iterable[str]) -> None:
        """Encode those of `found` that are new, all at once."""
        new = [part for part in set(found) if part not in self and len(part) <= self.SHORT]
        if new:
            self._keep(new, self._encode(new))

    def _keep(self, found: list[str], ids: list[list[int]]) -> None:
        if len(self) + len(found) > self.MOST:
            self.clear()
        self.update((part, row) for part, row in zip(found, ids, strict=True) if len(part) <= self.SHORT)
