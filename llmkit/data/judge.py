"""The part of collecting that needs one record alone: read, clean, filter, and say what has been found.

What a record is worth may also depend on those before it: whether it is a duplicate, or nearly one. A filter
that asks so says `ordered = True`, and is not decided here. If it has `sketch(text) -> str`, its costly half
is done here and `met(sketch) -> reason or None` is asked later, in order. One without a sketch may change
texts, so that it and all steps after it wait.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from llmkit.data import shapes, split
from llmkit.data.collection import Collect
from llmkit.data.dedup import Seen, digest


class Verdict(NamedTuple):
    """What is known of a record without the others. The record itself, a line of JSON, has `size` bytes."""

    size: int
    digest: str | None
    """Of what duplicates are found by; None if that is not asked, or the record could not be used."""
    step: str | None
    reason: str | None
    """Why, and at which step, the record is rejected; None if it is not, as far as is known."""
    side: str | None
    text_bytes: int
    found: dict[str, dict[str, int]]
    """Of each step, what it counted in this record."""
    sketches: dict[str, str]
    licence: str | None
    """Its own, where that is not its source's."""
    text: str | None
    """Before the filters, where they changed it: a duplicate is rejected before they are asked."""


def waits(filter: Any) -> bool:
    """Whether a filter, and with it all steps after it, cannot be asked about a record alone."""
    return getattr(filter, "ordered", False) and not hasattr(filter, "sketch")


def judged(
    source, piece: Any, label: str, settings: Collect, filters: dict[str, Any]
) -> Iterator[tuple[Verdict, bytes]]:
    """(verdict, record as a JSON line) of every record of `piece` of `source` (None: all of it), in order."""
    seen = Seen()
    kind = settings.kind
    for record in source.records() if piece is None else source.records(piece):
        known, step, reason = None, "read", record.get("unreadable")
        found: dict[str, dict[str, int]] = {}
        sketches: dict[str, str] = {}
        if not reason:
            step = "clean"
            record, reason = shapes.tidy(kind, record)
        if not reason and settings.dedup:
            known = digest(shapes.content(kind, record))
            if known in seen:
                step, reason = "dedup", "duplicate"
        text = None
        if not reason and filters:
            text = record["text"]
            record, step, reason = _filtered(record, filters, found, sketches)
            text = None if text == record["text"] else text
        side, text_bytes = (None, 0) if reason else placed(settings, record)
        licence = shapes.licence(record, source.licence)
        line = written({"source": label, "licence": licence, **record}, reason)
        own = licence if licence != source.licence else None
        step = step if reason else None
        yield Verdict(len(line), known, step, reason, side, text_bytes, found, sketches, own, text), line


def _filtered(record: dict[str, Any], filters: dict[str, Any], found: dict, sketches: dict):
    """(record, step, reason) after the filters that need no other record."""
    text = record["text"]
    for name, filter in filters.items():
        if waits(filter):
            break
        if getattr(filter, "ordered", False):
            sketches[name] = filter.sketch(text)
            continue
        text, reason = ask(filter, text, name, found)
        if reason:
            return {**record, "text": text}, name, reason
    return {**record, "text": text}, None, None


def ask(filter, text: str, name: str, found: dict[str, dict[str, int]]) -> tuple[str, str | None]:
    """A filter's judgement; what it counted goes under its name in `found`."""
    text, reason = filter.judge(text)
    if getattr(filter, "counts", None):
        found[name] = dict(filter.counts)
        filter.counts.clear()
    return text, reason or (None if text.strip() else "empty")


def placed(settings: Collect, record: dict[str, Any]) -> tuple[str, int]:
    """The split of a record that is kept, and the bytes of its text."""
    held_out = split.place(settings.kind, settings.seed, record) < settings.heldout_frac
    return "heldout" if held_out else "train", len(shapes.content(settings.kind, record).encode())


def written(record: dict[str, Any], reason: str | None) -> bytes:
    """A record as a line of JSON. A rejected one in ASCII: it may not be writable otherwise."""
    record = {"id": record.get("id"), **record}
    if reason:
        return json.dumps(record, default=str).encode() + b"\n"
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
