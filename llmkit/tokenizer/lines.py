"""The text that a vocabulary is learned from: a stream of lines within a budget of bytes, by source.

train.jsonl -> blocks of 64 kB -> every source's share of the budget -> lines of at most 4 kB
                                  (spread evenly over the stream)
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from llmkit.errors import ConfigError, DataError

LINE_BYTES = 4096
BLOCK_BYTES = 1 << 16
RESERVED = "\u2585"
"""SentencePiece's own stand-in for the unknown character: it drops every line that holds one."""


class Lines:
    """The training text; after a pass, how many bytes it had (`bytes`), lost (`lost`), by source (`used`)."""

    def __init__(self, data: Path, max_bytes: int, weights: Mapping[str, float] | None = None):
        self.path = data / "train.jsonl"
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file; run llmkit data collect with out={data}")
        self.sizes: dict[str, int] = {}
        for source, text in records(self.path):
            self.sizes[source] = self.sizes.get(source, 0) + len(text.encode())
        self.keep = shares(self.sizes, weights, max_bytes)
        self.used: dict[str, int] = {}
        self.bytes = 0
        self.lost = 0

    def __iter__(self) -> Iterator[str]:
        """Lines that SentencePiece takes; what it would drop is counted as lost."""
        for block in self.blocks():
            for line in chunks(block):
                size = len(line.encode())
                if size > LINE_BYTES or RESERVED in line:
                    self.lost += size
                else:
                    yield line

    def blocks(self) -> Iterator[str]:
        """Documents, or blocks of long ones: of each source its share, never more than a block off."""
        self.used = dict.fromkeys(self.sizes, 0)
        self.bytes = self.lost = 0
        seen = dict.fromkeys(self.sizes, 0)
        for source, text in records(self.path):
            for block in blocks(text):
                size = len(block.encode())
                seen[source] += size
                if self.used[source] + size / 2 <= self.keep[source] * seen[source]:
                    self.used[source] += size
                    self.bytes += size
                    yield block


def shares(sizes: Mapping[str, int], weights: Mapping[str, float] | None, budget: int) -> dict[str, float]:
    """What part of each source is read: `budget` bytes, dealt by `weights`.

    Without weights, sources count by their size. One that has less than its share is read whole, and the
    others share what it leaves. ConfigError if the weights do not name the sources that there are.
    """
    if weights is not None and set(weights) != set(sizes):
        raise ConfigError(f"weights: name every source and no other; they are {', '.join(sorted(sizes))}")
    left = dict(weights if weights is not None else sizes)
    keep = dict.fromkeys(sizes, 1.0)
    while total := sum(left.values()):
        whole = [source for source, weight in left.items() if sizes[source] * total <= budget * weight]
        if not whole:
            return keep | {source: budget * w / total / sizes[source] for source, w in left.items()}
        for source in whole:
            budget -= sizes[source]
            del left[source]
    return keep | dict.fromkeys(left, 0.0)


def records(path: Path) -> Iterator[tuple[str, str]]:
    """(source, text) of every document in a .jsonl of `data collect`; of conversations, every message's."""
    with path.open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            for text in _texts(record):
                yield record.get("source", ""), text


def texts(line: str | bytes) -> list[str]:
    """The texts of one line of such a file."""
    return _texts(json.loads(line))


def _texts(record: dict) -> list[str]:
    return [record["text"]] if "text" in record else _spoken(record)


def _spoken(record: dict) -> list[str]:
    """Everything that is said in a conversation or a pair."""
    messages = record.get("messages") or record["prompt"]
    replies = [record[key] for key in ("chosen", "rejected") if key in record]
    return [m["content"] for m in messages] + replies


def blocks(text: str) -> Iterator[str]:
    """`text`, or if it is long, whole lines of it, about BLOCK_BYTES at a time."""
    if len(text) <= BLOCK_BYTES // 4:
        yield text
        return
    block, size = [], 0
    for line in chunks(text):
        block.append(line)
        size += len(line.encode())
        if size >= BLOCK_BYTES:
            yield "".join(block)
            block, size = [], 0
    if block:
        yield "".join(block)


def chunks(text: str) -> Iterator[str]:
    """`text` in pieces of at most LINE_BYTES: whole lines, cut at spaces or, without any, anywhere."""
    for line in text.splitlines(keepends=True):
        while len(line.encode()) > LINE_BYTES:
            end = line.rfind(" ", 1, LINE_BYTES // 4)
            end = end if end > 0 else LINE_BYTES // 4  # a character has at most 4 bytes
            yield line[:end]
            line = line[end:]
        yield line
