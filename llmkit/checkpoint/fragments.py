"""Fragments: ranges of named tensors, written by the rank that owned them and read by whoever needs them.

    rank_00000.safetensors   policy/wte.weight|param|0       1-D ranges, keyed name|kind|start
                             policy/wte.weight|exp_avg|0
    rank_00001.safetensors   policy/wte.weight|param|9472 ...
    index.json               name -> shape, kind -> where each range lies; checked for holes and overlaps

The layout in memory (ddp, a ZeRO stage, a number of ranks) leaves no trace in it, so any layout reads any
other's, and so does a process that knows of none. A name is `net/parameter`; a kind is `param` (the fp32
weight), an optimiser moment (`exp_avg`, `exp_avg_sq`), `ema` or `buffer`. Floating numbers below fp32 are
stored in fp32, without loss.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from llmkit import manifest, trust
from llmkit.errors import CheckpointError, TrustError
from llmkit.log import fault

INDEX = "index.json"
FORMAT = 1

DTYPES = {
    "F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16,
    "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Piece(NamedTuple):
    """What one rank owns of one tensor: its flattened elements from `start` on, of several kinds."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    views: dict[str, torch.Tensor]
    """kind -> 1-D view of live memory, all of one length: reading is saving, `copy_` into it is loading."""


def of_net(net: str, pieces: Iterable[tuple]) -> Iterator[Piece]:
    """`pieces` under the names that they have in a checkpoint of several nets."""
    for name, shape, start, views in pieces:
        yield Piece(f"{net}/{name}", tuple(shape), start, views)


def buffers(net: nn.Module) -> Iterator[Piece]:
    """The persistent buffers of `net`, each as one piece."""
    persistent = net.state_dict(keep_vars=True)
    for name, buffer in net.named_buffers():
        if name in persistent:
            yield Piece(name, tuple(buffer.shape), 0, {"buffer": buffer.detach().view(-1)})


# ---- writing -----------------------------------------------------------------------------------------------


def write(folder: Path, rank: int, pieces: Iterable[tuple], step: int = 0) -> str:
    """Write this rank's pieces, without a copy of them all -> the file's name.

    OSError if the disk is full. The file is plain safetensors; `__metadata__` holds whole shapes.
    """
    name = f"rank_{rank:05d}.safetensors"
    entries = [(*piece[:3], kind, view) for piece in pieces for kind, view in piece[3].items()]
    entries.sort(
        key=lambda entry: -_stored(entry[4]).itemsize
    )  # wide numbers first, so all of them lie aligned
    shapes = {entry[0]: list(entry[1]) for entry in entries}
    header: dict[str, Any] = {"__metadata__": {"shapes": json.dumps(shapes)}}
    end = 0
    for tensor, _, start, kind, view in entries:
        begin, end = end, end + view.numel() * _stored(view).itemsize
        row = {"dtype": _NAMES[_stored(view)], "shape": [view.numel()], "data_offsets": [begin, end]}
        header[f"{tensor}|{kind}|{start}"] = row
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / name, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for i, entry in enumerate(entries):
            if i == len(entries) // 2:
                file.flush()
                fault("mid_shard", step)
            file.write(entry[4].detach().to("cpu", _stored(entry[4])).contiguous().numpy())
    return name


def _stored(view: torch.Tensor) -> torch.dtype:
    return torch.float32 if view.dtype in (torch.bfloat16, torch.float16) else view.dtype


def write_index(folder: Path) -> str:
    """Collect the headers of all ranks' files in `folder` into index.json -> its name. Rank 0 does this,
    alone.

    CheckpointError if a tensor has a hole, an overlap, or several shapes or dtypes.
    """
    files = sorted(path.name for path in folder.glob("rank_*.safetensors"))
    tensors: dict[str, dict] = {}
    problems = []
    for number, name in enumerate(files):
        header = trust.tensor_header(folder / name)
        shapes = json.loads(header.pop("__metadata__")["shapes"])
        for key, row in header.items():
            tensor, kind, start = key.rsplit("|", 2)
            entry = tensors.setdefault(tensor, {"shape": shapes[tensor], "kinds": {}})
            stored = entry["kinds"].setdefault(kind, {"dtype": row["dtype"], "ranges": []})
            stored["ranges"].append([int(start), row["shape"][0], number])
            if entry["shape"] != shapes[tensor] or stored["dtype"] != row["dtype"]:
                problems.append(
                    f"{tensor}: {name} holds it as {row['dtype']} {shapes[tensor]}, another rank differently"
                )
    for tensor, entry in tensors.items():
        for kind, stored in entry["kinds"].items():
            stored["ranges"].sort()
            problems += _gaps(f"{tensor} ({kind})", stored["ranges"], math.prod(entry["shape"]))
    if problems:
        raise CheckpointError(f"{folder}: the ranks' fragments do not fit together: {'; '.join(problems)}")
    manifest.write_json(folder / INDEX, {"format": FORMAT, "files": files, "tensors": tensors})
    return INDEX


def _gaps(label: str, ranges: list[list[int]], numel: int) -> list[str]:
    """One line for every hole, overlap or overrun of sorted `ranges` over a tensor of `numel` elements."""
    ends = [0, *(start + length for start, length, _ in ranges)]
    starts = [*(start for start, _, _ in ranges), numel]
    return [f"{label}: elements {min(a, b)} to {max(a, b)} are {'missing' if a < b else 'there twice'}"
            for a, b in zip(ends, starts, strict=True) if a != b]  # fmt: skip


