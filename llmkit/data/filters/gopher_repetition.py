"""The repetition rules of Gopher (Rae et al. 2021, table A1): repeated lines, paragraphs, sequences."""

import re
from collections import Counter
from typing import Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data.filters.words import words
from llmkit.registry import register

TOP = {2: 0.20, 3: 0.18, 4: 0.16}
"""Words in a sequence -> most of the characters that the commonest one may cover."""
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Words in a sequence -> most of the characters that lie in sequences met before."""


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
        for name, mark in (("paragraphs", r"\n{2,}"), ("lines", r"\n+")):
            parts = re.split(mark, text.strip())
            again, chars = repeated(parts)
            if again > self.settings.part_frac * len(parts) or chars > self.settings.char_frac * len(text):
                return text, f"repeated_{name}"
        found = words(text)
        for n, most in TOP.items():
            if top_chars(found, n) > most * len(text):
                return text, f"top_{n}_words"
        for n, most in REPEATED.items():
            if sequence_chars(found, n) > most * len(text):
                return text, f"repeated_{n}_words"
        return text, None


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts came before, and their characters."""
    seen, count, chars = set(), 0, 0
    for part in parts:
        if part in seen:
            count, chars = count + 1, chars + len(part)
        seen.add(part)
    return count, chars


def top_chars(found: list[str], n: int) -> int:
    """Characters that the commonest sequence of `n` words covers; 0 if none comes twice."""
    common = Counter(zip(*(found[i:] for i in range(n)))).most_common(1)
    return len(" ".join(common[0][0])) * common[0][1] if common and common[0][1] > 1 else 0


def sequence_chars(found: list[str], n: int) -> int:
    """Characters of sequences of `n` words that were met before, none counted twice."""
    seen: set[str] = set()
    chars = at = 0
    while at <= len(found) - n:
        sequence = "".join(found[at : at + n])
        if sequence in seen:
            chars, at = chars + len(sequence), at + n
        else:
            seen.add(sequence)
            at += 1
    return chars
