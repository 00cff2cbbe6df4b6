"""`llmkit data collect`: sources to one directory of clean, deduplicated, split and accounted-for records.

    source.records() -> read -> clean -> dedup -> steps -> split by hash -> train.jsonl, heldout.jsonl/.txt
                          \\       \\       \\        \\
                           `-------`-------`--------`--> rejected.jsonl {id, source, reason, excerpt}

A step is a filter of llmkit/data/filters: `judge(text) -> (text, None)`, changed or not, or `(text, reason)`.

Nothing is dropped silently: of every source and step, in = kept + rejected. One record is in memory at a
time, plus 16 bytes of hash for each one kept, so the size of the input does not matter.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from llmkit import config, registry
from llmkit.config import Component, Section
from llmkit.data import shapes, split
from llmkit.data.book import Book
from llmkit.data.dedup import Seen
from llmkit.data.progress import watched
from llmkit.errors import ConfigError, DataError


class Collect(Section):
    """What to collect. A source is a catalogue name, a path, or a mapping with the settings of a source."""

    quick_values: ClassVar[dict[str, Any]] = {"max_bytes": 1_000_000}

    kind: shapes.Kind = Field("documents", description="what the records are")
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
    steps: list[Annotated[Section, Component("filter")]] = Field(
        [], description="filters of documents in the order in which they are applied: [{name: ...}, ...]"
    )
    keep_rejected: bool = Field(
        False, description="keep what is rejected whole, in rejected/REASON.jsonl, not only an excerpt"
    )
    max_bytes: int | None = Field(
        None, description="stop a source after this many bytes of text are kept", gt=0
    )

    def inputs(self) -> dict[str, str]:
        """The user's own files and folders: when they change, what was collected from them is out of date."""
        read = {label: getattr(source.settings, "path", None) for label, source in _sources(self).items()}
        against = {path: path for step in self.steps for path in getattr(step, "against", [])}
        return {label: path for label, path in read.items() if path} | against


def work(settings: Collect, out: Path) -> dict[str, Any]:
    """Collect into the directory `out`; returns fingerprint, counts, by_source, licences.

    DataError if nothing, or too little to hold anything out, is left of a source.
    """
    out = Path(out)
    sources = _sources(settings)
    filters = _filters(settings)
    books = {label: Book(source, tuple(filters)) for label, source in sources.items()}
    seen = Seen()
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((out / f"{name}.jsonl").open("w", encoding="utf-8"))
            for name in ("train", "heldout", "rejected")
        }
        for label, source in sources.items():
            book = books[label]
            for record, reason in watched(_judged(source, settings, seen, filters, book), label, book):
                _write(files, settings, book, {"source": label, **record}, reason)
                if reason and settings.keep_rejected:
                    _keep(out, {"source": label, **record}, reason)
                if settings.max_bytes and book.bytes >= settings.max_bytes:
                    break
            book.check(label)
    _fill_empty_split(out, settings, books)
    if settings.kind == "documents":
        _write_text(out)
    found = {name: dict(step.counts) for name, step in filters.items() if getattr(step, "counts", None)}
    return {**_result(out, books), "found": found}


def _filters(settings: Collect) -> dict[str, Any]:
    """{name: filter} of the `steps`, in order; a name that comes again gets a number."""
    if settings.steps and settings.kind != "documents":
        raise ConfigError(f"steps: filters judge documents, not {settings.kind}; leave them out")
    filters: dict[str, Any] = {}
    for step in settings.steps:
        again = sum(known.split("#")[0] == step.name for known in filters)
        made = registry.find("filter", step.name)(step)
        filters[f"{step.name}#{again + 1}" if again else step.name] = made
    return filters


