"""Sentences whose words have tags: a tag stands at the first piece of its word, other pieces have none."""

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from llmkit.config import Section
from llmkit.data.pack import IGNORED, lay
from llmkit.data.sets import task_records
from llmkit.errors import DataError
from llmkit.registry import register
from llmkit.tokenizer import frame


class Sentence(NamedTuple):
    """One record, ready to be laid into a row."""

    id: str
    tokens: np.ndarray
    labels: np.ndarray
    """The number of its tag at the first piece of each word, -100 elsewhere."""
    words: int
    """How many of its words are there: a long sentence is cut behind a whole word."""


@register("dataset", "tagged")
class Tagged(task_records.TaskRows):
    """Rows of packed sentences. `counts` says what became of the records; `labels` names the tags."""

    class Settings(Section):
        name: Literal["tagged"] = "tagged"
        data: str = Field(description="directory made by `data collect kind=tagged`")
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        seq_len: int = Field(
            128, gt=7, description="tokens of a row; a longer sentence is cut behind a whole word"
        )
        labels: list[str] | None = Field(
            None, description="tags in order, a record with another one ends the run; None: the data's"
        )
        overlap: task_records.Overlap = Field("fail", description=task_records.OVERLAP)
        pack: bool = Field(True, description="several sentences in a row, which do not see each other")
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        super().__init__(settings, split, ("tagged",))
        self.labels = task_records.known_labels(
            settings.data, settings.labels, ("tagged",), lambda record: record["tags"]
        )
        self.fingerprint = self._print(settings.seq_len, settings.pack, self.labels)
        without = f"no {split} word fits into {self.seq_len} tokens; raise seq_len"
        self.texts = self._shuffled(self._read(self._kept()), without)
        self.rows = self._packed([len(sentence.tokens) for sentence in self.texts])

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """tokens, segments, labels (B, T)."""
        laid = [[self.texts[i][1:3] for i in self.rows[row]] for _, row in rows]
        return lay(laid, self.seq_len, self._pad)

    def _read(self, records: list[dict]) -> list[Sentence]:
        tokenizer = self._tokenizer
        around, numbers = frame.of(tokenizer), {label: i for i, label in enumerate(self.labels)}
        room, out = self.seq_len - around.size(1), []
        every = [word for record in records for word in written(record["tokens"])]
        spelled = iter(tokenizer.encode_all(every))
        for record in records:
            pieces = [next(spelled) for _ in record["tokens"]]
            if len(pieces) != len(record["tags"]):
                raise DataError(
                    f"{self.settings.data}/{self._split}.jsonl: record {record['id']} has {len(pieces)} "
                    f"tokens and {len(record['tags'])} tags; mend it"
                )
            tags = [
                task_records.number(tag, numbers, self.settings.data, self._split, record)
                for tag in record["tags"]
            ]
            ends = np.cumsum([len(ids) for ids in pieces])
            words = int(np.searchsorted(ends, room, "right"))  # whole words that fit
            self.counts["sentences"] += 1
            self.counts["words"] += words
            self.counts["words_cut"] += len(pieces) - words
            if not words:
                self.counts["dropped_too_long"] += 1
                continue
            tokens = around.one([i for ids in pieces[:words] for i in ids])
            labels = np.full(len(tokens), IGNORED, np.int64)
            labels[len(around.before) + np.append(0, ends[: words - 1])] = tags[:words]
            self.counts["tokens"] += len(tokens)
            out.append(Sentence(record["id"], np.array(tokens, np.int64), labels, words))
        return out


def written(words: list[str]) -> list[str]:
    """The words as they stand in a text: all but the first behind a space, which is part of their piece."""
    return [word if i == 0 else f" {word}" for i, word in enumerate(words)]
