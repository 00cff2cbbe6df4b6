"""What this machine can do, and what a recipe's `auto` becomes. Every step down is said in one line."""

import importlib.util
import os
import shutil

import psutil
import torch

from llmkit import dist
from llmkit.engine.recipe import Parallel
from llmkit.errors import ConfigError
from llmkit.log import say


def settle(parallel: Parallel, device: torch.device) -> Parallel:
    """`parallel` with every `auto` decided for `device` and this launch; sets the number of CPU threads.

    ConfigError if the recipe and the launcher name different ZeRO stages, or what is asked for is not there.
    """
    threads = parallel.threads or default_threads()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        kind = "tf32" if parallel.tf32 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.fp32_precision = kind
    backend = _backend(parallel.backend)
    for key, default in (("offload", "none"), ("weights", "fp32")):
        if backend == "ddp" and getattr(parallel, key) != default:
            say(f"parallel.{key}: {getattr(parallel, key)} has no effect under ddp; it is for ZeRO")
    return parallel.model_copy(
        update={
            "threads": threads,
            "backend": backend,
            "precision": _precision(parallel.precision, device),
            "compile": _compile(parallel.compile, backend, device),
        }
    )


def default_threads() -> int:
    """Physical cores over the ranks of this machine, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(psutil.cpu_count(logical=False) or 1, allowed)
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def compiler() -> bool:
    """Whether there is a C++ compiler: torch.compile needs one, and so does DeepSpeed on a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))


def launcher_stage() -> str:
    """The backend that `accelerate launch` was configured for."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() not in ("true", "1"):
        return "ddp"
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    return f"zero{stage}" if stage != "0" else "ddp"


def _backend(asked: str) -> str:
    launched = launcher_stage()
    if asked == "auto":
        asked = launched
    elif launched not in ("ddp", asked):
        raise ConfigError(
            f"parallel.backend: the recipe says {asked}, the launcher's config says {launched}; change one"
        )
    if asked == "ddp":
        return asked
    if not importlib.util.find_spec("deepspeed"):
        raise ConfigError(f"parallel.backend: {asked} needs deepspeed (Linux only); install it, or use ddp")
    if dist.device().type == "cpu" and not compiler():
        say(f"no C++ compiler here, which DeepSpeed needs on a CPU: ddp instead of {asked}")
        return "ddp"
    return asked


def _precision(asked: str, device: torch.device) -> str:
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if asked == "bf16" and not able:
        say(f"this {device.type} has no bf16: fp32 instead")
    return "fp32" if asked == "fp32" or not able else "bf16"


def _compile(asked: str, backend: str, device: torch.device) -> str:
    """on, off, or attention: that alone, on a GPU under zero3."""
    if asked == "off":
        return "off"
    whole = backend != "zero3"  # its hooks gather weights inside the region (pytorch#115484)
    if asked == "on" and not whole:
        raise ConfigError("parallel.compile: torch.compile does not work under zero3; use off, or zero2")
    if not whole and device.type == "cpu":
        return "off"
    if not compiler():
        say("no C++ compiler here: torch.compile is off, the run is slower and otherwise the same")
        return "off"
    return "on" if whole else "attention"
