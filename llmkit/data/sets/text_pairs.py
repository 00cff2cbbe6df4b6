"""Pairs of a text and what is to be written for it, for an encoder-decoder or a decoder, packed into rows."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from llmkit.config import Section
from llmkit.data import shapes
from llmkit.data.pack import IGNORED, best_fit_sides, lay_side, shifted
from llmkit.data.sets import task_records
from llmkit.errors import ConfigError, DataError
from llmkit.registry import register
from llmkit.tokenizer import special

KINDS: tuple[shapes.Kind, ...] = ("text_pairs", "questions", "labelled")
"""What it reads."""


@register("dataset", "text_pairs")
class TextPairs(task_records.TaskRows):
    """Rows of packed pairs; a pair is never split over two rows. `counts` says what became of the records."""

    class Settings(Section):
        name: Literal["text_pairs"] = "text_pairs"
        data: str = Field(
            description="directory made by `data collect kind=text_pairs`, or kind=questions: the passage "
            "follows the question, the first answer is written; or kind=labelled: the text follows its pair, "
            "the label is written"
        )
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        net: Literal["encdec", "decoder"] = Field(
            "encdec", description="who reads it: a decoder has both texts in one row, an end marker between"
        )
        start: Literal["pad", "eos", "bos"] = Field(
            "pad", description="encdec: what the decoder reads first; pad (T5), eos (BART)"
        )
        seq_len: int = Field(
            128, gt=3, description="tokens of a row; encdec: of its source. A longer input loses its end"
        )
        target_len: int | None = Field(
            None,
            gt=1,
            description="tokens of a target, a longer one is dropped; None: seq_len, decoder: half",
        )
        cloze: bool = Field(
            False,
            description="encdec: ask as span corruption does: the source ends in a sentinel, and the target "
            "is what it stands for",
        )
        overlap: task_records.Overlap = Field("fail", description=task_records.OVERLAP)
        pack: bool = Field(True, description="several pairs in a row, which do not see each other")
        only_with = {"start": ("net", "encdec")}
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        super().__init__(settings, split, KINDS)
        two = settings.net == "encdec"
        self._target_len = settings.target_len or (self.seq_len if two else self.seq_len // 2)
        if not two and self._target_len > self.seq_len - 3:
            raise DataError(f"data.target_len: {self._target_len} leaves no room in seq_len={self.seq_len}")
        self.start = settings.start if two else None
        if settings.cloze and self.start != "pad":
            raise ConfigError("data.cloze: is for an encoder-decoder with data.start=pad (T5); leave it out")
        self._gap = special.sentinels(self._tokenizer, 1, "data.cloze")[:1] if settings.cloze else []
        layout = settings.model_dump(mode="json", exclude={"data", "tokenizer", "overlap"})
        self.fingerprint = self._print(layout)
        without = f"no {split} pair fits; raise data.seq_len or data.target_len"
        self._items = self._shuffled(self._read(self._kept()), without)
        sides = ("source", "tokens") if two else ("tokens",)
        sizes = [tuple(len(item[side]) for side in sides) for item in self._items]
        capacity = (self.seq_len, max(self._target_len, 1)) if two else (self.seq_len,)
        self.rows = best_fit_sides(sizes, capacity) if settings.pack else [[i] for i in range(len(sizes))]
        self.counts["rows"] = len(self.rows)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """tokens, segments, labels (B, T); of two sides also source, source_segments (B, S)."""
        laid = [[self._items[i] for i in self.rows[row]] for _, row in rows]
        two = self.settings.net == "encdec"
        fill = {"tokens": self._pad, "labels": IGNORED}
        out = lay_side(laid, "segments", fill, self._target_len if two else self.seq_len)
        if two:
            out |= lay_side(laid, "source_segments", {"source": self._pad}, self.seq_len)
        return out

    def _read(self, records: list[dict]) -> list[dict[str, np.ndarray]]:
        tokenizer = self._tokenizer
        texts = [side for record in records for side in sides_of(record)]
        ids, out = iter(tokenizer.encode_all(texts)), []
        bos, eos = tokenizer.bos, special.marker(tokenizer, "eos", "data")
        start = special.marker(tokenizer, self.settings.start, "data.start")
        bart = self.settings.net == "encdec" and self.settings.start == "eos"
        for record in records:
            read, written = next(ids), next(ids)
            self.counts["pairs"] += 1
            labels = [*([bos] if bart else self._gap), *written, eos]
            if not all(side.strip() for side in sides_of(record)):
                self.counts["dropped_empty"] += 1
            elif len(labels) > self._target_len:
                self.counts["dropped_target_too_long"] += 1
            else:
                out.append(self._item(read, labels, bos, eos, start, bart))
                self.counts["labels"] += len(labels)
        return out

    def _item(self, read, labels, bos: int, eos: int, start: int, bart: bool) -> dict[str, np.ndarray]:
        if self.settings.net == "decoder":
            room = self.seq_len + 1 - len(labels) - 2
            self.counts["cut"] += len(read) > room
            asked = prompt(read[:room], bos, eos)
            tokens, shifted_labels = shifted([*asked, *labels], [0] * len(asked) + [1] * len(labels))
            return {"tokens": tokens[:-1], "labels": shifted_labels[:-1]}
        around = ([bos] if bart else [], [*self._gap, eos])
        source = source_of(read, self.seq_len, *around)
        self.counts["cut"] += len(source) < len(read) + sum(map(len, around))
        return {
            "source": np.array(source, np.int64),
            "tokens": np.array([start, *labels[:-1]], np.int64),
            "labels": np.array(labels, np.int64),
        }


def sides_of(record: dict[str, Any]) -> tuple[str, str]:
    """(what is read, what is written)."""
    if "answers" in record:
        return "\n".join(filter(None, (record["question"], record["context"]))), record["answers"][0]
    if "label" in record:
        label = record["label"]
        read = "\n".join(filter(None, (record.get("pair"), record["text"])))  # long texts lose their end
        return read, label if isinstance(label, str) else ", ".join(label)
    return record["input"], record["target"]


def prompt(ids: list[int], bos: int, eos: int) -> list[int]:
    """What a decoder reads before it writes the target."""
    return [bos, *ids, eos]


def source_of(ids: list[int], length: int, before: list[int], behind: list[int]) -> list[int]:
    """What an encoder reads, its text cut so that all are `length`: BART's begins with BOS, as its
    pretraining does; T5's may end in a sentinel."""
    return [*before, *ids[: length - len(before) - len(behind)], *behind]
