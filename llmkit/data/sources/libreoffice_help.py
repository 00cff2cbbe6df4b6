"""LibreOffice's help in two languages: paragraphs that carry the same id are translations of each other."""

import html
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

VERSION = "4:7.4.7-1+deb12u14"
PACKAGES = {
    "en-US": fetch.Package(
        "debian",
        "libreoffice-help-en-us",
        VERSION,
        "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
    ),
    "de": fetch.Package(
        "debian",
        "libreoffice-help-de",
        VERSION,
        "00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f",
    ),
}
_PARAGRAPH = re.compile(r'<(p|h[1-6])\b[^>]*?\bid="([^"]+)"[^>]*>(.*?)</\1>', re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


@register("source", "libreoffice-help")
class LibreofficeHelp:
    """Pairs of paragraphs, or the English pages. Paragraphs that are equal in both languages are left out."""

    class Settings(Section):
        name: Literal["libreoffice-help"] = "libreoffice-help"
        kind: Literal["text_pairs", "documents"] = Field(
            "text_pairs", description="English to German, or pages of English text"
        )
        swap: bool = Field(False, description="German to English instead")
        chars: int = Field(15, ge=1, description="shorter paragraphs are left out of the pairs")

    licence = "MPL-2.0"
    origin = f"Debian libreoffice-help-en-us and -de {VERSION}"
    size = "27,000 pairs en-de"
    counts = {"text_pairs": 30_563, "documents": 2547}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.kind = settings.kind

    def records(self) -> Iterator[dict[str, Any]]:
        if self.kind == "documents":
            for page, found in pages("en-US"):
                yield {"id": page, "text": "\n\n".join(found.values())}
            return
        german = dict(pages("de"))
        for page, found in pages("en-US"):
            for key, english in found.items():
                other = german.get(page, {}).get(key, "")
                if other != english and min(len(other), len(english)) >= self.settings.chars:
                    pair = (other, english) if self.settings.swap else (english, other)
                    yield {"id": f"{page}#{key}", "input": pair[0], "target": pair[1]}


def pages(language: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(page, {paragraph id: text}) in order of name; pages without text are left out."""
    root = f"./usr/share/libreoffice/help/{language}/"
    for path, content in fetch.members(PACKAGES[language], f"{root}text/*.html"):
        found = {}
        for _, key, inside in _PARAGRAPH.findall(content.decode("utf-8", "replace")):
            if text := " ".join(html.unescape(_TAG.sub(" ", inside)).split()):
                found.setdefault(key, text)
        if found:
            yield path.removeprefix(root), found
