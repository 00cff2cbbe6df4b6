"""Conversations for fine-tuning: rendered by the chat template, labelled on the replies, packed into rows."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from llmkit import manifest
from llmkit.config import Section
from llmkit.data import preflight
from llmkit.data.pack import IGNORED, best_fit, lay, shifted
from llmkit.data.preflight import Checks, Preflight
from llmkit.errors import DataError
from llmkit.registry import register
from llmkit.tokenizer import chat
from llmkit.tokenizer.vocabulary import Tokenizer


def opened_flight(settings, split: str, kind: str, tokenizer: Tokenizer) -> Preflight:
    """The preflight of a split; that of the training split knows which prompts are held out."""
    flight = Preflight(settings.checks, preflight.where(settings.data, split), tokenizer)
    if split == "train" and settings.checks.overlap != "keep":
        heldout = read_records(settings.data, "heldout", kind)
        flight.hold_out((kind, found) for record in heldout for found in preflight.canonical(kind, record))
    return flight


def read_records(folder: str, split: str, kind: str) -> list[dict[str, Any]]:
    """The records of one split of a collected directory. DataError where there are none."""
    path = Path(folder) / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; make it with: llmkit data collect kind={kind} ...")
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    if not records:
        raise DataError(f"{path}: holds no {kind}; collect more, or change heldout_frac")
    return records


@register("dataset", "conversations")
class Conversations:
    """Rows of packed conversations. `counts` says what became of the records; every row has labels."""

    class Settings(Section):
        name: Literal["conversations"] = "conversations"
        data: str = Field(description="directory made by `data collect kind=conversations`")
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        seq_len: int = Field(
            256, gt=1, description="tokens of a row; conversations end with the last reply that fits"
        )
        pack: bool = Field(True, description="several conversations in a row, which do not see each other")
        checks: Checks = Checks()
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        self.settings = settings
        self.seq_len = settings.seq_len
        self.tokenizer_dir = Path(settings.tokenizer)
        tokenizer = Tokenizer.load(self.tokenizer_dir)
        self.vocab_size, self._pad = tokenizer.vocab_size, tokenizer.pad
        self.template = tokenizer.template_fingerprint
        parents = [manifest.fingerprint(Path(settings.data)), tokenizer.fingerprint]
        checks = settings.checks.model_dump()
        self.fingerprint = manifest.digest([*parents, settings.seq_len, settings.pack, checks])
        self.counts: Counter = Counter()
        records = read_records(settings.data, split, "conversations")
        self.preflight = opened_flight(settings, split, "conversations", tokenizer)
        rendered = (
            self._labelled(tokenizer, found)
            for record in records
            for found in preflight.canonical("conversations", record, self.preflight)
        )
        self._documents = [document for document in rendered if document]
        self.preflight.settle(self.counts, "conversations")
        if not self._documents:
            raise DataError(
                f"{settings.data}: no {split} reply ends within {self.seq_len} tokens "
                f"({self.preflight.dropped()}); raise seq_len"
            )
        random.Random(0).shuffle(self._documents)
        lengths = [len(tokens) for tokens, _ in self._documents]
        self._rows = best_fit(lengths, self.seq_len) if settings.pack else [[i] for i in range(len(lengths))]
        self.counts["rows"] = len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """tokens, segments, labels, each (B, T), of (sample number, row id) pairs."""
        return lay(
            [[self._documents[i] for i in self._rows[row]] for _, row in rows], self.seq_len, self._pad
        )

    def _labelled(self, tokenizer: Tokenizer, record: dict[str, Any]):
        """(tokens, labels) of one conversation, cut behind the last whole reply that fits; None if none does.

        The last token is not an input: nothing is predicted from it.
        """
        self.counts["conversations"] += 1
        flight = self.preflight
        if not flight.usable("conversations", record):
            return None
        ids, mask = chat.render(tokenizer, record["messages"])
        if not flight.rendered(record, ids, mask):
            return None
        end = last_reply_end(mask, self.seq_len + 1)
        self.counts["labels_cut"] += sum(mask[end:])
        if flight.found("too_long", record, not end) or flight.found("cut", record, any(mask[end:])):
            return None
        self.counts["cut"] += any(mask[end:])
        tokens, labels = shifted(ids[:end], mask[:end])
        self.counts["tokens"] += len(tokens) - 1
        self.counts["labels"] += int((labels != IGNORED).sum())
        return tokens[:-1], labels[:-1]


def last_reply_end(mask: list[int], limit: int) -> int:
    """One past the last token of the last reply that ends within `limit` tokens; 0 if none does."""
    ends = (
        i + 1 for i in range(min(limit, len(mask)) - 1, -1, -1) if mask[i] and not any(mask[i + 1 : i + 2])
    )
    return next(ends, 0)
