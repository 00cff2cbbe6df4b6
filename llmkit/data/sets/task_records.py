"""Records of tasks with labels: read, checked for what they need, and kept apart from what is trained on."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from llmkit import manifest
from llmkit.data import shapes
from llmkit.data.dedup import normal
from llmkit.data.pack import best_fit
from llmkit.data.sets.chats import read_records
from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer

Overlap = Literal["fail", "drop", "keep"]
OVERLAP = (
    "held-out records whose text is trained on too: fail ends the run, drop leaves them out of the "
    "evaluation, keep does not look"
)


class TaskRows:
    """What the data sets of tasks share. `settings` have data, tokenizer, seq_len, overlap and pack."""

    rows: list[list[int]]
    """Which items share a row."""

    def __init__(self, settings, split: str, kinds: tuple[shapes.Kind, ...]):
        self.settings, self._split, self.seq_len = settings, split, settings.seq_len
        self.tokenizer_dir = Path(settings.tokenizer)
        self._tokenizer = Tokenizer.load(self.tokenizer_dir)
        self.vocab_size, self._pad = self._tokenizer.vocab_size, self._tokenizer.pad
        self.counts: Counter = Counter()
        self._kind, self._records = read(settings.data, split, kinds)

    def __len__(self) -> int:
        return len(self.rows)

    def _print(self, *layout: Any) -> str:
        """The fingerprint of data, tokenizer and `layout`."""
        data = manifest.fingerprint(Path(self.settings.data))
        return manifest.digest([data, self._tokenizer.fingerprint, *layout])

    def _kept(self) -> list[dict[str, Any]]:
        """The records, held-out ones apart from those that are trained on; they are not held any longer."""
        s, records = self.settings, self._records
        del self._records
        return list(apart(s.data, self._split, self._kind, records, s.overlap, self.counts))

    def _shuffled(self, items: list, without: str) -> list:
        """`items` in an order of their own. DataError `without` any."""
        if not items:
            raise DataError(f"{self.settings.data}: {without}")
        random.Random(0).shuffle(items)
        return items

    def _packed(self, lengths: list[int]) -> list[list[int]]:
        """Rows of the items of these lengths, one each if nothing is packed; counted."""
        rows = best_fit(lengths, self.seq_len) if self.settings.pack else [[i] for i in range(len(lengths))]
        self.counts["rows"] = len(rows)
        return rows


def read(folder: str, split: str, kinds: tuple[shapes.Kind, ...]) -> tuple[shapes.Kind, list[dict[str, Any]]]:
    """-> (which of `kinds` they are, the records of one split). DataError names one that is none of them."""
    records = read_records(folder, split, kinds[0])
    kind = next((kind for kind in kinds if all(key in records[0] for key in shapes.TEXTS[kind])), kinds[0])
    for record in records:
        missing = [key for key in shapes.TEXTS[kind] if key not in record]
        if missing:
            raise DataError(
                f"{folder}/{split}.jsonl: record {record.get('id')} has no {', '.join(missing)}; "
                f"collect the data with kind={kind}"
            )
    return kind, records


def apart(
    folder: str, split: str, kind: shapes.Kind, records: list[dict], policy: Overlap, counts: Counter
) -> Iterator[dict]:
    """Held-out `records` that are not trained on, counted; records of the training split as they are."""
    if split == "train" or policy == "keep":
        yield from records
        return
    trained = {normal(shapes.prompt(kind, record)) for record in read(folder, "train", (kind,))[1]}
    for record in records:
        if normal(shapes.prompt(kind, record)) not in trained:
            yield record
        elif policy == "fail":
            raise DataError(
                f"{folder}: the held-out record {record.get('id')} is among the training ones too; collect "
                "the data again, or set data.overlap=drop"
            )
        else:
            counts["dropped_in_train"] += 1


def known_labels(folder: str, stated: list[str] | None, kinds: tuple[shapes.Kind, ...], of) -> list[str]:
    """`stated`, or all labels that `of(record)` finds in both splits, sorted."""
    if stated is not None:
        return stated
    both = [record for split in ("train", "heldout") for record in read(folder, split, kinds)[1]]
    labels = sorted({label for record in both for label in of(record)})
    if len(labels) < 2:
        raise DataError(f"{folder}: has the label {', '.join(labels)} alone; there is nothing to tell apart")
    return labels


def number(label: str, numbers: dict[str, int], folder: str, split: str, record: dict) -> int:
    """The number of a label. DataError for one that is not known."""
    if label not in numbers:
        some = ", ".join(list(numbers)[:8]) + (", ..." if len(numbers) > 8 else "")
        raise DataError(
            f"{folder}/{split}.jsonl: record {record.get('id')} has the label {label!r}, which is none of "
            f"{some}; mend it, or add it to data.labels"
        )
    return numbers[label]
