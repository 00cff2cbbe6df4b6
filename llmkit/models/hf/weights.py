"""Tensors in a Hugging Face directory: one model.safetensors, or shards with an index. No other format."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, dtype

from llmkit.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def write(folder: Path, tensors: dict[str, Tensor], kind: dtype, shard_bytes: int) -> list[str]:
    """Write `tensors` as `kind`, at most `shard_bytes` a file unless a tensor is larger -> file names.

    Whole numbers (counters in buffers) stay what they are.
    """
    shards = split({name: t.numel() * kind.itemsize for name, t in tensors.items()}, shard_bytes)
    if len(shards) == 1:
        files = [SINGLE]
    else:
        files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, names in zip(files, shards, strict=True):
        part = {name: _as(tensors[name].detach().to("cpu"), kind).contiguous() for name in names}
        save_file(part, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # the library leaves it to its owner alone
    if len(shards) > 1:
        size = sum(t.numel() * kind.itemsize for t in tensors.values())
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=1))
    return files


def _as(tensor: Tensor, kind: dtype) -> Tensor:
    return tensor.to(kind) if tensor.is_floating_point() else tensor


def split(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Names in order, in groups of at most `limit` bytes (a larger tensor makes a group of its own)."""
    groups: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if groups[-1] and size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def files(folder: Path) -> list[Path]:
    """The safetensors files of the model in `folder`. CheckpointError if there are none or one is missing."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder}: holds neither {SINGLE} nor {INDEX}; only safetensors are read")
    try:
        where = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        found = sorted({str(file) for file in where.values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / INDEX}: is no index of safetensors files; get it again") from None
    for file in found:
        if Path(file).name != file or not (folder / file).is_file():
            raise CheckpointError(f"{folder / INDEX}: names {file!r}, which is not beside it; get it again")
    return [folder / file for file in found]


def read(folder: Path):
    """Yield (name, tensor) of every tensor in `folder`, one at a time."""
    for file in files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                yield name, opened.get_tensor(name)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, from the headers alone."""
    out = {}
    for file in files(folder):
        with safe_open(file, framework="pt") as opened:
            out |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return out
