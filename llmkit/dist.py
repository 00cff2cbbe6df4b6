"""Ranks, as torch.distributed sees them: no launcher's environment is believed about the world.

One process needs no process group; everything here then answers for a world of one. Objects and small sums
travel over gloo on the host, so asking for agreement never waits for a GPU.
"""

import contextlib
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_dist

from llmkit.errors import ConfigError, RankError

_device = torch.device("cpu")
_timeout = timedelta(seconds=600)


def start(device: str = "auto", timeout_s: float = 600, group: bool = False) -> torch.device:
    """Join the ranks that a launcher started, or stand alone; `group=True` makes a group even of one rank.

    Raises ConfigError if `device` is gpu and there is none, RankError if the other ranks do not come.
    """
    global _device, _timeout
    _timeout = timedelta(seconds=timeout_s)
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "gpu" and not torch.cuda.is_available():
        raise ConfigError("--device gpu: torch sees no GPU here; run `llmkit doctor`, or use --device cpu")
    _device = (
        torch.device("cuda", local) if device != "cpu" and torch.cuda.is_available() else torch.device("cpu")
    )
    if _device.type == "cuda":
        torch.cuda.set_device(_device)
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if (asked > 1 or group) and not torch_dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if _device.type == "cuda" else "gloo"
        alone: dict[str, Any] = {"store": torch_dist.HashStore(), "rank": 0, "world_size": 1}
        try:
            torch_dist.init_process_group(backend, timeout=_timeout, **({} if asked > 1 else alone))
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"ranks: cannot meet the other {asked - 1}: {str(error).splitlines()[0]}"
            ) from None
    if world() != asked:
        raise RankError(f"ranks: the launcher asked for {asked}, torch.distributed has {world()}")
    return _device


def stop() -> None:
    """Leave the process group. Without this, gloo aborts the process at exit every now and then.

    Once a rank is lost the group is kept instead: freeing it, gloo may wait for that rank for ever.
    """
    if torch_dist.is_initialized() and not _kept:
        torch_dist.destroy_process_group()


def rank() -> int:
    return torch_dist.get_rank() if torch_dist.is_initialized() else 0


def world() -> int:
    return torch_dist.get_world_size() if torch_dist.is_initialized() else 1


def device() -> torch.device:
    return _device


def barrier(what: str) -> None:
    """Wait for all ranks; RankError says at `what` a rank was missing."""
    if world() > 1:
        agree(what, f"barrier at {what}")


def broadcast(value: Any) -> Any:
    """Rank 0's `value`, on every rank. It must be plain data."""
    if world() == 1:
        return value
    box = [value]
    _collective("broadcast", lambda: torch_dist.broadcast_object_list(box, src=0, device=torch.device("cpu")))
    return box[0]


def gather(value: Any, group: Any = None) -> list[Any]:
    """Every rank's plain `value`, in rank order, on every rank."""
    if world() == 1:
        return [value]
    box = [None] * world()
    _collective("gather", lambda: torch_dist.all_gather_object(box, value, group=group))
    return box


def channel() -> Callable[[Any], list[Any]]:
    """A `gather` for one thread of each rank, beside what others send. All ranks make it together."""
    if world() == 1:
        return gather
    group = torch_dist.new_group(backend="gloo", timeout=_timeout)
    return lambda value: gather(value, group)


def agree(value: Any, what: str) -> Any:
    """Assert that all ranks hold the same plain `value`; RankError names the ranks that differ."""
    values = gather(value)
    odd = [i for i, other in enumerate(values) if other != values[0]]
    if odd:
        raise RankError(f"{what}: rank {odd[0]} has {values[odd[0]]!r}, rank 0 has {values[0]!r}")
    return value


def sums(numbers: dict[str, float]) -> dict[str, float]:
    """Sums over ranks of host numbers, in float64. All ranks name the same keys."""
    if world() == 1:
        return {key: float(value) for key, value in numbers.items()}
    keys = sorted(numbers)
    flat = torch.tensor([float(numbers[key]) for key in keys], dtype=torch.float64)
    _collective("sum", lambda: torch_dist.all_reduce(flat))
    return dict(zip(keys, flat.tolist(), strict=True))


def _collective(what: str, call) -> None:
    try:
        call()
    except RuntimeError as error:
        raise _lost(error, f"during {what}") from None


@contextlib.contextmanager
def explained():
    """Inside, gloo's and NCCL's ways of saying that another rank is gone become RankErrors."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch_dist.DistError) or "gloo/transport" in str(error):
            raise _lost(error, "in a collective") from error
        raise


_kept: list[Any] = []
"""The process group, once one of its ranks is lost."""


def _lost(error: RuntimeError, where: str) -> RankError:
    _kept.append(torch_dist.group.WORLD)
    text = str(error).splitlines()[0]
    return RankError(f"rank {rank()}: lost another rank {where}: {text}; see logs/ of the run")