def _sources(settings: Collect) -> dict[str, Any]:
    """{label: source object} of the `source` setting, in order; a label that comes again gets a number."""
    entries = [settings.source] if isinstance(settings.source, str) else settings.source
    if not entries:
        raise ConfigError("source: names nothing; give a catalogue name, or the path of a file or folder")
    sources: dict[str, Any] = {}
    for entry in entries:
        label, source = _source(entry, settings.kind)
        again = sum(known.split("#")[0] == label for known in sources)
        sources[f"{label}#{again + 1}" if again else label] = source
    return sources


def _source(entry: str | dict[str, Any], kind: str):
    """(label, source object) of one entry of the `source` setting."""
    if isinstance(entry, str):
        named = entry in registry.names("source") and entry != "files"
        if not named and not Path(entry).expanduser().exists() and "/" not in entry:
            raise ConfigError(
                f"source: {entry!r} is neither a file or folder here nor in the catalogue "
                f"({', '.join(sorted(set(registry.names('source')) - {'files'}))})"
            )
        entry = {"name": entry} if named else {"path": entry}
    entry = {"name": "files", **entry}
    cls = registry.find("source", entry["name"])
    if "kind" in cls.Settings.model_fields:
        entry = {"kind": kind, **entry}
    source = cls(config.resolve(cls.Settings, entry))
    if source.kind != kind:
        raise ConfigError(f"source: {entry['name']} holds {source.kind}, not {kind}; set kind={source.kind}")
    return str(entry.get("path", entry["name"])), source


def _judged(
    source, settings: Collect, seen: Seen, filters: dict[str, Any], book: Book
) -> Iterator[tuple[dict[str, Any], str | None]]:
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
        for name, filter in filters.items():
            if reason:
                break
            step = name
            text, reason = filter.judge(record["text"])
            if not reason and not text.strip():
                reason = "empty"
            record = {**record, "text": text}
        if reason:
            book.rejected[step][reason] += 1
        yield record, reason


def _write(files: dict, settings: Collect, book: Book, record: dict, reason: str | None) -> None:
    """Put a record where it belongs. Rejected ones in ASCII: they may not be writable otherwise."""
    if reason:
        shown = {key: value for key, value in record.items() if key not in ("id", "source")}
        excerpt = record.get("excerpt") or json.dumps(shown, default=str)[:200]
        line = {"id": record.get("id"), "source": record["source"], "reason": reason, "excerpt": excerpt}
        files["rejected"].write(json.dumps(line) + "\n")
        return
    held_out = split.place(settings.kind, settings.seed, record) < settings.heldout_frac
    side = "heldout" if held_out else "train"
    book.count(side, len(shapes.content(settings.kind, record).encode()))
    ordered = {"id": record["id"], **record}
    files[side].write(json.dumps(ordered, ensure_ascii=False) + "\n")


def _keep(out: Path, record: dict, reason: str) -> None:
    """Append a rejected record to the file of its reason. In ASCII: it may not be writable otherwise."""
    folder = out / "rejected"
    folder.mkdir(exist_ok=True)
    with (folder / f"{reason}.jsonl").open("a", encoding="ascii") as file:
        file.write(json.dumps(record, default=str) + "\n")


def _fill_empty_split(out: Path, settings: Collect, books: dict[str, Book]) -> None:
    """With few records a split may get none by chance: it then gets the one that came nearest."""
    kept = sum((book.kept for book in books.values()), Counter())
    for empty, full in (("heldout", "train"), ("train", "heldout")):
        if kept[empty]:
            continue
        if kept[full] < 2:
            raise DataError(
                f"{', '.join(books)}: one record is too few to train on and hold out; "
                "give more text, or cut files into smaller parts with source=[{path: ..., part_bytes: 5000}]"
            )
        files = (out / f"{full}.jsonl", out / f"{empty}.jsonl")
        moved = split.move_nearest(settings.kind, settings.seed, *files)
        owners = [books.get(moved["source"]), *books.values()]
        book = next(book for book in owners if book and book.kept[full])
        book.kept.update({full: -1, empty: 1})


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
