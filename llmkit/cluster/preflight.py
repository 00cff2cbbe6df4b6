"""Before the first step of a run on several ranks: do all of them run the same thing?

Every rank states the hash of its llmkit, of its resolved recipe, its library versions and its clock. A rank
that differs from the majority is named with its host and what differs: stale checkouts and half-updated
environments give silent nonsense otherwise, or a hang.
"""

import hashlib
import platform
import socket
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmkit import dist
from llmkit.errors import RankError
from llmkit.log import warn

SAME = ("code", "recipe", "python", "torch", "deepspeed", "numpy", "safetensors")
CLOCK_S = 30.0
"""Clocks further apart than this are worth a line: time limits and logs will disagree."""


def check(recipe_hash: str) -> None:
    """Every rank calls this. RankError names a rank whose code, recipe or versions are not the others'."""
    if dist.world() == 1:
        return
    dist.barrier("preflight")
    ranks = dist.gather(facts(recipe_hash))
    if found := difference(ranks):
        raise RankError(found)
    if dist.rank() == 0 and (slow := skew(ranks)):
        warn(slow)


def facts(recipe_hash: str) -> dict[str, Any]:
    """What this rank runs, and where and when."""
    versions = {name: _version(name) for name in SAME[3:]}
    here = {"host": socket.gethostname(), "clock": time.time()}
    return {
        "code": code_hash(),
        "recipe": recipe_hash,
        "python": platform.python_version(),
        **versions,
        **here,
    }


def difference(ranks: list[dict[str, Any]]) -> str:
    """The first rank that is not like most (rank 0 decides a draw), as one line; empty if all agree."""
    for key in SAME:
        values = [rank[key] for rank in ranks]
        usual, count = Counter(values).most_common(1)[0]
        if values.count(values[0]) == count:
            usual = values[0]
        for number, value in enumerate(values):
            if value != usual:
                here = f"rank {number} on {ranks[number]['host']}"
                return (
                    f"{here}: its {key} is {value}, the others' is {usual}; update that node and start again"
                )
    return ""


def skew(ranks: list[dict[str, Any]]) -> str:
    """The rank whose clock is furthest from the median, if that is worth a line."""
    clocks = sorted(rank["clock"] for rank in ranks)
    median = clocks[len(clocks) // 2]
    number = max(range(len(ranks)), key=lambda rank: abs(ranks[rank]["clock"] - median))
    off = ranks[number]["clock"] - median
    if abs(off) <= CLOCK_S:
        return ""
    return f"rank {number} on {ranks[number]['host']}: its clock is off by {off:+.0f} s"


def code_hash(package: Path = Path(__file__).parents[1]) -> str:
    """sha256 over the Python files of `package`, by name and content; 12 hex digits."""
    total = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        total.update(f"{file.relative_to(package)}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:12]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


__all__ = ["check", "code_hash", "difference", "facts", "skew"]
