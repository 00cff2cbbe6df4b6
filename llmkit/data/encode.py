"""A .jsonl of documents as token ids, by several processes, in the order of the file whatever their number.

    spans of 1 MB     0    1    2    3    4    5 ...       a span is the lines that begin in it
    process 0 of 2    0         2         4                each writes its spans to a pipe, one after another,
    process 1 of 2         1         3         5           and waits there until it is read

The parent reads the pipes in turn. So no process is ahead by more than a span, and the result is the same
bytes for any number of them.
"""

import gc
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

import llmkit
from llmkit.data.indexed import id_type
from llmkit.errors import DataError, LlmkitError
from llmkit.tokenizer.lines import texts
from llmkit.tokenizer.vocabulary import Tokenizer

SPAN = 1 << 20
COMMAND = ["-m", "llmkit.data.encode"]
_HEAD = struct.Struct("<QQQ")


class Encoded(NamedTuple):
    """Documents of a span: tokens of each (with BOS and EOS), the ids of all, and the bytes of their text."""

    lengths: np.ndarray
    ids: np.ndarray
    bytes: int


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encoded(path: Path, folder: Path, workers: int = 0, eos: bool = False) -> Iterator[Encoded]:
    """The documents of `path` by the tokenizer in `folder`, each behind a BOS and, if `eos`, before an EOS.

    0 workers: one per core, where it is worth it. DataError if a line is no document or a process is lost.
    """
    spans = -(-path.stat().st_size // SPAN)
    wanted = min(workers or cores(), spans)
    if wanted <= 1 or (not workers and spans < 8):
        yield from _spans(path, folder, 0, 1, eos)
        return
    root = str(Path(llmkit.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, *COMMAND, str(path), str(folder)]
    dtype = id_type(Tokenizer.load(folder).vocab_size)
    children = [
        subprocess.Popen([*command, str(i), str(wanted), str(int(eos))], stdout=subprocess.PIPE, env=env)
        for i in range(wanted)
    ]
    try:
        for number in range(spans):
            yield _read(children[number % wanted].stdout, path, dtype)
    finally:
        for child in children:
            child.kill()
            child.stdout.close()
            child.wait()


def _read(pipe, path: Path, dtype: np.dtype) -> Encoded:
    """The next span of one process."""
    head = pipe.read(_HEAD.size)
    documents, tokens, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 1, 0)
    body = pipe.read(4 * documents + dtype.itemsize * tokens)
    if len(body) < 4 * documents + dtype.itemsize * tokens:
        raise DataError(f"{path}: a process that encodes it was lost; see the line above, and run it again")
    lengths = np.frombuffer(body, "<i4", documents)
    return Encoded(lengths, np.frombuffer(body, dtype, tokens, 4 * documents), size)


def _spans(path: Path, folder: Path, first: int, step: int, eos: bool) -> Iterator[Encoded]:
    """Every `step`th span from number `first` on, encoded here."""
    tokenizer = Tokenizer.load(folder)
    dtype, end = id_type(tokenizer.vocab_size), [tokenizer.eos] if eos else []
    with path.open("rb") as file:
        for start in range(first * SPAN, path.stat().st_size, step * SPAN):
            try:
                found = list(chain.from_iterable(map(texts, _lines(file, start, start + SPAN))))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}: a line is no document ({error}); collect it again") from None
            rows = [[tokenizer.bos, *ids, *end] for ids in tokenizer.encode_all(found)]
            lengths = np.array([len(row) for row in rows], "<i4")
            ids = np.fromiter(chain.from_iterable(rows), dtype, int(lengths.sum(dtype=np.int64)))
            yield Encoded(lengths, ids, sum(len(text.encode()) for text in found))


def _lines(file, start: int, end: int) -> Iterator[bytes]:
    """The lines that begin in [start, end) of a file."""
    file.seek(max(0, start - 1))
    if start:
        file.readline()  # the rest of a line that began before, or just the line break
    while file.tell() < end and (line := file.readline()):
        yield line


def main(path: str, folder: str, first: str, step: str, eos: str) -> int:
    """One process: its spans to standard output."""
    out = sys.stdout.buffer
    gc.disable()  # nothing here is circular, and looking through millions of lists takes a tenth of the time
    try:
        for span in _spans(Path(path), Path(folder), int(first), int(step), eos == "1"):
            out.write(_HEAD.pack(len(span.lengths), len(span.ids), span.bytes))
            out.write(span.lengths.tobytes() + span.ids.tobytes())
            out.flush()
    except LlmkitError as error:
        print(f"llmkit: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
