"""The records that evaluations read: conversations and pairs as `data collect` writes them, and raw text."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmkit.data.shapes import numbered
from llmkit.errors import DataError


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file. DataError names the file, and the line that is not one."""
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; make it with `llmkit data collect`, or name another one"
        )
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON ({error}); collect the data again") from None


def heldout(
    folder: str, needs: tuple[str, ...], sources: list[str] | None = None, limit: int = 0
) -> list[dict]:
    """Held-out records of a collected folder that have the keys `needs`, of `sources` only if any are named.

    With a `limit`, the hash of the id decides: the same records every time, spread over all sources.
    """
    path = Path(folder) / "heldout.jsonl"
    records = numbered(list(read_jsonl(path)))
    if unknown := set(sources or ()) - {record.get("source") for record in records}:
        known = ", ".join(sorted({str(record.get("source")) for record in records}))
        raise DataError(f"{path}: holds no source {sorted(unknown)[0]!r}; known: {known}")
    records = [
        r for r in records if all(key in r for key in needs) and (not sources or r["source"] in sources)
    ]
    if not records:
        raise DataError(f"{path}: no record has {', '.join(needs)}; this metric needs other data")
    if limit and limit < len(records):
        records = by_hash(records)[:limit]
    return records


def by_hash(records: list[dict]) -> list[dict]:
    """The records in an order of their ids' hashes, in which those of all sources are spread."""
    return sorted(records, key=lambda r: hashlib.blake2b(str(r["id"]).encode()).digest())


def digest(data: bytes) -> str:
    """Twelve hex digits of BLAKE2b, which tell measured texts apart."""
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def by_source(records: list[dict]) -> dict[str, np.ndarray]:
    """{source: indices of its records}; sources like tasks/sum and tasks/count also together, as tasks."""
    sources = [str(record["source"]) for record in records]
    families = [name.partition("/")[0] for name in set(sources) if "/" in name]
    shared = {family for family in families if family and families.count(family) > 1}
    found = {}
    for name in sorted({*sources, *shared}):
        mine = [source == name or (name in shared and source.startswith(f"{name}/")) for source in sources]
        found[name] = np.flatnonzero(mine)
    return found


def read_text(path: str) -> str:
    """The raw text of a file. DataError if it is missing, empty or not UTF-8."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: there is no such text file; name the heldout.txt of `llmkit data collect`")
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}; convert it first") from None
    if not text:
        raise DataError(f"{path}: is empty; there is nothing to measure")
    return text


def documents(path: str, limit_bytes: int) -> list[str]:
    """Documents of a collected .jsonl, whole ones up to `limit_bytes`, or the start of a text file.

    DataError where there are none.
    """
    if not path.endswith(".jsonl"):
        return [read_text(path)[:limit_bytes]]
    found, size = [], 0
    for record in read_jsonl(Path(path)):
        size += len(record["text"].encode())
        if size > limit_bytes and found:
            break
        found.append(record["text"])
    if not found:
        raise DataError(f"{path}: holds no document; collect more, or hold out more of it")
    return found
