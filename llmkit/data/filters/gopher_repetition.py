"""The repetition rules of Gopher (Rae et al. 2021, table A1): repeated lines, paragraphs, sequences."""

import re
from typing import Literal

import numpy
from pydantic import Field

from llmkit.config import Section
from llmkit.data.filters.chunks import Text, counted
from llmkit.registry import register

TOP = {2: 0.20, 3: 0.18, 4: 0.16}
"""Words in a sequence -> most of the characters that the commonest one may cover."""
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Words in a sequence -> most of the characters that lie in sequences met before."""
PARAGRAPHS, LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")
BITS = 12
FACTOR = numpy.uint64(0x9E3779B97F4A7C15)


@register("filter", "gopher-repetition")
class GopherRepetition:
    """Shares of characters that repeat what stood before in the same text."""

    class Settings(Section):
        name: Literal["gopher-repetition"] = "gopher-repetition"
        part_frac: float = Field(0.3, ge=0, le=1, description="most lines, or paragraphs, that came before")
        char_frac: float = Field(0.2, ge=0, le=1, description="most characters in such lines or paragraphs")

    def __init__(self, settings: Settings):
        self.settings = settings

    def judge(self, text: str) -> tuple[str, str | None]:
        for name, parts in (("paragraphs", PARAGRAPHS.split(text.strip())), ("lines", LINES.split(text))):
            again, chars = repeated(parts)
            if again > self.settings.part_frac * len(parts) or chars > self.settings.char_frac * len(text):
                return text, f"repeated_{name}"
        found = Sequences(counted(text))
        times = found.most_at_all(
            min(TOP)
        )  # no sequence comes more often than the shorter one it begins with
        for n, most in TOP.items():
            if times * found.longest(n) > most * len(text):
                chars, times = found.top_chars(n)
                if chars > most * len(text):
                    return text, f"top_{n}_words"
        if found.covered_chars(min(REPEATED)) <= min(REPEATED.values()) * len(text):
            return text, None  # longer sequences that come again lie within these
        for n, most in REPEATED.items():
            if found.repeated_chars(n) > most * len(text):
                return text, f"repeated_{n}_words"
        return text, None


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts came before, and their characters."""
    once = set(parts)
    if len(once) == len(parts):
        return 0, 0
    return len(parts) - len(once), sum(map(len, parts)) - sum(map(len, once))


class Sequences:
    """The sequences of words of a text, as 64-bit hashes: found again by sorting."""

    def __init__(self, found: Text):
        self._words = found.hashes.view(numpy.uint64) * FACTOR
        self._ends = numpy.zeros(len(self._words) + 1, numpy.int64)  # characters before each word
        numpy.cumsum(found.lengths, out=self._ends[1:])
        self._hashes, self._length = self._words, 1

    def of(self, n: int) -> numpy.ndarray:
        """The hash of every `n` words in a row. `n` may only grow from call to call."""
        while self._length < n:
            mixed = self._hashes[:-1] ^ (self._hashes[:-1] >> numpy.uint64(31))
            self._hashes = mixed * FACTOR + self._words[self._length :]
            self._length += 1
        return self._hashes

    def longest(self, n: int) -> int:
        """Characters of the longest sequence of `n` words, with spaces between them."""
        return int((self._ends[n:] - self._ends[:-n]).max()) + n - 1 if len(self._words) >= n else 0

    def most_at_all(self, n: int) -> int:
        """No sequence of `n` words comes more often than this; quicker to find than how often one comes."""
        places = self.of(n) >> numpy.uint64(64 - BITS)
        return int(numpy.bincount(places.astype(numpy.intp), minlength=1).max())

    def top_chars(self, n: int) -> tuple[int, int]:
        """(characters it covers, times it comes) of the commonest sequence of `n` words: the first of those.

        There are at least `n` words.
        """
        hashes = self.of(n)
        ordered = numpy.sort(hashes)
        starts = numpy.flatnonzero(numpy.concatenate(([True], ordered[1:] != ordered[:-1])))
        counts = numpy.diff(starts, append=len(ordered))
        most = int(counts.max())
        at = int(_among(hashes, ordered[starts[counts == most]]).argmax()) if most > 1 else 0
        return int(self._ends[at + n] - self._ends[at] + n - 1) * most, most

    def _again(self, n: int) -> numpy.ndarray:
        """Where the sequences of `n` words begin that come more than once."""
        if len(self._words) < n:
            return numpy.zeros(0, numpy.int64)
        hashes = self.of(n)
        ordered = numpy.sort(hashes)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        return numpy.flatnonzero(_among(hashes, twice)) if len(twice) else numpy.zeros(0, numpy.int64)

    def covered_chars(self, n: int) -> int:
        """Characters of all words within sequences of `n` words that come more than once."""
        places = self._again(n)
        within = numpy.zeros(len(self._words), bool)
        for i in range(n):
            within[places + i] = True
        return int(numpy.diff(self._ends)[within].sum())

    def repeated_chars(self, n: int) -> int:
        """Characters of sequences of `n` words that were met before, none counted twice."""
        places = self._again(n)
        hashes = self._hashes
        chars = free = 0
        seen: set[int] = set()
        for at, mixed in zip(places.tolist(), hashes[places].tolist()):
            if at < free:
                continue
            if mixed in seen:
                chars, free = chars + int(self._ends[at + n] - self._ends[at]), at + n
            else:
                seen.add(mixed)
        return chars


def _among(values: numpy.ndarray, ordered: numpy.ndarray) -> numpy.ndarray:
    """Which of `values` are in `ordered`."""
    places = numpy.searchsorted(ordered, values)
    places[places == len(ordered)] = 0
    return ordered[places] == values
