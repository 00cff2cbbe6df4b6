"""Texts that the net writes, for people to read: the same prompts and draws for every checkpoint."""

from collections import Counter
from typing import Literal

from llmkit.config import Field, Section
from llmkit.eval import replies
from llmkit.eval.metric import Measured, Metric
from llmkit.registry import register


@register("metric", "samples")
class Samples(Metric):
    """Continuations of plain text, or replies to chat prompts."""

    class Settings(Section):
        name: Literal["samples"] = "samples"
        prompts: list[str] = Field(min_length=1, description="what the net is given, one text each")
        chat: bool = Field(
            False, description="render each prompt as a user's turn; otherwise the net continues the text"
        )
        max_new: int = Field(64, gt=0, description="longest text, tokens")
        temperature: float = Field(0.8, ge=0, description="0 is greedy")
        top_p: float = Field(0.95, gt=0, le=1, description="mass of the likeliest tokens that may be drawn")
        seed: int = Field(1, ge=0, description="seeds the draws")
        quick_values = {"max_new": 8}

    headline = "texts"
    better = "none"

    def measure(self, opened):
        s = self.settings
        write = replies.replies if s.chat else replies.continuations
        prompts = [[{"role": "user", "content": prompt}] for prompt in s.prompts] if s.chat else s.prompts
        counts: Counter = Counter({replies.CUT: 0})
        options = {"temperature": s.temperature, "top_p": s.top_p, "seed": s.seed}
        texts = write(opened, prompts, s.max_new, counts, **options)
        shown = [{"prompt": prompt, "text": text} for prompt, text in zip(s.prompts, texts, strict=True)]
        figures = {"texts": len(shown), "chat": s.chat, "samples": len(shown), **counts, "written": shown}
        return Measured(figures)
