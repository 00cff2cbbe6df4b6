"""The mean verified score of replies to held-out prompts: what reinforcement learning is meant to raise."""

from collections import Counter
from typing import Annotated, Literal

import numpy as np

from llmkit.config import Component, Field, Section
from llmkit.eval import records, replies
from llmkit.eval.before import opened_before
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import bootstrap, paired
from llmkit.registry import register
from llmkit.verifiers.contained import Contained


@register("metric", "verified")
class Verified(Metric):
    """Every reply is scored 0..1 by one verifier; intervals are over prompts, each with several replies."""

    class Settings(Section):
        name: Literal["verified"] = "verified"
        data: str = Field(description="folder of collected conversations; its heldout.jsonl is used")
        verifier: Annotated[Section, Component("verifier")] = Field(description="which one, as in `rewards`")
        sources: list[str] | None = Field(None, description="only these sources; default: all")
        before: str | None = Field(None, description="checkpoint to compare with, on the same prompts")
        temperature: float = Field(1.0, ge=0, description="1: drawn as in training; 0: greedy, one reply")
        samples: int = Field(4, ge=1, description="replies to each prompt, where they are drawn")
        limit: int = Field(128, ge=0, description="at most so many prompts, chosen by hash; 0: all")
        max_new: int = Field(64, gt=0, description="longest reply in tokens")
        seed: int = Field(1, ge=0, description="seeds the draws")
        quick_values = {"limit": 8, "max_new": 8, "samples": 2}

    headline = "verified"

    def measure(self, opened):
        s = self.settings
        verifier = Contained(s.verifier)
        asked = records.heldout(s.data, ("messages", *verifier.verifier.needs), s.sources, s.limit)
        try:
            after, counts = self._scores(opened, asked, verifier)
            figures = {**part(after, s.data), **counts, "samples_each": self._each}
            if s.before:
                before, counts = self._scores(opened_before(s.before, opened), asked, verifier)
                gain = paired(after, before, key=s.data)
                figures |= {"verified_before": float(before.mean()), "gain": gain.value}
                figures |= {f"{key}_before": n for key, n in counts.items()}
                figures["gain_ci95"] = [gain.low, gain.high]
        finally:
            verifier.close()
        by_source = records.by_source(asked)
        figures["by_source"] = {name: part(after[mine], name) for name, mine in by_source.items()}
        return Measured(
            figures, [{"id": r["id"], "value": float(v)} for r, v in zip(asked, after, strict=True)]
        )

    @property
    def _each(self) -> int:
        return self.settings.samples if self.settings.temperature else 1

    def _scores(self, opened, asked, verifier) -> tuple[np.ndarray, Counter]:
        """(N,) mean score of each prompt's replies; counts of failed replies and of prompts cut."""
        s, each = self.settings, self._each
        repeated = [record for record in asked for _ in range(each)]
        prompts = [unanswered(record["messages"]) for record in repeated]
        counts: Counter = Counter({replies.CUT: 0})
        options = {"temperature": s.temperature, "seed": s.seed}
        said = replies.replies(opened, prompts, s.max_new, counts, **options)
        counts[replies.CUT] //= each
        verifier.failures.clear()
        scores = verifier.scores(list(zip(said, repeated, strict=True)))
        counts["failed"] = sum(verifier.failures.values())
        return np.array(scores).reshape(-1, each).mean(1), counts


def unanswered(messages: list[dict]) -> list[dict]:
    """A conversation up to its last question."""
    while messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return messages


def part(scores: np.ndarray, key: str) -> dict:
    found = bootstrap(scores, key=key)
    return {"verified": found.value, "ci95": [found.low, found.high], "samples": len(scores)}
