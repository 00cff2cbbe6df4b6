"""How often the answer that is found in a passage is a right one: exact match and F1 of SQuAD.

The rules are those of SQuAD 1.1's official script (Rajpurkar et al. 2016): case, punctuation and the words a,
an, the do not count; of several right answers the one that fits best does.
"""

import re
import string
from collections import Counter
from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.data.sets.spans import Spans
from llmkit.data.sets.task_records import OVERLAP, Overlap, read
from llmkit.eval import labelling
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import bootstrap, wilson
from llmkit.registry import register


@register("metric", "answers")
class Answers(Metric):
    """Exact match and mean F1 over all held-out questions with a passage; every window of it is read."""

    class Settings(Section):
        name: Literal["answers"] = "answers"
        data: str = Field(description="folder of collected questions; its heldout.jsonl is used")
        seq_len: int | None = Field(None, gt=31, description="tokens of a window; default: the net's context")
        stride: int = Field(64, gt=0, description="pieces that neighbouring windows share")
        longest: int = Field(30, gt=0, description="longest answer in tokens")
        overlap: Overlap = Field("fail", description=OVERLAP)

    head = "span"
    headline = "f1"

    def measure(self, opened):
        s, context = self.settings, opened.net.settings.context
        windows = Spans(
            Spans.Settings(
                data=s.data, tokenizer=str(opened.tokenizer.folder), stride=s.stride, overlap=s.overlap,
                seq_len=min(s.seq_len or context, context),
            ),
            "heldout", 0, every=True,
        )  # fmt: skip
        records = {record["id"]: record for record in read(s.data, "heldout", ("questions",))[1]}
        said = found(opened.net, windows, s.longest)
        answers = {key: records[key]["context"][a:b].strip() for key, (_, a, b) in said.items()}
        exact = np.array([max(same(answers[key], a) for a in records[key]["answers"]) for key in answers])
        f1 = np.array([max(shared(answers[key], a) for a in records[key]["answers"]) for key in answers])
        interval = bootstrap(f1, key="answers")
        figures = {
            "f1": interval.value,
            "ci95": [interval.low, interval.high],
            "exact_match": float(exact.mean()),
            "exact_match_ci95": list(wilson(int(exact.sum()), len(exact))),
            "samples": len(f1),
            "counts": dict(windows.counts),
        }
        rows = [
            {"id": key, "value": float(value), "said": answers[key], "answers": records[key]["answers"]}
            for key, value in zip(answers, f1, strict=True)
        ]
        return Measured(figures, rows)


@torch.inference_mode()
def found(net, windows: Spans, longest: int) -> dict[str, tuple[float, int, int]]:
    """{question: (score, first character, last character + 1)}: the best answer over all of its windows.

    The score is the sum of the two logits; an end is not before its beginning nor too far behind it.
    """
    best: dict[str, tuple[float, int, int]] = {}
    for chosen, batch, said in labelling.in_batches(net, windows):
        for b, row in enumerate(chosen):
            for number, i in enumerate(windows.rows[row], 1):
                window = windows.texts[i]
                logits = said[b][batch["segments"][b] == number]
                inside = torch.from_numpy(window.passage).nonzero()[:, 0]
                score, first, last = likeliest(logits[inside], longest)
                if score > best.get(window.id, (-float("inf"),))[0]:
                    pieces = window.pieces[inside]
                    best[window.id] = score, int(pieces[first, 0]), int(pieces[last, 1])
    return best


def likeliest(logits: torch.Tensor, longest: int) -> tuple[float, int, int]:
    """(sum of logits, first, last) of the best stretch of at most `longest` of the (N, 2) positions."""
    both = logits[:, None, 0] + logits[None, :, 1]
    allowed = torch.ones_like(both, dtype=torch.bool).triu().tril(longest - 1)
    place = int(both.masked_fill(~allowed, -torch.inf).argmax())
    first, last = divmod(place, len(logits))
    return float(both[first, last]), first, last


def normal(text: str) -> list[str]:
    """The words of an answer that count."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def same(said: str, right: str) -> bool:
    return normal(said) == normal(right)


def shared(said: str, right: str) -> float:
    """F1 of the words, how often each stands there counted."""
    a, b = normal(said), normal(right)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if a and b else float(a == b)
