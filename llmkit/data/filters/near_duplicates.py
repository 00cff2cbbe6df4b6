"""Nearly equal texts, by MinHash and bands (Broder 1997): the first one in the order of the sources is kept.

A text is the set of its sequences of `words` words, without case and punctuation. Two texts that share a
band of hashes are near duplicates; with 14 bands of 8 (FineWeb's) that is likely from a Jaccard similarity
of about 0.72 on. A text is compared with all that came before, kept or not, so a chain of small changes has
one survivor.
"""

import re
from typing import Literal

import numpy
import xxhash
from pydantic import Field

from llmkit.config import Section
from llmkit.data.filters.words import Remembered
from llmkit.registry import register

CHUNK = 1024
"""Sequences at a time: what they become fits a processor's cache."""
FACTOR = numpy.uint64(0x9E3779B97F4A7C15)
_WORD = re.compile(r"\w+")


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
        self._shift = draw.integers(0, 1 << 32, (num, 1), dtype=numpy.uint32)
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
            numpy.multiply(self._factor, some, out=mixed)  # modulo 2^32, a permutation each
            mixed += self._shift
            numpy.minimum(least, mixed.min(1), out=least)
        return least


def _hashed(chunk: str) -> int:
    """64 bits of the letters and digits of a chunk, in lower case; 0 where it has none."""
    word = chunk.lower()
    word = word if word.isalnum() else "".join(_WORD.findall(word))
    return xxhash.xxh3_64_intdigest(word.encode()) or 1 if word else 0


_hashes = Remembered(_hashed)


def _sequences(text: str, n: int) -> numpy.ndarray:
    """(sequences,) uint32: one hash of every `n` words in a row; of all words where there are fewer."""
    chunks = text.split()
    words = numpy.fromiter(map(_hashes.__getitem__, chunks), numpy.uint64, len(chunks))
    words = words[words != 0] if len(chunks) else words
    words = words if len(words) else numpy.zeros(1, numpy.uint64)
    n = min(n, len(words))
    mixed = numpy.zeros(len(words) - n + 1, numpy.uint64)
    for i in range(n):
        mixed *= FACTOR
        mixed += words[i : len(words) - n + 1 + i]
    mixed ^= mixed >> numpy.uint64(29)
    mixed *= FACTOR  # the upper half of a product depends on all bits
    return (mixed >> numpy.uint64(32)).astype(numpy.uint32)
