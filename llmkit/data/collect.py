"""`llmkit data collect`: sources to one directory of clean, deduplicated, split and accounted-for records.

    source.records() -> read -> clean -> dedup -> split by hash -> train.jsonl, heldout.jsonl, heldout.txt
                          \\       \\       \\
                           `-------`-------`--> rejected.jsonl {id, source, reason, excerpt}

Nothing is dropped silently: of every source and step, in = kept + rejected. One record is in memory at a
time, plus 16 bytes of hash for each one kept, so the size of the input does not matter.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Literal

import xxhash
from pydantic import Field

from llmkit import config, registry
from llmkit.config import Section
from llmkit.data import shapes
from llmkit.data.dedup import Seen, normal
from llmkit.data.progress import watched
from llmkit.errors import ConfigError, DataError

STEPS = ("read", "clean", "dedup")


class Collect(Section):
    """What to collect. A source is a catalogue name, a path, or a mapping with the settings of a source."""

    quick_values: ClassVar[dict[str, Any]] = {"max_bytes": 1_000_000}

    kind: Literal["documents", "conversations", "pairs"] = Field(
        "documents", description="what the records are"
    )
    source: str | list[str | dict[str, Any]] = Field(
        description="catalogue names, paths of files or folders, or mappings {name: ..., ...}"
    )
    heldout_frac: float = Field(
        0.02, description="share of the records kept for evaluation, by hash", gt=0, lt=1
    )
    seed: int = Field(0, description="another seed holds out other records", ge=0)
    dedup: bool = Field(
        True, description="keep only the first of records that differ in case and spaces alone"
    )
    max_bytes: int | None = Field(
        None, description="stop a source after this many bytes of text are kept", gt=0
    )


def work(settings: Collect, out: Path) -> dict[str, Any]:
    """Collect into the directory `out`; returns fingerprint, counts, by_source, licences.

    DataError if nothing, or too little to hold anything out, is left of a source.
    """
    out = Path(out)
    sources = [_source(entry, settings.kind) for entry in _listed(settings.source)]
    seen = Seen()
    books: dict[str, Book] = {}
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((out / f"{name}.jsonl").open("w", encoding="utf-8"))
            for name in ("train", "heldout", "rejected")
        }
        for label, source in sources:
            book = books[label] = Book(source)
            for record, reason in watched(_judged(source, settings, seen, book), label, book):
                record = {"source": label, **record}
                if reason:
                    files["rejected"].write(
                        json.dumps(_rejection(record, reason)) + "\n"
                    )  # ASCII: it may be broken
                    continue
                split = "heldout" if _place(settings, record) < settings.heldout_frac else "train"
                book.count(split, len(shapes.content(settings.kind, record).encode()))
                ordered = {key: record[key] for key in ("id", "source")} | record
                files[split].write(json.dumps(ordered, ensure_ascii=False) + "\n")
                if settings.max_bytes and book.bytes >= settings.max_bytes:
                    break
            book.check(label)
    _fill_empty_split(out, settings, books)
    if settings.kind == "documents":
        _write_text(out)
    return _result(out, books)


class Book:
    """The accounts of one source: what came in, what each step rejected and why, what was kept where."""

    def __init__(self, source):
        self.licence, self.origin = source.licence, source.origin
        self.read = self.bytes = 0
        self.rejected: dict[str, Counter] = {step: Counter() for step in STEPS}
        self.kept: Counter = Counter(train=0, heldout=0)

    def count(self, split: str, num_bytes: int) -> None:
        self.kept[split] += 1
        self.bytes += num_bytes

    def reasons(self) -> dict[str, int]:
        """How many records were rejected, by reason."""
        return dict(sum(self.rejected.values(), Counter()).most_common())

    def check(self, label: str) -> None:
        """DataError if nothing of the source was kept."""
        if not self.kept.total():
            why = ", ".join(f"{reason} {n}" for reason, n in self.reasons().items()) or "it is empty"
            raise DataError(
                f"{label}: none of {self.read} records can be used ({why}); look at the files, or name others"
            )

    def facts(self) -> dict[str, Any]:
        """in = kept + rejected, over all and step by step."""
        steps, left = {}, self.read
        for step, rejected in self.rejected.items():
            steps[step] = {"in": left, "out": left - rejected.total()}
            left -= rejected.total()
        kept = {"kept": self.kept.total(), **self.kept, "bytes": self.bytes}
        assert left == kept["kept"], "a record was neither kept nor rejected"
        return {"in": self.read, **kept, "rejected": self.reasons(), "steps": steps, "origin": self.origin}


def _listed(source: str | list) -> list[str | dict]:
    entries = [source] if isinstance(source, str) else source
    if not entries:
        raise ConfigError("source: names nothing; give a catalogue name, or the path of a file or folder")
    return entries


def _source(entry: str | dict[str, Any], kind: str):
    """(label, source object) of one entry of the `source` setting."""
    if isinstance(entry, str):
        named = entry in registry.names("source") and entry != "files"
        if not named and not Path(entry).expanduser().exists() and "/" not in entry:
            raise ConfigError(
                f"source: {entry!r} is neither a file or folder here nor in the catalogue "
                f"({', '.join(sorted(set(registry.names('source')) - {'files'}))})"
            )
        entry = {"name": entry} if named else {"name": "files", "path": entry}
    cls = registry.find("source", str(entry.get("name", "files")))
    if "kind" in cls.Settings.model_fields:
        entry = {"kind": kind, **entry}
    source = cls(config.resolve(cls.Settings, {"name": "files", **entry}))
    if source.kind != kind:
        raise ConfigError(f"source: {entry['name']} holds {source.kind}, not {kind}; set kind={source.kind}")
    return str(entry.get("path", entry["name"])), source


def _judged(source, settings: Collect, seen: Seen, book: Book) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every record of `source`, tidied, with the reason why it is rejected or None; `book` keeps count."""
    for record in source.records():
        book.read += 1
        if reason := record.get("unreadable"):
            step = "read"
        else:
            step = "clean"
            record, reason = shapes.tidy(settings.kind, record)
        if not reason and settings.dedup and shapes.content(settings.kind, record) in seen:
            step, reason = "dedup", "duplicate"
        if reason:
            book.rejected[step][reason] += 1
        yield record, reason


