"""How well texts are classified, beside the rule that says the most frequent label of the training texts."""

from collections import Counter
from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.data.sets.labelled import KINDS, labels_of
from llmkit.data.sets.task_records import OVERLAP, Overlap, read
from llmkit.eval import labelling
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import paired, wilson
from llmkit.objectives.tune import label_counts
from llmkit.registry import register


@register("metric", "classification")
class Classification(Metric):
    """Accuracy with its interval and its margin over the majority, F1 of every class and their mean, MCC.

    Where a text may have several labels, accuracy is the share of texts with all of them right.
    """

    class Settings(Section):
        name: Literal["classification"] = "classification"
        data: str = Field(
            description="folder of collected labelled texts, or questions; heldout.jsonl is used"
        )
        seq_len: int | None = Field(
            None, gt=7, description="tokens of a text, as in training; default: the net's context"
        )
        overlap: Overlap = Field("fail", description=OVERLAP)

    head = "classify"
    headline = "accuracy"

    def measure(self, opened):
        net, s = opened.net, self.settings
        data = labelling.opened_set("labelled", opened, s.data, s.overlap, s.seq_len)
        logits = torch.stack(labelling.logits(net, data))
        truth = torch.zeros(len(data.texts), len(net.labels), dtype=torch.int64)
        for row, text in zip(truth, data.texts, strict=True):
            row[text.labels] = 1
        best = label_counts.one_hot(logits.argmax(-1), len(net.labels))
        said = (logits > 0).long() if net.several else best
        right = (said == truth).all(-1).numpy()
        rule = majority(s.data, net.labels, net.several)
        chance = (truth == rule).all(-1).numpy()
        margin = paired(right, chance, key="majority")
        sums = {key: float(n) for key, n in label_counts.counted(said, truth).items()}
        figures = {
            "accuracy": float(right.mean()),
            "ci95": list(wilson(int(right.sum()), len(right))),
            "samples": len(right),
            "majority": float(chance.mean()),
            "above_majority": margin.value,
            "above_majority_ci95": [margin.low, margin.high],
            **label_counts.figures(sums, len(net.labels)),
            "by_label": {label: one_class(sums, i) for i, label in enumerate(net.labels)},
            "counts": dict(data.counts),
        }
        if net.several:
            figures["micro_f1"] = label_counts.micro_f1(sums, len(net.labels))
            del figures["mcc"]
        names = np.array(net.labels)
        rows = [
            {"id": text.id, "value": float(ok), "said": names[one.bool().numpy()].tolist()}
            for text, ok, one in zip(data.texts, right, said, strict=True)
        ]
        return Measured(figures, rows)


def majority(folder: str, labels: list[str], several: bool) -> torch.Tensor:
    """(L,): the label that most training texts have; of several labels, those that more than half have."""
    _, records = read(folder, "train", KINDS)
    counts = Counter(label for record in records for label in labels_of(record))
    often = [label for label in labels if 2 * counts[label] > len(records)]
    chosen = often if several else [max(labels, key=counts.__getitem__)]
    return torch.tensor([int(label in chosen) for label in labels])


def one_class(sums: dict[str, float], i: int) -> dict[str, float]:
    """Precision, recall, F1 and the number of texts of one class; 0 where nothing was said or true."""
    right, said, true = (sums[f"{name}_{i}"] for name in ("right", "said", "true"))
    return {
        "precision": right / max(1, said),
        "recall": right / max(1, true),
        "f1": 2 * right / max(1, said + true),
        "texts": int(true),
    }