# ---- reading -----------------------------------------------------------------------------------------------


class Reader:
    """The tensors of one checkpoint, for any layout or none. Run `store.verify` on the folder before."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            index = trust.read_json(self.folder / INDEX)
            if index["format"] != FORMAT:
                raise CheckpointError(f"{self.folder}: {INDEX} has format {index['format']}, not {FORMAT}")
            self._files: list[str] = index["files"]
            self._tensors: dict[str, dict] = index["tensors"]
            gaps = [
                gap
                for name, entry in self._tensors.items()
                for kind, stored in entry["kinds"].items()
                for gap in _gaps(f"{name} ({kind})", stored["ranges"], math.prod(entry["shape"]))
            ]
        except (OSError, TrustError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{self.folder}: {INDEX} is missing or not sound: {error!r}") from None
        if gaps:
            raise CheckpointError(f"{self.folder / INDEX}: {'; '.join(gaps)}")
        self._open: dict[int, safe_open] = {}

    def nets(self) -> list[str]:
        """The nets that the checkpoint holds."""
        return sorted({name.partition("/")[0] for name in self._tensors})

    def kinds(self, net: str) -> list[str]:
        """The kinds stored for `net` beside `param` and `buffer`: its optimiser's moments, perhaps `ema`."""
        found = {kind for name in self.names(net) for kind in self._tensors[name]["kinds"]}
        return sorted(found - {"param", "buffer"})

    def into(
        self,
        pieces: Iterable[tuple],
        shapes: dict[str, tuple[int, ...]] | None = None,
        kinds: Iterable[str] | None = None,
    ) -> None:
        """Fill the live views of `pieces`, of all their kinds or of `kinds` alone: all of it, or nothing at
        all.

        `shapes` are the parameters of the whole net or nets by name: with it, every rank sees the same
        misfits. CheckpointError lists every tensor that is missing, left over, or of another shape or dtype.
        """
        wanted = [(Piece(*piece), kind, view) for piece in pieces for kind, view in piece[3].items()]
        wanted = [(piece, kind, view) for piece, kind, view in wanted if kinds is None or kind in kinds]
        problems = self._misfits(shapes or {})
        for piece, kind, view in wanted:
            problems.update(self._misfit(piece.name, piece.shape, kind, _NAMES[_stored(view)]))
        if problems:
            listed = "\n  ".join(problems.values())
            raise CheckpointError(
                f"{self.folder}: does not fit the run in {len(problems)} tensors\n  {listed}"
            )
        for piece, kind, view in wanted:
            self._read(piece.name, kind, piece.start, view)

    def whole(self, net: str, kind: str = "param") -> dict[str, torch.Tensor]:
        """{name within `net`: tensor in its shape} of one kind. No engine, no ranks."""
        held = [name for name in self.names(net) if kind in self._tensors[name]["kinds"]]
        return {name.partition("/")[2]: self.tensor(name, kind) for name in held}

    def tensor(self, name: str, kind: str = "param") -> torch.Tensor:
        """One tensor, `net/name`, in its shape."""
        entry = self._tensors[name]
        flat = torch.empty(math.prod(entry["shape"]), dtype=DTYPES[entry["kinds"][kind]["dtype"]])
        self._read(name, kind, 0, flat)
        return flat.view(entry["shape"])

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor, `net/name`."""
        return self._tensors[name]["shape"]

    def names(self, net: str) -> list[str]:
        """The tensors of `net`, each as `net/name`."""
        return [name for name in self._tensors if name.partition("/")[0] == net]

    def _misfits(self, shapes: dict[str, tuple[int, ...]]) -> dict[tuple[str, str], str]:
        problems = {}
        for name, shape in shapes.items():
            problems.update(self._misfit(name, shape, "param", "F32"))
        nets = {name.partition("/")[0] for name in shapes}
        for name, entry in self._tensors.items():
            if name.partition("/")[0] in nets and "param" in entry["kinds"] and name not in shapes:
                problems[name, "param"] = f"{name}: the run has no such tensor, found {entry['shape']}"
        return problems

    def _misfit(self, name: str, shape: tuple[int, ...], kind: str, dtype: str) -> dict[tuple[str, str], str]:
        expected = f"{name} ({kind}): expected {list(shape)} {dtype}"
        entry = self._tensors.get(name)
        if entry is None or kind not in entry["kinds"]:
            return {(name, kind): f"{expected}, found none"}
        found = entry["shape"], entry["kinds"][kind]["dtype"]
        return (
            {}
            if found == (list(shape), dtype)
            else {(name, kind): f"{expected}, found {found[0]} {found[1]}"}
        )

    def _read(self, name: str, kind: str, start: int, view: torch.Tensor) -> None:
        """Fill `view`, the flattened tensor's elements from `start` on, out of the ranges that touch it."""
        stop = start + view.numel()
        for at, length, number in self._tensors[name]["kinds"][kind]["ranges"]:
            low, high = max(at, start), min(at + length, stop)
            if low < high:
                stored = self._file(number).get_slice(f"{name}|{kind}|{at}")[low - at : high - at]
                view[low - start : high - start].copy_(stored)

    def _file(self, number: int):
        if number not in self._open:
            path = trust.inside(self.folder, self._files[number])
            trust.tensor_header(path)
            self._open[number] = safe_open(path, "pt")
        return self._open[number]


__all__ = ["DTYPES", "Piece", "Reader", "buffers", "of_net", "write", "write_index"]
