"""Records of tasks with labels: read, checked for what they need, and kept apart from what is trained on."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from llmkit.data import shapes
from llmkit.data.dedup import normal
from llmkit.data.sets.chats import read_records
from llmkit.errors import DataError

Overlap = Literal["fail", "drop", "keep"]
OVERLAP = (
    "held-out records whose text is trained on too: fail ends the run, drop leaves them out of the "
    "evaluation, keep does not look"
)


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
