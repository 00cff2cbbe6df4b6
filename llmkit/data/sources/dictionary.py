"""Dictionaries in prose: the Collaborative International Dictionary of English, and FOLDOC on computing."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGES = {
    "gcide": fetch.Package(
        "debian",
        "dict-gcide",
        "0.48.5+nmu2",
        "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
    ),
    "foldoc": fetch.Package(
        "debian",
        "dict-foldoc",
        "20230119-1",
        "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
    ),
}
LICENCES = {
    "gcide": "GPL-2.0-or-later",
    "foldoc": "GFDL-1.1-or-later without invariant sections; Debian's own entries: same terms for copies",
}


@register("source", "dictionary")
class Dictionary:
    """About `part_bytes` of neighbouring entries a document, cut at blank lines."""

    class Settings(Section):
        name: Literal["dictionary"] = "dictionary"
        book: Literal["gcide", "foldoc"] = Field("gcide", description="which dictionary")
        part_bytes: int = Field(8000, ge=1000, description="bytes of text in a document")

    kind = "documents"
    language = "en"
    origin = "Debian dict-gcide 0.48.5+nmu2, dict-foldoc 20230119-1"
    size = "40.0 MB (gcide), 5.6 MB (foldoc)"
    counts = {"documents": 4910}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.licence = LICENCES[settings.book]

    def records(self) -> Iterator[dict[str, Any]]:
        package, book = PACKAGES[self.settings.book], self.settings.book
        text = fetch.gunzip(fetch.read(package, f"./usr/share/dictd/{book}.dict.dz"))
        start = number = 0
        while start < len(text):
            end = text.find(b"\n\n", start + self.settings.part_bytes)
            end = len(text) if end < 0 else end
            yield {"id": f"{book}-{number}", "text": text[start:end].decode("utf-8", "replace")}
            start, number = end + 2, number + 1
