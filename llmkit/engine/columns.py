"""What a frozen net says of every row, computed once before the first step and kept on disk.

    objective.column ─► key = digest(weights, rows, tokenizer and template, settings of the net, precision)
    CACHE/column/KEY/{train.npy, heldout.npy, manifest.json}        fp32, mapped into memory, sha256 checked
                                                            ─► batches of the data set carry the column

Another key is another directory, so nothing stale is ever read; a directory that does not match its manifest
is made again. The frozen net is dropped afterwards: a run whose reference is cached holds one net, not two.
Not handled: nodes that share no file system need one cache each, and a rank must hold the whole frozen net.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from llmkit import caches, dist, manifest
from llmkit.errors import ConfigError
from llmkit.log import say
from llmkit.models.blocks import initialise
from llmkit.models.heads import build
from llmkit.objectives.phase import Objective

ROWS, LOOKED_AT = 8, 64
"""Rows computed at a time; rows that are looked at to know the data set again."""


class Columned:
    """A data set whose batches carry one more tensor; in all else, the data set."""

    def __init__(self, dataset, key: str, cells: np.ndarray):
        self._dataset, self._key, self._cells = dataset, key, cells

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """The data set's batch of (sample number, row id) pairs, and the column; zeros for padding."""
        cells = self._cells[[row for _, row in rows]] if rows else np.zeros_like(self._cells[:1])
        return {**self._dataset.batch(rows), self._key: torch.from_numpy(np.array(cells))}


def attach(objective: Objective, start, settled, datasets: dict[str, Any]) -> dict[str, Any]:
    """`datasets` by split, their batches with `objective.column`, which `start` computes if need be."""
    if start is None:
        raise ConfigError("objective.reference: cached needs an init, whose answers they are; name one")
    facts = {
        "column": objective.column,
        "weights": start.fingerprint,
        "model": start.model.model_dump(mode="json"),
        "rows": {split: _rows(data) for split, data in datasets.items()},
        "tokenizer": _tokenizer(datasets["train"].tokenizer_dir),
        "precision": settled.precision,
        "device": dist.device().type,
    }
    home = Path(getattr(objective.settings, "cache", None) or default()).expanduser() / objective.column
    folder = home / manifest.digest(facts)[:32]
    if dist.broadcast(verified(folder, facts) if dist.rank() == 0 else None):
        say(f"{objective.column}: from {folder}")
    else:
        _make(folder, facts, objective, start, settled, datasets)
    _seen(folder)
    return {
        split: Columned(data, objective.column, np.load(folder / f"{split}.npy", mmap_mode="r"))
        for split, data in datasets.items()
    }


def default() -> Path:
    """The directory of columns."""
    return caches.folder("columns")


def verified(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether `folder` holds the column of just these facts, every byte as it was written."""
    try:
        noted = json.loads((folder / manifest.NAME).read_text())
        return manifest.digest(noted["facts"]) == manifest.digest(facts) and all(
            _sha256(folder / name) == digest for name, digest in noted["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _make(folder: Path, facts, objective: Objective, start, settled, datasets) -> None:
    """Every rank computes its share of the rows; rank 0 publishes the directory by renaming it."""
    part = folder.with_name(f".{folder.name}.{dist.broadcast(os.getpid())}")
    lead = dist.rank() == 0
    if lead:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    dist.barrier("making the cache")
    _seen(part)
    net = _net(start)
    for split, dataset in datasets.items():
        say(f"{objective.column}: {len(dataset):,} {split} rows for {folder}")
        _fill(part / f"{split}.npy", dataset, objective, net, settled)
    if lead:
        files = {path.name: _sha256(path) for path in sorted(part.glob("*.npy"))}
        manifest.write_json(part / manifest.NAME, {"facts": facts, "files": files})
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    dist.barrier("publishing the cache")


def _seen(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(
            f"objective.cache: {folder} is not on this node; name a directory that all nodes see"
        )


@torch.no_grad()
def _fill(path: Path, dataset, objective: Objective, net, settled) -> None:
    def cells(rows: list[int]) -> np.ndarray:
        batch = {
            key: value.to(dist.device()) if torch.is_tensor(value) else value
            for key, value in dataset.batch([(row, row) for row in rows]).items()
        }
        with torch.autocast(dist.device().type, torch.bfloat16, enabled=settled.precision == "bf16"):
            return objective.cell(net, batch).float().cpu().numpy()

    if dist.rank() == 0:
        shape = (len(dataset), *cells([0]).shape[1:])
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
    dist.barrier("opening the cache")
    out = np.lib.format.open_memmap(path, mode="r+")
    mine = list(range(dist.rank(), len(dataset), dist.world()))
    for i in range(0, len(mine), ROWS):
        rows = mine[i : i + ROWS]
        out[rows] = cells(rows)
    out.flush()
    dist.barrier("filling the cache")


def _net(start) -> torch.nn.Module:
    """The net of `start`, whole on this rank, without dropout."""
    changes = {"dropout": 0.0} if hasattr(start.model, "dropout") else {}
    with torch.device("meta"):
        net = build(start.model.model_copy(update=changes))
    net = initialise(net, 0, dist.device()).eval()
    start.fill(SimpleNamespace(trained=(), nets={"frozen": net}), "frozen")
    return net


def _rows(dataset) -> list[Any]:
    """What the rows are: what they were made of, their number, and a digest of some of them as they are."""
    looked_at = sorted({i * len(dataset) // LOOKED_AT for i in range(LOOKED_AT)} | {len(dataset) - 1})
    digest = hashlib.sha256()
    for row in looked_at:
        for key, value in sorted(dataset.batch([(row, row)]).items()):
            digest.update(key.encode() + value.numpy().tobytes())
    return [dataset.fingerprint, len(dataset), digest.hexdigest()]


def _tokenizer(folder: Path) -> dict[str, str]:
    """sha256 of the tokenizer's files, the chat template's among them."""
    kinds = (".model", ".jinja", ".json")
    files = [path for path in sorted(folder.iterdir()) if path.suffix in kinds and path.name != manifest.NAME]
    return {path.name: _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
