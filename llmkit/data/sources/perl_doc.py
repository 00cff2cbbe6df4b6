"""The manual of Perl: 206 long pages of technical prose and code, its FAQ included."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "debian",
    "perl-doc",
    "5.36.0-7+deb12u4",
    "f4269cff4576d6f02a6756df842988e58451c7e945b08517dd235531b24e48f8",
)


@register("source", "perl-doc")
class PerlDoc:
    class Settings(Section):
        name: Literal["perl-doc"] = "perl-doc"

    kind = "documents"
    licence = "Artistic-1.0-Perl OR GPL-1.0-or-later"
    language = "en"
    origin = "Debian perl-doc 5.36.0-7+deb12u4"
    size = "8.8 MB"
    counts = {"documents": 205}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        for path, content in fetch.members(PACKAGE, "*.pod"):
            yield {"id": PurePosixPath(path).name, "text": content.decode("utf-8", "replace")}
