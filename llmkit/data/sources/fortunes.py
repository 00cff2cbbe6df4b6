"""Aphorisms, jokes and quotations of BSD's fortune, one a document; the offensive ones are not among them."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "debian",
    "fortunes",
    "1:1.99.1-7.3",
    "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
)


@register("source", "fortunes")
class Fortunes:
    class Settings(Section):
        name: Literal["fortunes"] = "fortunes"

    kind = "documents"
    licence = "BSD (the collection, by Debian's copyright file); rights in single quotations are not stated"
    language = "en"
    origin = "Debian fortunes 1:1.99.1-7.3"
    size = "2.5 MB"
    counts = {"documents": 14_220}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        for path, content in fetch.members(PACKAGE, "./usr/share/games/fortunes/*"):
            name = PurePosixPath(path)
            if name.suffix:  # .dat: the index of the file beside it
                continue
            for number, text in enumerate(content.decode("utf-8", "replace").split("\n%\n")):
                yield {"id": f"{name.name}-{number}", "text": text}