def _place(settings: Collect, record: dict[str, Any]) -> float:
    """A number in [0, 1) that is the same for equal prompts, whatever else is collected."""
    text = normal(shapes.prompt(settings.kind, record))
    return xxhash.xxh3_64_intdigest(text.encode(), settings.seed) / 2**64


def _rejection(record: dict[str, Any], reason: str) -> dict[str, Any]:
    rest = {
        key: value for key, value in record.items() if key not in ("id", "source", "unreadable", "excerpt")
    }
    excerpt = record.get("excerpt") or json.dumps(rest)[:200]
    return {"id": record.get("id"), "source": record["source"], "reason": reason, "excerpt": excerpt}


def _fill_empty_split(out: Path, settings: Collect, books: dict[str, Book]) -> None:
    """With few records a split may get none by chance: it then gets the one that came nearest."""
    for empty, full, nearest in (("heldout", "train", min), ("train", "heldout", max)):
        if sum(book.kept[empty] for book in books.values()):
            continue
        if sum(book.kept[full] for book in books.values()) < 2:
            raise DataError(
                f"{', '.join(books)}: one record is too few to train on and hold out; "
                "give more text, or cut files into smaller parts with source=[{path: ..., part_bytes: 5000}]"
            )
        with (out / f"{full}.jsonl").open(encoding="utf-8") as file:
            chosen = nearest(
                (_place(settings, json.loads(line)), number) for number, line in enumerate(file)
            )[1]
        moved = _move_line(out / f"{full}.jsonl", out / f"{empty}.jsonl", chosen)
        book = books[moved["source"]] if moved["source"] in books else next(iter(books.values()))
        book.kept[full] -= 1
        book.kept[empty] += 1


def _move_line(start: Path, end: Path, number: int) -> dict[str, Any]:
    """Move line `number` of one file into another, empty one -> the record in it."""
    rest = start.with_suffix(".rest")
    with start.open(encoding="utf-8") as old, rest.open("w", encoding="utf-8") as new:
        for i, line in enumerate(old):
            if i == number:
                end.write_text(line, encoding="utf-8")
                record = json.loads(line)
            else:
                new.write(line)
    rest.replace(start)
    return record


def _write_text(out: Path) -> None:
    """heldout.txt: the held-out documents' text and nothing else, one blank line between documents."""
    with (
        (out / "heldout.jsonl").open(encoding="utf-8") as lines,
        (out / "heldout.txt").open("w", encoding="utf-8") as text,
    ):
        for number, line in enumerate(lines):
            text.write(("\n\n" if number else "") + json.loads(line)["text"])
        text.write("\n")


def _result(out: Path, books: dict[str, Book]) -> dict[str, Any]:
    by_source = {label: book.facts() for label, book in books.items()}
    totals = {
        key: sum(f[key] for f in by_source.values()) for key in ("in", "kept", "train", "heldout", "bytes")
    }
    rejected = sum((Counter(f["rejected"]) for f in by_source.values()), Counter())
    digest = hashlib.sha256()
    for name in ("train.jsonl", "heldout.jsonl"):
        with (out / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {
        "fingerprint": digest.hexdigest(),
        "counts": {**totals, "rejected": dict(rejected.most_common())},
        "by_source": by_source,
        "licences": {label: {"licence": b.licence, "origin": b.origin} for label, b in books.items()},
    }
