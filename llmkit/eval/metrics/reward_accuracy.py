"""Does a reward model prefer what was preferred, on held-out pairs, or does it just count letters?

Conventions: one accuracy over all pairs (never a mean of batch means), strict, so a tie of scores is wrong
(TRL, OpenRLHF, RewardBench). The rule "the longer one wins" gets half a point where both replies are
equally long: what tossing a coin would give it, and what makes "the shorter one wins" its exact complement.
"""

from typing import Literal

import numpy as np

from llmkit.config import Field, Section
from llmkit.eval import records, scoring
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import calibration_error, paired, wilson
from llmkit.registry import register


@register("metric", "reward_accuracy")
class RewardAccuracy(Metric):
    """Strict accuracy, its margin over the length rule, length bias and calibration; pooled and by source."""

    class Settings(Section):
        name: Literal["reward_accuracy"] = "reward_accuracy"
        data: str = Field(description="folder of collected pairs; its heldout.jsonl is used")
        sources: list[str] | None = Field(None, description="only these sources; default: all")
        limit: int = Field(0, ge=0, description="at most so many pairs, chosen by hash; 0: all")
        quick_values = {"limit": 32}

    head = "score"
    headline = "accuracy"

    def measure(self, opened):
        s = self.settings
        pairs = records.heldout(s.data, ("prompt", "chosen", "rejected"), s.sources, s.limit)
        asked = len(pairs)
        pairs, chosen, rejected = scoring.pairs(opened, pairs)
        gap = scoring.scores(opened.net, chosen) - scoring.scores(opened.net, rejected)
        longer = np.array([len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs])
        sources = records.by_source(pairs)
        figures = judge(gap, longer) | {
            "too_long": asked - len(pairs),
            "by_source": {name: judge(gap[mine], longer[mine]) for name, mine in sources.items()},
        }
        rows = [
            {"id": pair["id"], "value": float(g > 0), "gap": float(g), "source": pair["source"]}
            for pair, g in zip(pairs, gap, strict=True)
        ]
        return Measured(figures, rows)


def judge(gap: np.ndarray, longer: np.ndarray) -> dict:
    """Figures of pairs from the score gap (chosen - rejected) and the length gap in characters, both (N,)."""
    right, rule = gap > 0, (np.sign(longer) + 1) / 2
    margin = paired(right, rule, key="longer wins")
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(gap), 700)))
    varied = len(gap) > 1 and gap.std() > 0 and longer.std() > 0
    return {
        "accuracy": float(right.mean()),
        "ci95": list(wilson(int(right.sum()), len(right))),
        "pairs": len(gap),
        "samples": len(gap),
        "ties": int((gap == 0).sum()),
        "accuracy_ties_half": float((right + 0.5 * (gap == 0)).mean()),
        "longer_wins": float(rule.mean()),
        "above_longer_wins": margin.value,
        "above_longer_wins_ci95": [margin.low, margin.high],
        "length_correlation": float(np.corrcoef(gap, longer)[0, 1]) if varied else None,
        "calibration_error": calibration_error(confidence, right),
        "mean_gap": float(gap.mean()),
        "gap_histogram": histogram(gap),
    }


def histogram(gap: np.ndarray, bins: int = 20) -> dict[str, list]:
    """How often a score gap falls between each two of `edges`; what is preferred wrongly lies below 0."""
    counts, edges = np.histogram(gap, bins=bins)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}
