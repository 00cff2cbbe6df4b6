"""Greedy replies to held-out prompts that have one right answer, compared as strings."""

from collections import Counter
from typing import Literal

import numpy as np

from llmkit.config import Field, Section
from llmkit.eval import records, replies
from llmkit.eval.before import opened_before
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import mcnemar, paired, wilson
from llmkit.registry import register


@register("metric", "exact_match")
class ExactMatch(Metric):
    """The share of prompts whose reply is the answer, surrounding white space aside."""

    class Settings(Section):
        name: Literal["exact_match"] = "exact_match"
        data: str = Field(
            description="folder of collected conversations with an `answer`; its heldout.jsonl is used"
        )
        sources: list[str] | None = Field(
            None, description="only these sources; default: all that have answers"
        )
        before: str | None = Field(
            None, description="checkpoint to compare with: run, checkpoint or Hugging Face dir"
        )
        limit: int = Field(500, ge=0, description="at most so many prompts, chosen by hash; 0: all")
        max_new: int = Field(
            24, gt=0, description="longest reply in tokens; an answer that needs more counts as wrong"
        )
        quick_values = {"limit": 16, "max_new": 8}

    headline = "exact_match"

    def measure(self, opened):
        s = self.settings
        asked = records.heldout(s.data, ("messages", "answer"), s.sources, s.limit)
        prompts = [record["messages"][:-1] for record in asked]
        counts: Counter = Counter({replies.CUT: 0})
        said = replies.replies(opened, prompts, s.max_new, counts)
        right = np.array(
            [matches(reply, record["answer"]) for reply, record in zip(said, asked, strict=True)]
        )
        sources = records.by_source(asked)
        figures = (
            part(right) | counts | {"by_source": {name: part(right[mine]) for name, mine in sources.items()}}
        )
        if s.before:
            then: Counter = Counter({replies.CUT: 0})
            earlier = replies.replies(opened_before(s.before, opened), prompts, s.max_new, then)
            was = [matches(reply, record["answer"]) for reply, record in zip(earlier, asked, strict=True)]
            gain = paired(right, was, key=s.data)
            figures |= {
                "exact_match_before": sum(was) / len(was),
                f"{replies.CUT}_before": then[replies.CUT],
                "gain_ci95": [gain.low, gain.high],
                "mcnemar_p": mcnemar(right, was),
            }
        rows = [
            {"id": r["id"], "value": float(ok), "reply": reply, "answer": r["answer"]}
            for r, ok, reply in zip(asked, right, said, strict=True)
        ]
        return Measured(figures, rows)


def matches(reply: str, answer: str) -> bool:
    return reply.strip() == answer.strip()


def part(right: np.ndarray) -> dict:
    """Share right, its interval and the number of prompts, of (N,) booleans."""
    return {
        "exact_match": float(right.mean()),
        "ci95": list(wilson(int(right.sum()), len(right))),
        "samples": len(right),
    }
