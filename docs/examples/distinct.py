"""A plug-in metric: the share of different word pairs in what a net writes (distinct-2, Li et al. 2016).

llmkit eval RUN --suite docs/examples/distinct.yaml --out DIR --plugin docs/examples/distinct.py
"""

from typing import Literal

from llmkit.config import Field, Section
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.replies import continuations
from llmkit.registry import register


@register("metric", "distinct")
class Distinct(Metric):
    """Low where a net repeats itself. One sample is one text, so two nets can be compared text by text."""

    class Settings(Section):
        name: Literal["distinct"] = "distinct"
        beginning: str = Field("The", description="what every text begins with")
        texts: int = Field(64, gt=0, description="how many texts are drawn")
        max_new: int = Field(100, gt=1, description="tokens of a text")
        quick_values = {"texts": 4, "max_new": 16}

    headline = "distinct_2"

    def measure(self, opened):
        s = self.settings
        texts = continuations(opened, [s.beginning] * s.texts, s.max_new, temperature=1.0, seed=1)
        shares = [share(text.split()) for text in texts]
        rows = [{"id": str(i), "value": value} for i, value in enumerate(shares)]
        return Measured({"distinct_2": sum(shares) / len(shares), "samples": len(shares)}, rows)


def share(words: list[str]) -> float:
    """Different pairs of neighbours over all pairs; 1 where there is no pair."""
    pairs = list(zip(words, words[1:]))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
