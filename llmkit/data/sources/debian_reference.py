"""The Debian Reference: a handbook of a GNU/Linux system."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "debian",
    "debian-reference-en",
    "2.100",
    "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f",
)


@register("source", "debian-reference")
class DebianReference:
    class Settings(Section):
        name: Literal["debian-reference"] = "debian-reference"

    kind = "documents"
    licence = "GPL-2.0-or-later"
    language = "en"
    origin = "Debian debian-reference-en 2.100"
    size = "0.9 MB"
    counts = {"documents": 13}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        """The plain text, cut at its chapters."""
        member = "./usr/share/debian-reference/debian-reference.en.txt.gz"
        text = fetch.gunzip(fetch.read(PACKAGE, member)).decode()
        for number, chapter in enumerate(re.split(r"\n(?=\s*Chapter[ \u00a0]\d+\.)", text)):
            yield {"id": f"debian-reference-{number}", "text": chapter}
