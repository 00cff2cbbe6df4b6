"""What the data sets of chats share: records of a collected directory that pass the preflight, one by one."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from llmkit import manifest
from llmkit.data import preflight, shapes
from llmkit.data.preflight import Preflight
from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer

Item = TypeVar("Item")


def read_records(folder: str, split: str, kind: str) -> list[dict[str, Any]]:
    """The records of one split of a collected directory. DataError where there are none."""
    path = Path(folder) / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; make it with: llmkit data collect kind={kind} ...")
    with open(path, encoding="utf-8") as file:
        records = shapes.numbered([json.loads(line) for line in file])
    if not records:
        raise DataError(f"{path}: holds no {kind}; collect more, or change heldout_frac")
    return records


class Chats:
    """`settings` have data, tokenizer, seq_len, pack and checks. `counts` says what became of the records."""

    def __init__(self, settings, split: str, kind: str):
        self.settings, self.seq_len, self._split = settings, settings.seq_len, split
        self.tokenizer_dir = Path(settings.tokenizer)
        self._tokenizer = Tokenizer.load(self.tokenizer_dir)
        self.vocab_size, self._pad = self._tokenizer.vocab_size, self._tokenizer.pad
        self.template = self._tokenizer.template_fingerprint
        parents = [manifest.fingerprint(Path(settings.data)), self._tokenizer.fingerprint]
        checks = settings.checks.model_dump()
        self.fingerprint = manifest.digest([*parents, settings.seq_len, settings.pack, checks])
        self.counts: Counter = Counter()
        self._records = read_records(settings.data, split, kind)
        self.preflight = Preflight(settings.checks, preflight.where(settings.data, split), self._tokenizer)

    def _canonical(self, kind: str) -> Iterator[dict[str, Any]]:
        """The records in our own format; of the training split it is known which prompts are held out."""
        settings = self.settings
        if self._split == "train" and settings.checks.overlap != "keep":
            heldout = read_records(settings.data, "heldout", kind)
            self.preflight.hold_out((kind, found) for r in heldout for found in preflight.canonical(kind, r))
        for record in self._records:
            yield from preflight.canonical(kind, record, self.preflight)

    def _settled(self, items: Iterable[Item | None], noun: str, fits: str) -> list[Item]:
        """`items` that are of use, shuffled. DataError, after the preflight's own, where there is none."""
        kept = [item for item in items if item]
        self.preflight.settle(self.counts, noun)
        if not kept:
            raise DataError(
                f"{self.settings.data}: no {self._split} {fits} {self.seq_len} tokens "
                f"({self.preflight.dropped()}); raise seq_len"
            )
        random.Random(0).shuffle(kept)
        del self._records
        return kept
