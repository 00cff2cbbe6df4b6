"""How often a net writes the right label as text, as T5 does (Raffel et al. 2020, section 2.4).

Beside it stands a rule without a net: the most frequent training label of the same pair text (a word, for
parts of speech), or of all where there is none. What is no label at all counts as wrong.
"""

from collections import Counter, defaultdict
from typing import Any, Literal

import numpy as np

from llmkit.config import Field, Section
from llmkit.data.sets.task_records import read
from llmkit.data.sets.text_pairs import sides_of
from llmkit.eval import records, replies
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import paired, wilson
from llmkit.log import say
from llmkit.registry import register


@register("metric", "written_label")
class WrittenLabel(Metric):
    """Accuracy of labels that are written, with its interval and its margin over the rule's."""

    class Settings(Section):
        name: Literal["written_label"] = "written_label"
        data: str = Field(description="folder of collected labelled texts; heldout.jsonl is used")
        max_new: int = Field(16, gt=0, description="longest label in tokens")
        limit: int = Field(2000, ge=0, description="at most so many texts, chosen by hash; 0: all")
        quick_values = {"limit": 16}

    head = "lm|seq2seq"
    headline = "accuracy"

    def measure(self, opened):
        s = self.settings
        _, known = read(s.data, "train", ("labelled",))
        asked = records.heldout(s.data, ("text", "label"), limit=s.limit)
        texts, wanted = zip(*map(sides_of, asked), strict=True)
        counts: Counter = Counter({replies.CUT: 0})
        said = [text.strip() for text in replies.written(opened, list(texts), s.max_new, counts)]
        right = np.array([a == b for a, b in zip(said, wanted, strict=True)])
        ruled = np.array([a == b for a, b in zip(rule(known, asked), wanted, strict=True)])
        margin = paired(right, ruled, key="rule")
        labels = {sides_of(record)[1] for record in known}
        figures = {
            "accuracy": float(right.mean()),
            "ci95": list(wilson(int(right.sum()), len(right))),
            "rule": float(ruled.mean()),
            "above_rule": margin.value,
            "above_rule_ci95": [margin.low, margin.high],
            "is_a_label": float(np.mean([text in labels for text in said])),
            "samples": len(asked),
            **counts,
        }
        say(f"written_label: {figures['accuracy']:.1%} right, the rule {figures['rule']:.1%}")
        rows = [
            {"id": r["id"], "value": float(ok), "said": a, "wanted": b}
            for r, ok, a, b in zip(asked, right, said, wanted, strict=True)
        ]
        return Measured(figures, rows)


def rule(known: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[str]:
    """For each record of `asked` the most frequent label in `known` of the same pair text, or of all."""
    of_pair: dict[str | None, Counter] = defaultdict(Counter)
    of_all = Counter(sides_of(record)[1] for record in known)
    for record in known:
        of_pair[record.get("pair")][sides_of(record)[1]] += 1
    return [(of_pair.get(record.get("pair")) or of_all).most_common(1)[0][0] for record in asked]
