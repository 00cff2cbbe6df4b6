"""A user's files as records, in bounded memory, whatever is in them.

Every reader yields plain mappings in file order. What cannot be read is a record too, `{id, unreadable:
reason, excerpt}`, so that it is counted and shown, and the rest of the file goes on:

    too_long      a line of a .jsonl beyond MAX_LINE
    not_utf8      a line, or a part of a text file
    not_json, not_an_object     a line of a .jsonl; a torn last line too
    broken_file   compressed or parquet data that stops making sense
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

MAX_LINE = 16 << 20
"""Bytes of one line of a .jsonl. A longer one is passed over without ever being held in memory."""
PACKED = (".gz", ".zst")
BROKEN = (OSError, EOFError, zlib.error, zstandard.ZstdError)


def unreadable(name: str, reason: str, content: bytes | str = b"") -> dict[str, Any]:
    """The record of something that could not be read."""
    text = content if isinstance(content, str) else content[:800].decode("utf-8", "replace")
    return {"id": name, "unreadable": reason, "excerpt": text[:200]}


def opened(path: Path) -> io.BufferedIOBase:
    """`path` as decompressed bytes; .gz and .zst go by their suffix."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(zstandard.open(path, "rb"), 1 << 20)
    return path.open("rb")


def text_parts(path: Path, name: str, part_bytes: int) -> Iterator[dict[str, Any]]:
    """{id, text} of a text file: whole, or cut near `part_bytes` at blank lines, line ends or spaces."""
    try:
        with opened(path) as file:
            held = file.read(part_bytes)
            whole = len(held) < part_bytes
            number = 0
            while held:
                end = len(held) if whole else _cut(held)
                part, held = held[:end], held[end:]
                held += file.read(part_bytes - len(held))
                whole = whole or len(held) < part_bytes
                label = f"{name}#{number}" if number or held else name
                number += 1
                try:
                    yield {"id": label, "text": part.decode()}
                except UnicodeDecodeError as error:
                    yield unreadable(label, "not_utf8", part[max(0, error.start - 20) :])
    except BROKEN as error:
        yield unreadable(name, "broken_file", str(error))


def _cut(held: bytes) -> int:
    """Where to end a part: after the last blank line, line end or space of its second half, or anywhere."""
    for mark in (b"\n\n", b"\n", b" "):
        if (at := held.rfind(mark, len(held) // 2)) >= 0:
            return at + len(mark)
    end = len(held)
    while end > len(held) - 4 and held[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if held[end - 1] >= 0xC0 else len(held)


def json_lines(
    path: Path, name: str, start: int = 0, end: int | None = None, before: int = 0, max_line: int = MAX_LINE
) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file, each with an `id` of its own or `name:line`.

    A stretch of it begins at the byte `start` of a line with `before` lines before it, and ends at `end`.
    """
    packed = path.suffix.lower() in PACKED
    try:
        with opened(path) as file:
            if not packed:
                file.seek(start)
            for number, line in _lines(file, max_line, None if packed else end, before):
                label = f"{name}:{number}"
                yield unreadable(label, "too_long") if line is None else _parsed(line, label)
    except BROKEN as error:
        yield unreadable(name, "broken_file", str(error))


def _lines(
    file: io.BufferedIOBase, max_line: int, end: int | None, number: int
) -> Iterator[tuple[int, bytes | None]]:
    """(line number, line) of every line that is not blank; None for a line that is too long."""
    while (end is None or file.tell() < end) and (line := file.readline(max_line + 1)):
        number += 1
        if len(line) > max_line and not line.endswith(b"\n"):
            while (rest := file.readline(max_line)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif line.strip():
            yield number, line


def _parsed(line: bytes, label: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return unreadable(label, "not_utf8", line)
    except (ValueError, RecursionError):
        return unreadable(label, "not_json", line)
    return _object(record, label, line)


def _object(record: Any, label: str, raw: bytes | str) -> dict[str, Any]:
    if not isinstance(record, dict):
        return unreadable(label, "not_an_object", raw)
    return {**record, "id": _printable(record.get("id", label))}


def json_array(path: Path, name: str, most: int = MAX_LINE) -> Iterator[dict[str, Any]]:
    """The objects of a .json file that holds a list of them, one at a time; objects line by line as well."""
    decoder, held, number = json.JSONDecoder(), "", 0
    try:
        with opened(path) as file, io.TextIOWrapper(file, "utf-8-sig") as text:  # type: ignore[type-var]
            held = text.read(1 << 16).lstrip()
            if not held.startswith("["):
                yield from json_lines(path, name, max_line=most)
                return
            held = held[1:]
            while True:
                held = held.lstrip(" \t\r\n,")
                if held.startswith("]"):
                    return
                try:
                    record, end = decoder.raw_decode(held)
                except (ValueError, RecursionError):
                    more = text.read(1 << 16)
                    if not more or len(held) > most:
                        yield unreadable(f"{name}#{number}", "too_long" if more else "not_json", held)
                        return
                    held += more
                    continue
                yield _object(record, f"{name}#{number}", held[:end])
                held, number = held[end:], number + 1
    except UnicodeDecodeError:
        yield unreadable(f"{name}#{number}", "not_utf8", held)
    except BROKEN as error:
        yield unreadable(name, "broken_file", str(error))


def _printable(value: Any) -> str:
    """An id as text that can be written again."""
    return str(value).encode("utf-8", "replace").decode()[:200]


def parquet_rows(path: Path, name: str, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of a .parquet file with those of `columns` that it has, or all; some hundreds at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            present = [name_ for name_ in names if columns is None or name_ in columns]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=present):
                for row in batch.to_pylist():
                    yield {**row, "id": _printable(row.get("id", f"{name}:{number}"))}
                    number += 1
    except (pyarrow.ArrowException, *BROKEN) as error:
        yield unreadable(name, "broken_file", str(error))
