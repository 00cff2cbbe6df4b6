"""Questions with a passage that holds their answer: where it begins and ends, in pieces of the passage.

    [CLS] who spoke ? [SEP] Angela Merkel spoke to ... [SEP]        start  5      end  6
          question          a window of the passage                 the first answer that stands there

A passage that is too long is read in windows that overlap. Training keeps the first window that holds the
answer; an evaluation reads all of them. Only positions of the passage may be chosen.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from llmkit.config import Section
from llmkit.data import shapes
from llmkit.data.pack import lay_side
from llmkit.data.sets import task_records
from llmkit.errors import DataError
from llmkit.registry import register
from llmkit.tokenizer import frame
from llmkit.tokenizer.vocabulary import Tokenizer

KINDS: tuple[shapes.Kind, ...] = ("questions",)
"""What it reads."""


class Window(NamedTuple):
    """A question and a part of its passage, ready to be laid into a row."""

    id: str
    tokens: np.ndarray
    passage: np.ndarray
    """(T,) bool: pieces of the passage, which an answer may begin or end with."""
    answer: tuple[int, int]
    """First and last piece of the answer; (-1, -1) if it is not in this window."""
    pieces: np.ndarray
    """(T, 2): the characters of the passage that each piece stands for; 0, 0 elsewhere."""


@register("dataset", "spans")
class Spans(task_records.TaskRows):
    """Rows of packed windows. `counts` says what became of the records."""

    class Settings(Section):
        name: Literal["spans"] = "spans"
        data: str = Field(description="directory made by `data collect kind=questions`, with passages")
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        seq_len: int = Field(256, gt=31, description="tokens of a row and of a window with its question")
        stride: int = Field(64, gt=0, description="pieces of the passage that neighbouring windows share")
        question_len: int = Field(48, gt=3, description="tokens of a question; a longer one loses its end")
        overlap: task_records.Overlap = Field("fail", description=task_records.OVERLAP)
        pack: bool = Field(True, description="several windows in a row, which do not see each other")
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64, "stride": 8, "question_len": 24}

    def __init__(
        self, settings: Settings, split: Literal["train", "heldout"], seed: int, every: bool = False
    ):
        """`every`: all windows of each question, those without the answer too, as an evaluation reads."""
        super().__init__(settings, split, KINDS)
        self._every, self._frame = every, frame.of(self._tokenizer)
        most = settings.seq_len - settings.question_len - self._frame.size(2)
        if settings.stride >= most:
            raise DataError(
                f"data.stride: {settings.stride} is not below the {most} pieces of a window; lower it, or "
                "raise data.seq_len"
            )
        layout = settings.model_dump(mode="json", exclude={"data", "tokenizer", "overlap"})
        self.fingerprint = self._print(layout)
        windows = [window for record in self._kept() for window in self._windows(record)]
        without = f"no {split} answer stands in its passage word for word; collect others"
        self.texts = self._shuffled(windows, without)
        self.rows = self._packed([len(window.tokens) for window in self.texts])
        self._per_row = max(map(len, self.rows))

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """tokens, segments, passage (B, T); answer (B, P, 2), places in the row; valid (B, P)."""
        laid = [[self.texts[i] for i in self.rows[row]] for _, row in rows]
        size = max(1, len(rows)), self._per_row
        answer, valid = np.zeros((*size, 2), np.int64), np.zeros(size, bool)
        for b, windows in enumerate(laid):
            first = 0
            for p, window in enumerate(windows):
                if window.answer[0] >= 0:
                    answer[b, p], valid[b, p] = np.array(window.answer) + first, True
                first += len(window.tokens)
        sides = [[{"tokens": w.tokens, "passage": w.passage} for w in windows] for windows in laid]
        out = lay_side(sides, "segments", {"tokens": self._pad, "passage": False}, self.seq_len)
        return out | {"answer": torch.from_numpy(answer), "valid": torch.from_numpy(valid)}

    def _windows(self, record: dict[str, Any]) -> list[Window]:
        self.counts["questions"] += 1
        context = record["context"]
        found = next((a for a in record["answers"] if a and a in context), None)
        if not context.strip() or not record["question"].strip():
            self.counts["dropped_empty"] += 1
            return []
        if found is None and not self._every:
            self.counts["dropped_not_in_passage"] += 1
            return []
        ids, edges = spelled(self._tokenizer, context)
        asked = self._tokenizer.encode(record["question"])[: self.settings.question_len]
        begin = context.find(found) if found else -1
        inside = [
            i for i, (a, b) in enumerate(edges) if found and a < begin + len(found) and b > begin and b > a
        ]
        room = self.seq_len - self._frame.size(2) - len(asked)
        head = len(self._frame.two(asked, [])) - len(self._frame.after)
        windows = []
        for first in range(0, max(1, len(ids) - self.settings.stride), room - self.settings.stride):
            part = slice(first, min(first + room, len(ids)))
            tokens = np.array(self._frame.two(asked, ids[part]), np.int64)
            holds = bool(inside) and part.start <= inside[0] and inside[-1] < part.stop
            shift = head - first
            place = (inside[0] + shift, inside[-1] + shift) if holds else (-1, -1)
            passage, pieces = np.zeros(len(tokens), bool), np.zeros((len(tokens), 2), np.int64)
            passage[head : head + part.stop - first] = True
            pieces[head : head + part.stop - first] = edges[part]
            if holds or self._every:
                windows.append(Window(record["id"], tokens, passage, place, pieces))
                if not self._every:
                    break
        self.counts["dropped_in_no_window"] += not windows
        self.counts["windows"] += len(windows)
        return windows


def spelled(tokenizer: Tokenizer, text: str) -> tuple[list[int], np.ndarray]:
    """(ids of `text`, (N, 2) the characters that each piece stands for).

    Found by how long the text of the first n pieces is, in bytes, which holds for tokenizers that give every
    byte back. DataError for one that does not.
    """
    ids = tokenizer.encode(text)
    ends = np.cumsum(tokenizer.piece_bytes()[ids]) if ids else np.zeros(0, np.int64)
    raw = text.encode()
    if len(ids) and ends[-1] != len(raw):
        raise DataError(
            f"{tokenizer.folder}: this tokenizer changes texts, so that places in them are lost; train one "
            "with llmkit tokenizer train"
        )
    chars = np.cumsum([byte & 0xC0 != 0x80 for byte in raw]) if raw else np.zeros(0, np.int64)
    behind = chars[ends - 1] if len(ids) else ends
    return ids, np.stack([np.append(0, behind[:-1]), behind], -1).astype(np.int64)
