"""Token shards as rows of whole documents, or of pieces of long ones, with the noise that is to be undone.

    documents ─► pieces of at most one row ─► best-fit packing, fixed ─► noise, drawn anew every epoch ─► rows

    one side      tokens, segments, labels (B, T)                    a decoder or an encoder
    two sides     and source, source_segments (B, S)                 an encoder-decoder: segment i of one side
                                                                     belongs to segment i of the other

A noise (llmkit/data/noise) is a class with `Settings`; built from (settings, tokenizer, seq_len) it has

    sides          {"tokens": T} or {"source": S, "tokens": T}, the positions of a row
    longest        the tokens of the longest piece that fits; shortest: fewer are of no use
    size(n)        the most positions that a piece of n tokens takes, on each side
    extra          what padding holds under each key that it makes beside tokens, labels and source
    start          of two sides: the piece that the decoder reads first, "pad" or "eos", as the net must
    (ids, before, draws)  -> the piece's arrays; `before` is the token in front of it, or BOS
"""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from llmkit import manifest, registry
from llmkit.config import Component, Section
from llmkit.data import remote
from llmkit.data.corpus import Corpus
from llmkit.data.draws import keyed
from llmkit.data.noise.none import Plain
from llmkit.data.pack import IGNORED, best_fit_sides, lay_side
from llmkit.errors import DataError
from llmkit.registry import register


@register("dataset", "documents")
class Documents:
    """Rows of packed pieces of documents. `counts` says what became of every token and position."""

    class Settings(Section):
        name: Literal["documents"] = "documents"
        shards: str = Field(description="directory made by `data shard`, or a URL it was uploaded to")
        tokenizer: str | None = Field(
            None, description="tokenizer that the shards must be made with, if given"
        )
        seq_len: int = Field(
            256, ge=8, description="positions of a row; of the encoder's, where there are two"
        )
        noise: Annotated[Section, Component("noise")] = Field(
            Plain.Settings(),
            description="what is done to a text and is to be undone: none, masked, span, ...",
        )
        pack: bool = Field(True, description="several documents in a row, which do not see each other")
        verify: Literal["contents", "sizes"] = Field(
            "contents",
            description="contents: sha256 of every shard at start (about 1 GB/s); sizes: for huge corpora",
        )
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        folder = remote.local(settings.shards)
        self._corpus = corpus = Corpus(folder, split, settings.verify == "contents", settings.tokenizer)
        self.settings, self.seq_len = settings, settings.seq_len
        self.tokenizer_dir = folder / "tokenizer"
        self.vocab_size, self._pad = corpus.tokenizer.vocab_size, corpus.tokenizer.pad
        self.noise = registry.find("noise", settings.noise.name)(
            settings.noise, corpus.tokenizer, settings.seq_len
        )
        self.start: str | None = getattr(self.noise, "start", None)
        self._seed = seed if split == "train" else 0  # held-out rows are noised alike in every run
        self._piece_bytes = corpus.tokenizer.piece_bytes() if self.noise.counts_bytes else None
        self._starts, self._lengths = _pieces(corpus, self.noise.longest, self.noise.shortest)
        if not len(self._lengths):
            raise DataError(
                f"{folder}: no {split} document has {self.noise.shortest} tokens; collect more text"
            )
        sizes = [self.noise.size(n) for n in range(self.noise.longest + 1)]
        items = [sizes[n] for n in self._lengths.tolist()]
        capacity = tuple(self.noise.sides.values())
        self._rows = best_fit_sides(items, capacity) if settings.pack else [[i] for i in range(len(items))]
        self.num_tokens = int(self._lengths.sum())
        self.counts = self._counted(corpus, items)
        noise = settings.noise.model_dump(mode="json")
        self.fingerprint = manifest.digest([*corpus.facts, self.seq_len, noise, settings.pack])

    @property
    def licences(self) -> dict[str, Any]:
        """{source: its licence and origin}, as the manifest of the shards has them."""
        return manifest.read(self.tokenizer_dir.parent).get("licences", {})

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """The rows of (sample number, row id) pairs; of no rows at all, one of padding."""
        pieces = [
            [self._piece(sample, number, i) for number, i in enumerate(self._rows[row])]
            for sample, row in rows
        ]
        fill = {"tokens": self._pad, "labels": IGNORED, **self.noise.extra}
        out = lay_side(pieces, "segments", fill, self.noise.sides["tokens"])
        if "source" in self.noise.sides:
            fill = {"source": self._pad}
            out |= lay_side(pieces, "source_segments", fill, self.noise.sides["source"])
        if self._piece_bytes is not None:
            labels = out["labels"].numpy()
            out["bytes"] = torch.from_numpy(np.where(labels >= 0, self._piece_bytes[labels], 0).sum(1))
        return out

    def _piece(self, sample: int, number: int, i: int) -> dict[str, np.ndarray]:
        start = int(self._starts[i])
        text = self._corpus.read(start - 1, start + int(self._lengths[i])).astype(np.int64)
        return self.noise(text[1:], int(text[0]), keyed(self._seed, sample, number))

    def _counted(self, corpus: Corpus, items: list[tuple[int, ...]]) -> dict[str, int]:
        """Documents, tokens, pieces and rows; tokens cropped, and positions of each side without a token."""
        whole = corpus.num_tokens - len(corpus.starts)
        counts = {**corpus.counts, "pieces": len(items), "rows": len(self._rows)}
        counts["cropped_tokens"] = whole - self.num_tokens
        for side, used in zip(self.noise.sides, zip(*items, strict=True), strict=True):
            name = "padded_positions" if side == "tokens" else f"padded_{side}_positions"
            counts[name] = len(self._rows) * self.noise.sides[side] - sum(used)
        return counts


def _pieces(corpus: Corpus, longest: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each piece begins in the stream, behind BOS, and its length: documents cut where they must be.

    What is left of a document beyond its last full piece and shorter than `shortest` is cropped.
    """
    ends = np.append(corpus.starts[1:], corpus.num_tokens)
    bodies = ends - corpus.starts - 1
    number = -(-bodies // longest)
    first = np.repeat(corpus.starts + 1, number)
    nth = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    starts = first + nth * longest
    lengths = np.minimum(longest, np.repeat(ends, number) - starts)
    kept = lengths >= shortest
    return starts[kept], lengths[kept]
