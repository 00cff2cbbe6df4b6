"""How well words are tagged, beside the rule that gives every word the tag it has most often in training.

Entities (tags B-..., I-..., O) are counted whole, by seqeval: `f1` in its default mode, conlleval's lenient
one that published CoNLL figures use, and `f1_strict` in mode "strict" with scheme IOB2.
"""

from collections import Counter, defaultdict
from typing import Literal

import numpy as np

from llmkit.config import Field, Section
from llmkit.data.sets.task_records import OVERLAP, Overlap, read
from llmkit.errors import ConfigError
from llmkit.eval import labelling
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import bootstrap
from llmkit.log import say
from llmkit.registry import register


@register("metric", "tagging")
class Tagging(Metric):
    """Word accuracy; where tags mark entities, F1 of entities. A word that was cut off counts as tagged O, or
    as the most frequent tag."""

    class Settings(Section):
        name: Literal["tagging"] = "tagging"
        data: str = Field(description="folder of collected tagged sentences; its heldout.jsonl is used")
        overlap: Overlap = Field("fail", description=OVERLAP)

    head = "tag"
    headline = "accuracy"

    def measure(self, opened):
        net, s = opened.net, self.settings
        data = labelling.opened_set("tagged", opened, s.data, s.overlap)
        records = {record["id"]: record for record in read(self.settings.data, "heldout", ("tagged",))[1]}
        rule, often = frequent(self.settings.data)
        other = "O" if "O" in net.labels else often
        truth, said, ruled = [], [], []
        for text, logits in zip(data.texts, labelling.logits(net, data), strict=True):
            tags = records[text.id]["tags"]
            found = [net.labels[i] for i in logits.argmax(-1).tolist()]
            truth.append(tags)
            said.append(found + [other] * (len(tags) - len(found)))
            ruled.append([rule.get(word, often) for word in records[text.id]["tokens"]])
        figures = words_right(truth, said) | {"samples": len(truth), "counts": dict(data.counts)}
        figures["baseline_accuracy"] = words_right(truth, ruled)["accuracy"]
        parts = [(np.mean([a == b for a, b in zip(t, s, strict=True)]), len(t)) for t, s in zip(truth, said)]
        if any(tag.startswith("B-") for tag in net.labels):
            self.headline = "f1"
            figures |= entities(truth, said)
            figures |= {
                f"baseline_{key}": value for key, value in entities(truth, ruled).items() if "f1" in key
            }
            parts = [shared(t, s) for t, s in zip(truth, said, strict=True)]
            interval = bootstrap(*map(np.array, zip(*parts, strict=True)), key="entities")
            figures["ci95"] = [interval.low, interval.high]
        say(
            "tagging: "
            + ", ".join(f"{key} {figures[key]:.4f}" for key in figures if "f1" in key or "accuracy" in key)
        )
        rows = [
            {"id": text.id, "value": float(value), "weight": weight, "said": tags}
            for text, (value, weight), tags in zip(data.texts, parts, said, strict=True)
        ]
        return Measured(figures, rows)


def frequent(folder: str) -> tuple[dict[str, str], str]:
    """({word: its most frequent tag in training}, the most frequent tag, for unknown words)."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for record in read(folder, "train", ("tagged",))[1]:
        for word, tag in zip(record["tokens"], record["tags"], strict=True):
            counts[word][tag] += 1
    total = sum(counts.values(), Counter())
    return {word: tags.most_common(1)[0][0] for word, tags in counts.items()}, total.most_common(1)[0][0]


def words_right(truth: list[list[str]], said: list[list[str]]) -> dict:
    """Share of words tagged right, with an interval that resamples whole sentences."""
    right = [sum(a == b for a, b in zip(t, s, strict=True)) for t, s in zip(truth, said, strict=True)]
    sizes = np.array(list(map(len, truth)))
    interval = bootstrap(np.array(right) / sizes, sizes, key="words")
    return {"accuracy": interval.value, "ci95": [interval.low, interval.high], "words": int(sizes.sum())}


def entities(truth: list[list[str]], said: list[list[str]]) -> dict:
    """seqeval's precision, recall and F1 over all entities, lenient and strict."""
    metrics, IOB2 = _seqeval()
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    return {
        "f1": float(metrics.f1_score(truth, said, zero_division=0)),
        "precision": float(metrics.precision_score(truth, said, zero_division=0)),
        "recall": float(metrics.recall_score(truth, said, zero_division=0)),
        "f1_strict": float(metrics.f1_score(truth, said, **strict)),
        "mode": "default (lenient, as conlleval); f1_strict: strict, IOB2",
    }


def shared(truth: list[str], said: list[str]) -> tuple[float, int]:
    """(F1, entities said or true) of one sentence: the mean, weighted by the latter, is the F1 of all."""
    metrics, _ = _seqeval()
    found = [set(metrics.sequence_labeling.get_entities(tags)) for tags in (truth, said)]
    size = sum(map(len, found))
    return (2 * len(found[0] & found[1]) / size if size else 0.0), size


def _seqeval():
    try:
        from seqeval import metrics
        from seqeval.scheme import IOB2
    except ImportError:
        raise ConfigError("tagging: needs seqeval; install it with pip install 'llmkit[tasks]'") from None
    return metrics, IOB2
