"""Nearly equal texts, by MinHash and bands (Broder 1997): the first one in the order of the sources is kept.

A text is the set of its sequences of `words` words, without case and punctuation. Two texts that share a
band of hashes are near duplicates; with 14 bands of 8 (FineWeb's) that is likely from a Jaccard similarity
of about 0.72 on. A text is compared with all that came before, kept or not, so a chain of small changes has
one survivor.
"""

import functools
import sys
from typing import Literal

import numpy
import xxhash
from pydantic import Field

from llmkit.config import Section
from llmkit.registry import register

CHUNK = 384
"""Sequences at a time: what they become fits a processor's cache."""
FACTOR, POWER = numpy.uint64(0x9E3779B97F4A7C15), numpy.uint64(0xD6E8FEB86659FD93)
SPACE = numpy.uint64(1)
USUAL = 1 << 16
"""Characters of a text whose powers are kept."""


@register("filter", "near-duplicates")
class NearDuplicates:
    """About 60 bytes of memory per band and text. The order of texts decides who stays."""

    class Settings(Section):
        name: Literal["near-duplicates"] = "near-duplicates"
        words: int = Field(5, ge=1, description="words of a sequence")
        bands: int = Field(14, ge=1, description="bands; more of them find less similar texts")
        rows: int = Field(8, ge=1, description="hashes of a band; more of them find only more similar texts")
        seed: int = Field(1, ge=0, description="another seed draws other hashes")

    def __init__(self, settings: Settings):
        self.settings = settings
        draw = numpy.random.default_rng(settings.seed)
        num = settings.bands * settings.rows
        self._factor = draw.integers(1, 1 << 32, (num, 1), dtype=numpy.uint32) | numpy.uint32(1)
        self._room = numpy.empty((num, CHUNK), numpy.uint32)
        self._bands: list[set[int]] = [set() for _ in range(settings.bands)]

    ordered = True

    def judge(self, text: str) -> tuple[str, str | None]:
        return text, self.met(self.sketch(text))

    def sketch(self, text: str) -> str:
        """The bands of a text, 64 bits each, in hexadecimal."""
        bands = self.signature(text).reshape(self.settings.bands, -1)
        return "".join(xxhash.xxh3_64_hexdigest(band.tobytes()) for band in bands)

    def met(self, sketch: str) -> str | None:
        """Whether a text with one of these bands came before; they are remembered either way."""
        met = False
        for number, seen in enumerate(self._bands):
            digest = int(sketch[16 * number : 16 * number + 16], 16)
            met |= digest in seen
            seen.add(digest)
        return "near_duplicate" if met else None

    def signature(self, text: str) -> numpy.ndarray:
        """The least value of every hash over the sequences of the text: (bands * rows,) uint32."""
        sequences = _sequences(text, self.settings.words)
        least = numpy.full(len(self._factor), 0xFFFFFFFF, numpy.uint32)
        for start in range(0, len(sequences), CHUNK):
            some = sequences[start : start + CHUNK]
            mixed = self._room[:, : len(some)]
            numpy.multiply(self._factor, some, out=mixed)  # modulo 2^32: a permutation of the odd numbers
            numpy.minimum(least, mixed.min(1), out=least)
        return least


@functools.cache
def _scattered() -> numpy.ndarray:
    """(code points,) uint64: 0 for marks, SPACE, and another number for every letter and digit."""
    count = sys.maxunicode + 1
    chars = numpy.arange(count, dtype=numpy.uint32).view("U1")
    is_letter = numpy.strings.isalnum(chars) | (chars == "_")
    is_space = numpy.strings.isspace(chars)
    scattered = (numpy.arange(count, dtype=numpy.uint64) + FACTOR) * FACTOR
    scattered ^= scattered >> numpy.uint64(31)
    return numpy.where(is_letter, scattered | numpy.uint64(2), numpy.where(is_space, SPACE, numpy.uint64(0)))


@functools.cache
def _powers(num: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The powers 0 to num - 1 of POWER and of its inverse, modulo 2^64."""
    inverse = numpy.uint64(pow(int(POWER), -1, 1 << 64))
    up, down = (numpy.full(num, base) for base in (POWER, inverse))
    up[0] = down[0] = 1
    return numpy.multiply.accumulate(up), numpy.multiply.accumulate(down)


def _words(text: str) -> numpy.ndarray:
    """(words,) uint64: a hash of the letters and digits of each word between white space; no word has none.

    The polynomial of Karp & Rabin (1987) modulo 2^64, of all words at once: differences of its sums over the
    whole text, divided by the power at which a word begins.
    """
    codes = numpy.frombuffer(f" {text.lower()} ".encode("utf-32-le", "surrogatepass"), numpy.uint32)
    values = _scattered()[codes]
    values = values[values != 0]
    letter = values != SPACE
    edges = numpy.flatnonzero(letter[1:] != letter[:-1])
    before, last = edges[0::2], edges[1::2]
    up, down = _powers(USUAL) if len(values) <= USUAL else _powers.__wrapped__(len(values))
    sums = numpy.cumsum(values * up[: len(values)])
    return (sums[last] - sums[before]) * down[before]


def _sequences(text: str, n: int) -> numpy.ndarray:
    """(sequences,) uint32, odd: one hash of every `n` words in a row; of all words where there are fewer."""
    words = _words(text)
    words = words if len(words) else numpy.zeros(1, numpy.uint64)
    n = min(n, len(words))
    mixed = numpy.zeros(len(words) - n + 1, numpy.uint64)
    for i in range(n):
        mixed *= FACTOR
        mixed += words[i : len(words) - n + 1 + i]
    mixed ^= mixed >> numpy.uint64(29)
    mixed *= FACTOR  # the upper half of a product depends on all bits
    return (mixed >> numpy.uint64(32)).astype(numpy.uint32) | numpy.uint32(1)
