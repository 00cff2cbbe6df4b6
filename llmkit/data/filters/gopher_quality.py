"""The quality rules of Gopher (Rae et al. 2021, appendix A.1.1), with the thresholds that datatrove has."""

from typing import Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data.filters.chunks import counted
from llmkit.registry import register


@register("filter", "gopher-quality")
class GopherQuality:
    """Length, mean word, symbols, bullets, ellipses, letters and common English words of a text."""

    class Settings(Section):
        name: Literal["gopher-quality"] = "gopher-quality"
        min_words: int = Field(50, ge=0, description="fewest words, punctuation not counted")
        max_words: int = Field(100_000, gt=0, description="most words")
        min_word_len: float = Field(3, ge=0, description="least mean length of a word, in characters")
        max_word_len: float = Field(10, gt=0, description="greatest mean length of a word, in characters")
        symbol_frac: float = Field(0.1, ge=0, description="most # or ellipses to a word")
        bullet_frac: float = Field(0.9, ge=0, le=1, description="most lines that begin with a bullet")
        ellipsis_frac: float = Field(0.3, ge=0, le=1, description="most lines that end with an ellipsis")
        alpha_frac: float = Field(0.8, ge=0, le=1, description="least words with a letter in them")
        stop_words: int = Field(2, ge=0, description="fewest of eight common English words; 0: any language")

    def __init__(self, settings: Settings):
        self.settings = settings

    def judge(self, text: str) -> tuple[str, str | None]:
        s, found = self.settings, counted(text).counts
        num = found.words - found.marks
        if not s.min_words <= num <= s.max_words or not num:
            return text, "too_few_words" if num <= s.max_words else "too_many_words"
        mean = (found.chars - found.mark_chars) / num
        if not s.min_word_len <= mean <= s.max_word_len:
            return text, "word_length"
        if max(text.count("#"), text.count("...") + text.count("\u2026")) > s.symbol_frac * found.words:
            return text, "symbols"
        lines = text.splitlines()
        if sum(line.lstrip()[:1] in ("\u2022", "-") for line in lines if line) > s.bullet_frac * len(lines):
            return text, "bullets"
        ends = sum(line.rstrip().endswith(("...", "\u2026")) for line in lines)
        if ends > s.ellipsis_frac * len(lines):
            return text, "ellipses"
        if found.letters < s.alpha_frac * found.words:
            return text, "few_letters"
        if found.stops.bit_count() < s.stop_words:
            return text, "few_common_words"
        return text, None
