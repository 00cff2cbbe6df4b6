"""The rules that FineWeb adds (Penedo et al. 2024, section 3.6): line ends, short lines, repeated lines."""

from typing import Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data.filters.chunks import counted
from llmkit.data.filters.gopher_repetition import repeated
from llmkit.data.filters.marks import STOPS
from llmkit.registry import register

_STOPS = tuple(STOPS)


@register("filter", "fineweb")
class Fineweb:
    class Settings(Section):
        name: Literal["fineweb"] = "fineweb"
        stop_frac: float = Field(0.12, ge=0, le=1, description="least lines that end with punctuation")
        short_frac: float = Field(0.67, ge=0, le=1, description="most lines of at most `short_chars`")
        short_chars: int = Field(30, ge=0, description="characters of a short line")
        repeated_frac: float = Field(0.01, ge=0, le=1, description="most characters in repeated lines")
        newline_frac: float = Field(0.3, ge=0, description="most line ends to a word")

    def __init__(self, settings: Settings):
        self.settings = settings

    def judge(self, text: str) -> tuple[str, str | None]:
        s = self.settings
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return text, "empty"
        if sum(line.endswith(_STOPS) for line in lines) < s.stop_frac * len(lines):
            return text, "lines_without_stop"
        if sum(len(line) <= s.short_chars for line in lines) > s.short_frac * len(lines):
            return text, "short_lines"
        if repeated(lines)[1] > s.repeated_frac * len(text.replace("\n", "")):
            return text, "repeated_lines"
        if text.count("\n") > s.newline_frac * counted(text).counts.words:
            return text, "many_line_ends"
        return text, None
