"""Tunes in ABC notation: Irish, Scottish and American dance music of the 18th and 19th century."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "music21", "10.5.1", "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1"
)
Name = Literal["ryansMammoth", "oneills1850", "airdsAirs", "essenFolksong"]
_TUNE = re.compile(r"^(?=X:)", re.MULTILINE)


@register("source", "tunes")
class Tunes:
    """One tune a document, header and notes. The Essen folk songs may not be used commercially: opt in."""

    class Settings(Section):
        name: Literal["tunes"] = "tunes"
        books: list[Name] = Field(
            list(get_args(Name))[:3], description=f"which collections: {', '.join(get_args(Name))}"
        )
        header: str = Field(
            "",
            description="letters of the header's fields that are kept, such as XRMLK; none named: all of it",
        )

    kind = "documents"
    licence = "tunes: public domain; transcriptions as in music21's corpus, which asks for non-commercial use"
    origin = "PyPI music21 10.5.1"
    size = "4,248 tunes, 1.6 MB"
    counts = {"documents": 4235}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        for book in self.settings.books:
            for path, content in fetch.members(PACKAGE, f"music21/corpus/{book}/*.abc"):
                parts = [part for part in _TUNE.split(content.decode("utf-8", "replace")) if part[:2] == "X:"]
                for number, tune in enumerate(parts):
                    text = headed(tune, self.settings.header) if self.settings.header else tune
                    yield {"id": f"{PurePosixPath(path).stem}-{number}", "text": text.strip()}


def headed(tune: str, letters: str) -> str:
    """`tune` with only those fields of its header whose letters are named, and K:, which ends a header."""
    header, key, notes = re.split(r"^(?=K:)(.*\n?)", tune, maxsplit=1, flags=re.MULTILINE)
    kept = [line for line in header.splitlines(keepends=True) if line[:1] in letters and line[1:2] == ":"]
    return "".join([*kept, key, notes])
