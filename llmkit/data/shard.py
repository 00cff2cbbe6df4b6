"""`llmkit data shard`: collected documents to memory-mapped token shards that know which tokenizer made them.

    train.jsonl -> BOS + ids of each document -> train_00000.bin/.idx, train_00001.bin/.idx, ...
                                                 shards.json, a copy of the tokenizer

shards.json holds the tokenizer's fingerprint, and size and sha256 of every file, which readers check.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from llmkit import manifest
from llmkit.config import Section
from llmkit.data.encode import encoded
from llmkit.data.indexed import Writer, id_type
from llmkit.data.progress import watched
from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer

INDEX = "shards.json"


class Shard(Section):
    """Collected documents and the tokenizer to encode them with."""

    data: str = Field(description="directory made by `data collect` (kind: documents)")
    tokenizer: str = Field(description="directory made by `tokenizer train`")
    shard_tokens: int = Field(
        500_000_000,
        description="most tokens of a shard file, 2 or 4 bytes each; documents are not cut",
        ge=1000,
    )
    eos: bool = Field(
        False, description="close every document with EOS, so that a decoder learns where one ends"
    )
    workers: int = Field(
        0,
        description="processes that encode; 0: one per core. The bytes do not depend on it",
        ge=0,
        le=1024,
        exclude=True,
    )


def work(settings: Shard, out: Path) -> dict[str, Any]:
    """Write the shards of both splits and a copy of the tokenizer into `out` -> fingerprint, counts.

    DataError if there are no documents, or no tokenizer.
    """
    out = Path(out)
    tokenizer = Tokenizer.load(settings.tokenizer)
    splits = {split: _write(settings, tokenizer, split, out) for split in ("train", "heldout")}
    shutil.copytree(settings.tokenizer, out / "tokenizer")
    files = {path.name: facts(path) for path in sorted(out.glob("*_*.*")) if path.suffix in (".bin", ".idx")}
    index = {
        "format": 1,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "splits": splits,
        "files": files,
    }
    manifest.write_json(out / INDEX, index)
    counts = {f"{split}_{key}": n for split, numbers in splits.items() for key, n in numbers.items()}
    made = Path(settings.data) / manifest.NAME
    licences = manifest.read(made.parent).get("licences", {}) if made.exists() else {}
    return {"fingerprint": manifest.digest(index), "counts": counts, "licences": licences}


def facts(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def verify(folder: Path, contents: bool = True) -> dict[str, Any]:
    """The index of a shard directory whose files are what they were; sizes alone if not `contents`.

    DataError names the file, what was found and what was expected.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: holds no {INDEX}; make it with llmkit data shard") from None
    except ValueError as error:
        raise DataError(f"{folder / INDEX}: not JSON ({error}); run llmkit data shard again") from None
    for name, expected in index["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: is missing; run llmkit data shard again")
        if path.stat().st_size != expected["bytes"]:
            found = path.stat().st_size
            raise DataError(
                f"{path}: {found} bytes, {expected['bytes']} expected; run llmkit data shard again"
            )
        if contents and (found := facts(path)["sha256"]) != expected["sha256"]:
            raise DataError(
                f"{path}: sha256 {found[:12]}..., not {expected['sha256'][:12]}...; run data shard again"
            )
    return index


def _write(settings: Shard, tokenizer: Tokenizer, split: str, out: Path) -> dict[str, int]:
    """The shards of one split -> documents, tokens and bytes of text in them."""
    path = Path(settings.data) / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; make it with llmkit data collect")
    totals = {"documents": 0, "tokens": 0, "bytes": 0}
    number = 0
    writer = Writer(out / f"{split}_{number:05d}", id_type(tokenizer.vocab_size))
    spans = encoded(path, Path(settings.tokenizer), settings.workers, settings.eos)
    for lengths, ids, size in watched(spans, f"encoding {split}"):
        totals["documents"] += len(lengths)
        totals["tokens"] += len(ids)
        totals["bytes"] += size
        while len(lengths):
            ends = np.cumsum(lengths, dtype=np.int64)
            fit = int(np.searchsorted(ends, settings.shard_tokens - writer.tokens, "right"))
            if not fit and writer.tokens:
                writer.close()
                number += 1
                writer = Writer(out / f"{split}_{number:05d}", writer.dtype)
                continue
            fit = max(1, fit)  # a document longer than a shard is a shard
            writer.add_all(lengths[:fit], ids[: ends[fit - 1]])
            lengths, ids = lengths[fit:], ids[ends[fit - 1] :]
    writer.close()
    if not totals["documents"]:
        raise DataError(f"{path}: holds no documents; collect more text")
    return totals
