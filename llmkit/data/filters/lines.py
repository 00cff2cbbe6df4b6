"""Boilerplate: lines that repeat over many texts (menus, footers, notices) are taken out."""

from collections import Counter
from typing import Literal

import xxhash
from pydantic import Field

from llmkit.config import Section
from llmkit.data.dedup import normal
from llmkit.registry import register


@register("filter", "lines")
class Lines:
    """A line goes from its `max_times`+1st text on; the first texts that hold it keep it."""

    class Settings(Section):
        name: Literal["lines"] = "lines"
        max_times: int = Field(6, ge=1, description="texts that may hold the same line")
        min_chars: int = Field(20, ge=1, description="shorter lines are left alone")

    ordered = True

    def __init__(self, settings: Settings):
        self.settings = settings
        self.counts: Counter = Counter()
        self._met: Counter = Counter()

    def judge(self, text: str) -> tuple[str, str | None]:
        kept, here = [], set()
        for line in text.split("\n"):
            plain = normal(line)
            if len(plain) >= self.settings.min_chars:
                here.add(digest := xxhash.xxh3_64_intdigest(plain.encode()))
                if self._met[digest] >= self.settings.max_times:
                    self.counts["line"] += 1
                    continue
            kept.append(line)
        self._met.update(here)
        text = "\n".join(kept).strip("\n")
        return text, None if text.strip() else "boilerplate"
