"""The loss of held-out replies: nats per reply token, the end marker included, the prompt given."""

from typing import Literal

from llmkit.config import Field, Section
from llmkit.data.pack import shifted
from llmkit.errors import DataError
from llmkit.eval import records, scoring
from llmkit.eval.before import opened_before
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.scoring import Reply
from llmkit.eval.statistics import bootstrap
from llmkit.registry import register
from llmkit.tokenizer import chat


@register("metric", "reply_loss")
class ReplyLoss(Metric):
    """Mean over all reply tokens of the held-out conversations, every assistant turn counted."""

    class Settings(Section):
        name: Literal["reply_loss"] = "reply_loss"
        data: str = Field(description="folder of collected conversations; its heldout.jsonl is used")
        sources: list[str] | None = Field(None, description="only these sources; default: all")
        before: str | None = Field(
            None, description="checkpoint to compare with: run, checkpoint or Hugging Face dir"
        )
        limit: int = Field(0, ge=0, description="at most so many conversations, chosen by hash; 0: all")
        quick_values = {"limit": 32}

    headline = "loss"
    better = "lower"

    def measure(self, opened):
        s = self.settings
        conversations = records.heldout(s.data, ("messages",), s.sources, s.limit)
        rendered = {
            r["id"]: Reply(*shifted(*chat.render(opened.tokenizer, r["messages"]))) for r in conversations
        }
        fitting = {name: reply for name, reply in rendered.items() if scoring.fits(opened, reply)}
        if not fitting:
            raise DataError(
                f"{s.data}: no conversation fits the model's context of {opened.net.settings.context} tokens"
            )
        replies = list(fitting.values())
        log_p, tokens = scoring.log_probs(opened.net, replies)
        interval = bootstrap(-log_p / tokens, tokens, key=s.data)
        figures = {
            "loss": interval.value,
            "ci95": [interval.low, interval.high],
            "tokens": int(tokens.sum()),
            "samples": len(replies),
            "too_long": len(rendered) - len(replies),
            "tokenizer": opened.tokenizer.fingerprint[:12],
        }
        if s.before:
            earlier, _ = scoring.log_probs(opened_before(s.before, opened).net, replies)
            figures["loss_before"] = float(-earlier.sum() / tokens.sum())
        values = zip(fitting, (-log_p / tokens).tolist(), tokens.tolist(), strict=True)
        return Measured(figures, [{"id": name, "value": value, "weight": n} for name, value, n in values])
