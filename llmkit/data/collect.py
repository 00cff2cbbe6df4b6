"""`llmkit data collect`: sources to one directory of clean, deduplicated, split and accounted-for records.

    source ─ pieces ─► read -> clean -> filters     many processes, in any order     judge.py, parts.py
                            │ verdicts
                            ▼
                       duplicates -> split          one process, in order            merge.py
                            │
                            └─► train.jsonl, heldout.jsonl/.txt, rejected.jsonl {id, source, reason, excerpt}

A step is a filter of llmkit/data/filters: `judge(text) -> (text, None)`, changed or not, or `(text, reason)`.

Nothing is dropped silently: of every source and step, in = kept + rejected. One record a process is in
memory at a time, plus 16 bytes of hash for each one kept, so the size of the input does not matter.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmkit.data import card, collection, fetch, parts, scale, split, workers
from llmkit.data.book import Book
from llmkit.data.collection import Collect
from llmkit.data.judge import Verdict, judged
from llmkit.data.merge import Merge
from llmkit.data.progress import watched
from llmkit.errors import DataError

__all__ = ["Collect", "work"]
FIELDS = ("registry", "name", "version", "sha256")


def work(settings: Collect, out: Path) -> dict[str, Any]:
    """Collect into the directory `out`; returns fingerprint, counts, by_source, licences.

    DataError if nothing, or too little to hold anything out, is left of a source.
    """
    out = Path(out)
    sources = collection.sources(settings)
    filters = collection.filters(settings)
    books = {label: Book(source, tuple(filters)) for label, source in sources.items()}
    home = out.with_name(f"{out.name.removesuffix('.partial')}.parts")
    made = None if settings.max_bytes else _made(settings, sources, home)
    with ExitStack() as stack:
        merge = Merge(out, settings, filters, stack)
        for label, source in sources.items():
            book = books[label]
            fetch.used.clear()
            records = _parted(made, label) if made else _streamed(source, label, settings, filters)
            for verdict, line in watched(records, label, book):
                merge.take(book, verdict, line)
                if settings.max_bytes and book.bytes >= settings.max_bytes:
                    break
            book.check(label)
            book.packages = made.packages(label) if made else [fetch.facts(p) for p in fetch.used.values()]
    _fill_empty_split(out, settings, books)
    if settings.kind == "documents":
        _write_text(out)
    shutil.rmtree(home, ignore_errors=True)
    _write_licences(out, books)
    found = {name: dict(counts) for name, counts in merge.found.items() if counts}
    result = {**_result(out, books), "found": found}
    (out / card.NAME).write_text(card.written(settings, result), encoding="utf-8")
    return result


def _made(settings: Collect, sources: dict[str, Any], home: Path) -> parts.Parts:
    """The parts of the collection, all done; those done before an interruption are used."""
    made = parts.planned(settings, sources, home)
    done = scale.share(made, settings.scale) if settings.scale else workers.share(made, settings.workers)
    for _ in watched(done, "parts", total=len(made.left())):
        pass
    return made


def _parted(made: parts.Parts, label: str) -> Iterator[tuple[Verdict, bytes]]:
    """The verdicts and records of one source, out of its parts."""
    for number, (owner, _) in enumerate(made.tasks):
        if owner == label:
            yield from made.read(number)


def _streamed(source, label: str, settings: Collect, filters) -> Iterator[tuple[Verdict, bytes]]:
    """The same without parts, for a source of which only the beginning is wanted."""
    for piece in parts.pieces(source):
        yield from judged(source, piece, label, settings, filters)


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


def _write_licences(out: Path, books: dict[str, Book]) -> None:
    """licences/NAME-VERSION.txt of every package: its own licence or copyright file."""
    for facts in {p["sha256"]: p for book in books.values() for p in book.packages}.values():
        package = fetch.Package(**{key: facts[key] for key in FIELDS})  # type: ignore[arg-type]
        if text := fetch.licence_text(package):
            (out / "licences").mkdir(exist_ok=True)
            name = re.sub(r"[^\w.@+-]", "_", f"{package.name}-{package.version}.txt")
            (out / "licences" / name).write_text(text, encoding="utf-8")


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
