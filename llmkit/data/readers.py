"""A user's files as records, in bounded memory, whatever is in them.

Every reader yields plain mappings in file order. What cannot be read is a record too, `{id, unreadable:
reason, excerpt}`, so that it is counted and shown, and the rest of the file goes on:

    too_long      a line of a .jsonl beyond MAX_LINE
    not_utf8      a line, or a part of a text file
    not_json, not_an_object     a line of a .jsonl; a torn last line too
    broken_file   compressed or parquet data that stops making sense
    bomb          compressed data that becomes more than MAX_RATIO times as much, or a .parquet that says so
"""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

MAX_LINE = 16 << 20
"""Bytes of one line of a .jsonl. A longer one is passed over without ever being held in memory."""
MAX_LIST = 8 << 20
"""Bytes of a zip archive's list of files: about 60,000 of them."""
ZIP_END = 22 + (1 << 16)
"""Bytes from the end of a zip archive where its end is looked for: a comment may follow it."""
PACKED = (".gz", ".zst")
MAX_RATIO = 200
"""Decompressed over compressed bytes: text reaches about 4, JSON about 15, logs 100; bombs 1,000 and more."""
FREE = 64 << 20
"""Bytes that a file may become whatever its ratio."""
BROKEN = (OSError, EOFError, zlib.error, zstandard.ZstdError)


def _room(packed: int) -> int:
    """Bytes that so many packed ones may become."""
    return max(FREE, MAX_RATIO * packed)


class Bomb(OSError):
    """A file that becomes far too much when it is unpacked."""


class Unpacked(io.RawIOBase):
    """What `file` decompresses, while it is not out of proportion to its `packed` bytes. Bomb if it is."""

    def __init__(self, file: Any, packed: int):
        self._file, self._room = file, _room(packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        num = self._file.readinto(buffer)
        self._room -= num
        if self._room < 0:
            raise Bomb(f"unpacks to more than {MAX_RATIO} times its size")
        return num

    def close(self) -> None:
        self._file.close()
        super().close()


def failed(name: str, error: Exception) -> dict[str, Any]:
    """The record of a file whose reading ended with `error`."""
    return unreadable(name, "bomb" if isinstance(error, Bomb) else "broken_file", str(error))


def unreadable(name: str, reason: str, content: bytes | str = b"") -> dict[str, Any]:
    """The record of something that could not be read."""
    text = content if isinstance(content, str) else content[:800].decode("utf-8", "replace")
    return {"id": name, "unreadable": reason, "excerpt": text[:200]}


def opened(path: Path) -> io.BufferedIOBase:
    """`path` as decompressed bytes; .gz and .zst go by their suffix."""
    unpackers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".zst": zstandard.open}
    opens = unpackers.get(path.suffix.lower())
    if not opens:
        return path.open("rb")
    return io.BufferedReader(Unpacked(opens(path, "rb"), path.stat().st_size), 1 << 20)


def listed(path: Path) -> zipfile.ZipFile:
    """A zip archive, whose list of files is read. BadZipFile if that is longer than any that we need.

    A million entries take 0.6 GB of memory, so the length is looked up before: it stands at the end of the
    file. Archives with the long form of it (zip64) hold more than 65,535 files, or 4 GB.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ZIP_END))
        end = file.read()
    at = end.rfind(b"PK\5\6")
    if at < 0 or len(end) < at + 22:
        raise zipfile.BadZipFile("no zip archive")
    long_form = end[max(0, at - 20) : at].startswith(b"PK\6\7")
    if long_form or int.from_bytes(end[at + 12 : at + 16], "little") > MAX_LIST:
        raise zipfile.BadZipFile(f"its list of files is longer than {MAX_LIST} bytes")
    return zipfile.ZipFile(path)


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
        yield failed(name, error)


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
        yield failed(name, error)


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
        yield failed(name, error)


def _printable(value: Any) -> str:
    """An id as text that can be written again."""
    return str(value).encode("utf-8", "replace").decode()[:200]


def parquet_rows(path: Path, name: str, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of a .parquet file with those of `columns` that it has, or all; some hundreds at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
            if sum(group.total_byte_size for group in groups) > _room(path.stat().st_size):
                raise Bomb(f"says that it unpacks to more than {MAX_RATIO} times its size")
            names = file.schema_arrow.names
            present = [name_ for name_ in names if columns is None or name_ in columns]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=present):
                for row in batch.to_pylist():
                    yield {**row, "id": _printable(row.get("id", f"{name}:{number}"))}
                    number += 1
    except (pyarrow.ArrowException, *BROKEN) as error:
        yield failed(name, error)
