"""Token files in Megatron-LM's format: NAME.bin is the ids of all documents, NAME.idx their borders.

    .idx   "MMIDIDX\\0\\0" | u64 version 1 | u8 type | u64 sequences | u64 documents + 1
           | i32 length of each sequence | i64 byte offset of each
           | i64 number of each document's first sequence

Here every document is one sequence. Ids are uint16 where the vocabulary allows, else int32: the format has no
uint32. Both files are memory-mapped, so opening a corpus of any size takes no time and no memory.
"""

import struct
from pathlib import Path

import numpy as np

from llmkit.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
TYPES: dict[int, np.dtype] = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
HEADER = struct.Struct("<9sQBQQ")


def id_type(vocab_size: int) -> np.dtype:
    """The smallest type of the format that holds every id below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


class Writer:
    """Appends documents to `path`.bin; `close` writes `path`.idx."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.path = path
        self.dtype = dtype
        self.tokens = 0
        self._lengths: list[int] = []
        self._file = path.with_suffix(".bin").open("wb")

    def add(self, ids: list[int]) -> None:
        self._file.write(np.asarray(ids, self.dtype).tobytes())
        self._lengths.append(len(ids))
        self.tokens += len(ids)

    def add_all(self, lengths: np.ndarray, ids: np.ndarray) -> None:
        """Documents of these lengths, their `ids` end to end in the type of the file."""
        self._file.write(ids.astype(self.dtype, copy=False).tobytes())
        self._lengths += lengths.tolist()
        self.tokens += len(ids)

    def close(self) -> None:
        self._file.close()
        lengths = np.asarray(self._lengths, "<i4")
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype="<i8")[:-1]]) * self.dtype.itemsize
        code = next(code for code, dtype in TYPES.items() if dtype == self.dtype)
        count = len(lengths)
        with self.path.with_suffix(".idx").open("wb") as file:
            file.write(HEADER.pack(MAGIC, 1, code, count, count + 1))
            for array in (lengths, offsets.astype("<i8")[:count], np.arange(count + 1, dtype="<i8")):
                file.write(array.tobytes())


class Indexed:
    """One shard: `ids`, all its tokens end to end, and `lengths`, tokens per document; memory maps."""

    def __init__(self, path: Path):
        index = path.with_suffix(".idx")
        head = index.read_bytes()[: HEADER.size] if index.stat().st_size < 1 << 20 else _head(index)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise DataError(f"{index}: not an index of token shards; run llmkit data shard again")
        _, version, code, count, _ = HEADER.unpack(head)
        if version != 1 or code not in TYPES:
            raise DataError(
                f"{index}: version {version}, type {code} cannot be read; version 1, types 4 and 8 can"
            )
        self.lengths = np.memmap(index, "<i4", "r", HEADER.size, (count,)) if count else np.zeros(0, "<i4")
        data = path.with_suffix(".bin")
        expected = int(self.lengths.sum(dtype=np.int64)) * TYPES[code].itemsize
        if data.stat().st_size != expected:
            raise DataError(
                f"{data}: {data.stat().st_size} bytes, {expected} expected; run llmkit data shard again"
            )
        self.ids = np.memmap(data, TYPES[code], "r") if expected else np.zeros(0, TYPES[code])


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER.size)
