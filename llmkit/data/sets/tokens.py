"""Token shards as rows: windows of `seq_len` over all documents end to end, which the model tells apart.

    stream     <s> a b c d <s> e f <s> g h i j k ...
    row 0      <s> a b c d <s>       segments  1 1 1 1 1 2       labels  a b c d - e
    row 1      e f <s> g h i         segments  1 1 2 2 2 2       labels  f - g h i j

Every token except BOS is a label exactly once, in one row, so sums over all rows are sums over the corpus.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from llmkit import manifest
from llmkit.config import Section
from llmkit.data import remote
from llmkit.data.corpus import Corpus
from llmkit.data.pack import IGNORED
from llmkit.errors import ConfigError
from llmkit.registry import register


@register("dataset", "tokens")
class Tokens:
    """Rows of `seq_len` tokens. `len` is the number of rows; the last one may end in padding."""

    class Settings(Section):
        name: Literal["tokens"] = "tokens"
        shards: str = Field(description="directory made by `data shard`, or a URL it was uploaded to")
        tokenizer: str | None = Field(
            None, description="tokenizer that the shards must be made with, if given"
        )
        seq_len: int = Field(256, gt=1, description="tokens of a row, the model's context")
        verify: Literal["contents", "sizes"] = Field(
            "contents",
            description="contents: sha256 of every shard at start (about 1 GB/s); sizes: for huge corpora",
        )
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        folder = remote.local(settings.shards)
        self._corpus = corpus = Corpus(folder, split, settings.verify == "contents", settings.tokenizer)
        self.settings = settings
        self.seq_len = settings.seq_len
        self.tokenizer_dir = folder / "tokenizer"
        self.vocab_size, self._pad = corpus.tokenizer.vocab_size, corpus.tokenizer.pad
        self._piece_bytes = corpus.tokenizer.piece_bytes()
        self.num_tokens = corpus.num_tokens
        if split == "train" and self.num_tokens <= self.seq_len:
            raise ConfigError(
                f"data.seq_len: {self.seq_len} is more than the {self.num_tokens} tokens of {folder}; "
                f"set it to at most {self.num_tokens - 1}, or collect more text"
            )
        self.counts = {**corpus.counts, "rows": len(self)}
        self.fingerprint = manifest.digest([*corpus.facts, self.seq_len])

    @property
    def licences(self) -> dict[str, Any]:
        """{source: its licence and origin}, as the manifest of the shards has them."""
        return manifest.read(self.tokenizer_dir.parent).get("licences", {})

    def __len__(self) -> int:
        return -(-(self.num_tokens - 1) // self.seq_len)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """tokens, segments, labels (B, T); bytes (B,), the bytes of text that the labels stand for."""
        size = max(1, len(rows)), self.seq_len
        tokens = np.full(size, self._pad, np.int64)
        segments = np.zeros(size, np.int32)
        labels = np.full(size, IGNORED, np.int64)
        for i, (_, row) in enumerate(rows):
            self._fill(row * self.seq_len, tokens[i], segments[i], labels[i])
        num_bytes = np.where(labels >= 0, self._piece_bytes[labels], 0).sum(1)
        arrays = {"tokens": tokens, "segments": segments, "labels": labels, "bytes": num_bytes}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _fill(self, start: int, tokens: np.ndarray, segments: np.ndarray, labels: np.ndarray) -> None:
        """The window of the stream from `start`, written into one row's arrays."""
        ids = self._corpus.read(start, start + self.seq_len + 1)
        used = min(len(ids), self.seq_len)
        tokens[:used] = ids[:used]
        labels[: len(ids) - 1] = ids[1:]
        starts = self._corpus.starts
        begins = starts[np.searchsorted(starts, start + 1) :][: used + 1] - start
        begins = begins[begins <= used]  # where another document begins, in this row or right after it
        labels[begins - 1] = IGNORED
        segments[begins[begins < used]] = 1
        segments[:used] = 1 + np.cumsum(segments[:used])
