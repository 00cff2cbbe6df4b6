"""One split of a shard directory, checked and memory-mapped: all its tokens end to end, as one long stream.

<s> a b c d <s> e f <s> g h i j k ...      starts  0 5 8 ...      every document begins with BOS
"""

from pathlib import Path

import numpy as np

from llmkit.data import shard
from llmkit.data.indexed import Indexed
from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer


class Corpus:
    """`num_tokens` tokens; document d is [starts[d], starts[d + 1]) of them, or up to the end.

    DataError if the files are not what they were, or their tokenizer is not the one `tokenizer` names.
    """

    def __init__(self, folder: Path, split: str, contents: bool = True, tokenizer: str | None = None):
        index = shard.verify(folder, contents)
        self.tokenizer = Tokenizer.load(folder / "tokenizer")
        _same(tokenizer, folder, index["tokenizer"], self.tokenizer)
        self.counts: dict[str, int] = index["splits"][split]
        self.facts = [index["files"], index["tokenizer"], split]
        """What the content depends on, for fingerprints."""
        names = [name for name in index["files"] if name.startswith(f"{split}_") and name.endswith(".bin")]
        self._shards = [Indexed(folder / name) for name in sorted(names)]
        self._first = np.cumsum([0, *(len(shard.ids) for shard in self._shards)])
        self.num_tokens = int(self._first[-1])
        self.starts = _starts([shard.lengths for shard in self._shards])

    def document(self, number: int) -> np.ndarray:
        """The tokens of document `number`, BOS first."""
        end = self.starts[number + 1] if number + 1 < len(self.starts) else self.num_tokens
        return self.read(int(self.starts[number]), int(end))

    def read(self, start: int, end: int) -> np.ndarray:
        """Tokens [start, end), fewer at the end of the stream, out of as many shards as it takes."""
        first = np.searchsorted(self._first, start, "right") - 1
        parts = []
        for number in range(first, len(self._shards)):
            offset = self._first[number]
            parts.append(self._shards[number].ids[max(0, start - offset) : max(0, end - offset)])
            if end <= self._first[number + 1]:
                break
        return np.concatenate(parts)


def _starts(lengths: list[np.ndarray]) -> np.ndarray:
    """Where in the stream every document begins: int64, ascending."""
    every = np.concatenate(lengths).astype(np.int64)
    return np.cumsum(every) - every


def _same(asked: str | None, folder: Path, made_with: str, tokenizer: Tokenizer) -> None:
    """DataError if the shards, their tokenizer and the one that the run asks for are not the same."""
    wanted = Tokenizer.load(asked) if asked else tokenizer
    for where, found in ((tokenizer.folder, tokenizer.fingerprint), (wanted.folder, wanted.fingerprint)):
        if found != made_with:
            raise DataError(
                f"{folder}: made with tokenizer {made_with[:12]}..., {where} is {found[:12]}...; "
                "shard again, or change the tokenizer"
            )
