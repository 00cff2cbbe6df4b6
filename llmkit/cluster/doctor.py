"""`llmkit doctor`: what this machine has, and what llmkit will therefore do. It changes nothing."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmkit.cluster import place

GIB = 1 << 30
SPARE_GIB = 10
"""Free disk space below which doctor says so: the quickstart with its environment takes about half of it."""


@dataclass(frozen=True)
class Finding:
    """One line of the table. `good` False: something that a person may want to change."""

    what: str
    found: str
    so: str
    good: bool = True


def show() -> None:
    """Print the table; a problem is marked."""
    table = Table("", "here", "so llmkit", title="llmkit doctor", title_justify="left")
    for line in findings():
        table.add_row(line.what, escape(line.found), escape(line.so), style=None if line.good else "yellow")
    Console().print(table)


def findings() -> list[Finding]:
    """Everything that decides how a run goes on this machine."""
    return [
        _python(),
        *_torch(),
        _compiler(),
        _deepspeed(),
        _cores(),
        _memory(),
        _disk(),
        _nodes(),
        *_optional(),
    ]


def _python() -> Finding:
    inside = "in an environment" if sys.prefix != sys.base_prefix else "of the system"
    system = f"{platform.system()} {platform.machine()}"
    return Finding(
        "python",
        f"{platform.python_version()} {inside}, {system}",
        f"is {_version('llmkit') or 'not installed, but runs from here'}",
    )


def _torch() -> list[Finding]:
    import torch

    build = Finding("torch", torch.__version__, f"transformers {_version('transformers')}")
    if not torch.cuda.is_available():
        seen = place.gpus()
        found = f"{seen} in /dev, but this torch cannot use them" if seen else "none"
        bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        gpu = Finding("GPU", found, "runs on the CPU", good=not seen)
        return [build, gpu, Finding("bf16", _yes(bf16), "computes in bf16" if bf16 else "computes in fp32")]
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    memory = sum(card.total_memory for card in cards) / GIB
    gpu = Finding("GPU", f"{len(cards)} x {cards[0].name}, {memory:.0f} GiB", f"starts {len(cards)} ranks")
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return [build, gpu, Finding("bf16", _yes(bf16), "computes in bf16" if bf16 else "computes in fp32")]


def _compiler() -> Finding:
    names = (os.environ.get("CXX", "c++"), "g++", "clang++")
    found = next((path for path in map(shutil.which, names) if path), None)
    so = "compiles models (parallel.compile)" if found else "runs eager and ddp: no compile, no ZeRO on a CPU"
    return Finding("C++ compiler", found or "none", so, good=bool(found))


def _deepspeed() -> Finding:
    installed = _version("deepspeed")
    if installed:
        return Finding("deepspeed", installed, "offers ddp and ZeRO 1, 2, 3")
    return Finding("deepspeed", "not installed", "offers ddp", good=sys.platform != "linux")


def _cores() -> Finding:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS")
    so = f"shares them out among the ranks{f'; OMP_NUM_THREADS={asked} is set' if asked else ''}"
    return Finding("cores", f"{psutil.cpu_count(logical=False)}, {allowed} threads allowed", so)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    return Finding("memory", found, "runs the quickstart in less than 6 GiB", good=memory.available > 6 * GIB)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    shared = Path("/dev/shm")
    room = f", /dev/shm {shutil.disk_usage(shared).free / GIB:.1f} GiB" if shared.is_dir() else ""
    return Finding("disk", f"{free:.0f} GiB free here{room}", "keeps runs in runs/", good=free > SPARE_GIB)


def _nodes() -> Finding:
    job = os.environ.get("SLURM_JOB_ID")
    if job and int(os.environ.get("SLURM_NNODES", 1)) > 1:
        return Finding(
            "nodes", f"{os.environ['SLURM_NNODES']}, Slurm job {job}", "starts one launcher per node"
        )
    found = "sbatch" if shutil.which("sbatch") else "no scheduler"
    return Finding(
        "nodes", f"1, {found}", "submits jobs with `llmkit launch`" if found == "sbatch" else "runs here"
    )


def _optional() -> list[Finding]:
    extras = {"vision": "scikit-learn"}
    there = [extra for extra, package in extras.items() if _version(package)]
    missing = [extra for extra in extras if extra not in there]
    cure = f"pip install 'llmkit[{','.join(missing)}]' adds the others" if missing else "all there"
    return [Finding("extras", ", ".join(there) or "none", cure)]


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


__all__ = ["Finding", "findings", "show"]
