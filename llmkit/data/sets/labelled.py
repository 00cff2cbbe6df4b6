"""Texts, or pairs of texts, with a label or several: framed as the exported tokenizer does, packed into rows.

tokens    [CLS] a a a [SEP] [CLS] b b [SEP] .        starts  0 5      label  2 0
segments     1  1 1 1   1     2   2 2   2   0        ends    4 8      valid  1 1
"""

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from llmkit.config import Section
from llmkit.data import shapes
from llmkit.data.pack import lay_side
from llmkit.data.sets import task_records
from llmkit.registry import register
from llmkit.tokenizer import frame

KINDS: tuple[shapes.Kind, ...] = ("labelled", "questions")
"""What it reads."""


class Text(NamedTuple):
    """One record, ready to be laid into a row."""

    id: str
    tokens: np.ndarray
    labels: list[int]
    """Numbers of its labels: one, or any number where a text may have several."""


@register("dataset", "labelled")
class Labelled(task_records.TaskRows):
    """Rows of packed texts. `counts` says what became of the records; `labels` names the labels in order."""

    class Settings(Section):
        name: Literal["labelled"] = "labelled"
        data: str = Field(
            description="directory made by `data collect kind=labelled`, or kind=questions: the first answer "
            "is the label of the question and its passage"
        )
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        seq_len: int = Field(
            256, gt=7, description="tokens of a row; a longer text loses its end, of two the longer one"
        )
        labels: list[str] | None = Field(
            None, description="labels in order, a record with another one ends the run; None: the data's"
        )
        overlap: task_records.Overlap = Field("fail", description=task_records.OVERLAP)
        pack: bool = Field(True, description="several texts in a row, which do not see each other")
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        super().__init__(settings, split, KINDS)
        self.labels = task_records.known_labels(settings.data, settings.labels, KINDS, labels_of)
        self.several = any(isinstance(record.get("label"), list) for record in self._records)
        self.fingerprint = self._print(settings.seq_len, settings.pack, self.labels)
        without = f"holds no {split} text that is of use; collect more"
        self.texts = self._shuffled(self._read(self._kept()), without)
        self.rows = self._packed([len(text.tokens) for text in self.texts])
        self._texts_per_row = max(map(len, self.rows))

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """tokens, segments (B, T); starts, ends, valid, label (B, P). P: the most texts of a row.

        Where a text may have several labels, `label` is (B, P, L) fp32, 1 for each that it has.
        """
        size = max(1, len(rows)), self._texts_per_row
        valid, ends, starts = np.zeros(size, bool), np.zeros(size, np.int64), np.zeros(size, np.int64)
        label = np.zeros((*size, len(self.labels)), np.float32)
        laid = [[self.texts[i] for i in self.rows[row]] for _, row in rows]
        for b, texts in enumerate(laid):
            behind = np.cumsum([len(text.tokens) for text in texts])
            valid[b, : len(texts)] = True
            ends[b, : len(texts)] = behind - 1
            starts[b, 1 : len(texts)] = behind[:-1]
            for p, text in enumerate(texts):
                label[b, p, text.labels] = 1
        sides = [[{"tokens": text.tokens} for text in texts] for texts in laid]
        numbers = label if self.several else label.argmax(-1)
        extra = {"valid": valid, "starts": starts, "ends": ends, "label": numbers}
        out = lay_side(sides, "segments", {"tokens": self._pad}, self.seq_len)
        return out | {key: torch.from_numpy(value) for key, value in extra.items()}

    def _read(self, records: list[dict]) -> list[Text]:
        """The records that have text, framed; long ones lose their end."""
        tokenizer = self._tokenizer
        around, numbers = frame.of(tokenizer), {label: i for i, label in enumerate(self.labels)}
        out, sides = [], [texts_of(record) for record in records]
        ids = iter(tokenizer.encode_all([text for texts in sides for text in texts]))
        for record, texts in zip(records, sides, strict=True):
            parts = [next(ids) for _ in texts]
            self.counts["texts"] += 1
            labels = [
                task_records.number(label, numbers, self.settings.data, self._split, record)
                for label in labels_of(record)
            ]
            if not all(text.strip() for text in texts):
                self.counts["dropped_empty"] += 1
                continue
            room = self.seq_len - around.size(len(parts))
            self.counts["cut"] += sum(map(len, parts)) > room
            framed = (around.one if len(parts) == 1 else around.two)(*cut(parts, room))
            self.counts["tokens"] += len(framed)
            out.append(Text(record["id"], np.array(framed, np.int64), labels))
        return out


def labels_of(record: dict[str, Any]) -> list[str]:
    """The names of a record's labels."""
    if "answers" in record:
        return record["answers"][:1]
    return record["label"] if isinstance(record["label"], list) else [record["label"]]


def texts_of(record: dict[str, Any]) -> list[str]:
    """The text, or the two texts, that are to be judged."""
    if "answers" in record:
        return [record["question"], *([record["context"]] if record["context"] else [])]
    return [record["text"], *([record["pair"]] if "pair" in record else [])]


def cut(parts: list[list[int]], room: int) -> list[list[int]]:
    """`parts` with at most `room` ids in all; of two, the longer one is cut until both are equally long."""
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = map(len, parts)
    first = min(first, max(room // 2, room - second))
    return [parts[0][:first], parts[1][: room - first]]
