"""The rules of C4 (Raffel et al. 2020, section 2.2), line by line, with the thresholds that datatrove has.

The list of bad words is left out: it takes whole domains away (Dodge et al. 2021).
"""

import re
from collections import Counter
from typing import Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data.filters.chunks import sentences
from llmkit.registry import register

STOPS = (".", "?", "!", '"', "'")
POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


@register("filter", "c4")
class C4:
    """Lines go that are not sentences, or speak of scripts and cookies; then texts of too few sentences go.

    `counts` says how many lines went, by reason.
    """

    class Settings(Section):
        name: Literal["c4"] = "c4"
        min_sentences: int = Field(5, ge=0, description="fewest sentences in the lines that are left")
        min_words: int = Field(3, ge=0, description="fewest words in a line")
        max_word_chars: int = Field(1000, gt=0, description="longest word in a line, in characters")
        stops: bool = Field(
            True, description="lines must end with . ! ? or a quotation mark, and not with ..."
        )
        citations: bool = Field(True, description="[1], [edit] and [citation needed] are taken out")
        curly: bool = Field(True, description="texts with a { are left out")

    def __init__(self, settings: Settings):
        self.settings = settings
        self.counts: Counter = Counter()

    def judge(self, text: str) -> tuple[str, str | None]:
        s, kept, found = self.settings, [], 0
        for line in map(str.strip, text.splitlines()):
            parts = line.split()
            if len(line) > s.max_word_chars and max(map(len, parts)) > s.max_word_chars:
                self.counts["long_word"] += 1
                continue
            if s.citations and "[" in line:
                line = CITATION.sub("", line)
            if s.stops and (not line.endswith(STOPS) or line.endswith("...")):
                self.counts["no_stop"] += 1
                continue
            if len(parts) < s.min_words:
                self.counts["few_words"] += 1
                continue
            lower = line.lower()
            if "lorem ipsum" in lower:
                return text, "lorem_ipsum"
            if "javascript" in lower:
                self.counts["javascript"] += 1
                continue
            if s.curly and "{" in line:
                return text, "curly_bracket"
            if POLICY.search(lower):
                self.counts["policy"] += 1
                continue
            found += sentences(line)
            kept.append(line)
        if found < s.min_sentences:
            return text, "too_few_sentences"
        return "\n".join(kept).strip(), None
