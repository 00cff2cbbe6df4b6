"""What preference tuning did: does the net prefer what was preferred, more than before, and at what price?

accuracy              share of pairs with sum log p(chosen) > sum log p(rejected), end markers included;
                      ties are wrong
accuracy_normalised   the same with the mean log p per token, so that length does not decide
implicit_accuracy     the same with log p - log p_reference, DPO's own reward (Rafailov et al. 2023, section
4) chosen_logprob_change sum over chosen replies of log p after - before, over their tokens: nats per token
kl                    KL(after || reference) per token of replies drawn from the net at temperature 1,
                      by the k3 estimator (scoring.divergence)
"""

from collections import Counter
from typing import Literal

from llmkit.config import Field, Section
from llmkit.eval import records, scoring
from llmkit.eval.before import opened_before
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.replies import CUT, drawn
from llmkit.eval.statistics import bootstrap, mcnemar, paired, wilson
from llmkit.registry import register


@register("metric", "preference")
class Preference(Metric):
    """A tuned net against what it was before, on held-out pairs."""

    class Settings(Section):
        name: Literal["preference"] = "preference"
        data: str = Field(description="folder of collected pairs; its heldout.jsonl is used")
        before: str = Field(description="the checkpoint before preference tuning")
        reference: str | None = Field(
            None, description="the checkpoint that KL is measured to; default: `before`"
        )
        sources: list[str] | None = Field(None, description="only these sources; default: all")
        limit: int = Field(0, ge=0, description="at most so many pairs, chosen by hash; 0: all")
        kl_prompts: int = Field(
            128, ge=1, description="prompts, chosen by hash, that replies are sampled to for KL"
        )
        max_new: int = Field(48, gt=0, description="longest sampled reply, tokens")
        seed: int = Field(1, ge=0, description="seeds the sampled replies")
        quick_values = {"limit": 32, "kl_prompts": 8, "max_new": 8}

    headline = "accuracy_after"

    def measure(self, opened):
        s = self.settings
        before = opened_before(s.before, opened)
        reference = opened_before(s.reference, opened) if s.reference else before
        pairs = records.heldout(s.data, ("prompt", "chosen", "rejected"), s.sources, s.limit)
        asked = len(pairs)
        pairs, chosen, rejected = scoring.pairs(opened, pairs)
        now, was = (PairLogProbs.of(side.net, chosen, rejected) for side in (opened, before))
        held = was if reference is before else PairLogProbs.of(reference.net, chosen, rejected)
        gain = paired(now.right, was.right, key=s.data)
        figures = {
            "accuracy_before": float(was.right.mean()),
            "accuracy_after": float(now.right.mean()),
            "ci95": list(wilson(int(now.right.sum()), len(pairs))),
            "gain": gain.value,
            "gain_ci95": [gain.low, gain.high],
            "mcnemar_p": mcnemar(now.right, was.right),
            "accuracy_normalised_before": float(was.right_normalised.mean()),
            "accuracy_normalised_after": float(now.right_normalised.mean()),
            "implicit_accuracy": float((now.delta > held.delta).mean()),
            "chosen_logprob_change": float((now.chosen - was.chosen).sum() / now.tokens.sum()),
            "pairs": len(pairs),
            "samples": len(pairs),
            "too_long": asked - len(pairs),
            "by_source": {
                name: {
                    "accuracy_before": float(was.right[mine].mean()),
                    "accuracy_after": float(now.right[mine].mean()),
                    "samples": len(mine),
                }
                for name, mine in records.by_source(pairs).items()
            },
            **self._kl(opened, reference, pairs),
        }
        rows = [{"id": pair["id"], "value": float(ok)} for pair, ok in zip(pairs, now.right, strict=True)]
        return Measured(figures, rows)

    def _kl(self, opened, reference, pairs) -> dict:
        different = list({str(pair["prompt"]): pair["prompt"] for pair in records.by_hash(pairs)}.values())
        prompts, counts = different[: self.settings.kl_prompts], Counter({CUT: 0})
        replies = drawn(opened, prompts, self.settings.max_new, self.settings.seed, counts)
        total, tokens = scoring.divergence(opened.net, reference.net, replies)
        interval = bootstrap(total / tokens, tokens, key="kl")
        return {
            "kl": interval.value,
            "kl_ci95": [interval.low, interval.high],
            "kl_tokens": int(tokens.sum()),
            "kl_prompts": len(prompts),
            f"kl_{CUT}": counts[CUT],
        }


class PairLogProbs:
    """Summed log-probabilities of both replies of every pair, (N,) each, in nats."""

    def __init__(self, chosen, chosen_tokens, rejected, rejected_tokens):
        self.chosen, self.tokens = chosen, chosen_tokens
        self.delta = chosen - rejected
        self.right = self.delta > 0
        self.right_normalised = chosen / chosen_tokens > rejected / rejected_tokens

    @classmethod
    def of(cls, net, chosen, rejected):
        return cls(*scoring.log_probs(net, chosen), *scoring.log_probs(net, rejected))
