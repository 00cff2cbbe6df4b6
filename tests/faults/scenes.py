"""What goes wrong on a rank, run there: poisoned samples, signals, disks that are full."""

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch

from llmkit.checkpoint import fragments, store
from llmkit.engine import optim, saver
from llmkit.engine.backend import Applied
from llmkit.engine.backend_ddp import Ddp
from tests.checkpoint import small


def rank() -> int:
    return int(os.environ["RANK"])


def torn(out: str, overrides: dict[str, Any]) -> None:
    """A run without what protects its checkpoints: written in place, and never verified."""
    store.Store._staging = lambda self, path: path
    store.verify = lambda path: {"step": store.step_of(path)}
    small.train(out, "toy", overrides)


def omitting(out: str, kind: str, overrides: dict[str, Any], step: int) -> None:
    """A run whose `step`-th update is computed and thrown away."""
    honest, calls = Ddp.step, []

    def skip(self, phase):
        calls.append(phase)
        if len(calls) != step + 1:
            return honest(self, phase)
        self.optimizers[phase.net].zero_grad()
        return Applied(torch.tensor(0.0), torch.tensor(0.0))

    Ddp.step = skip
    small.train(out, kind, overrides)


def careless(out: str, overrides: dict[str, Any]) -> None:
    """A run that applies whatever gradient it gets."""
    optim.Optimizer.found_inf = property(lambda self: None, lambda self, value: None)
    if overrides["parallel__backend"] != "ddp":
        from deepspeed.runtime.zero import stage3, stage_1_and_2

        stage3.is_invalid_grad_norm = stage_1_and_2.is_invalid_grad_norm = lambda norm: False
    small.train(out, "toy", overrides)


def signalled(out: str, overrides: dict[str, Any], ranks: list[int], after: str, times: int = 1) -> None:
    """A run of which `ranks` get `times` SIGTERM once `after`, a file of the run, is there."""
    if rank() in ranks:
        threading.Thread(target=_send, args=(Path(out) / after, times), daemon=True).start()
    small.train(out, "toy", overrides)


def _send(file: Path, times: int) -> None:
    while not file.exists() or not file.stat().st_size:
        time.sleep(0.005)
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)


def full_disk(out: str, overrides: dict[str, Any], steps: list[int], caught: bool = True) -> None:
    """A run in which rank 1 finds its disk full, half way through its file, at the saves of `steps`."""
    if rank() == 1:
        honest = fragments.write

        def write(folder, number, pieces, step=0):
            name = honest(folder, number, pieces, step)
            if step in steps:
                os.truncate(folder / name, (folder / name).stat().st_size // 2)
                raise OSError(errno.ENOSPC, "No space left on device")
            return name

        fragments.write = write
    if not caught:
        store.Store._attempt = lambda self, work: (self.gather(work()), "")
    small.train(out, "toy", overrides)


def slow_disk(out: str, overrides: dict[str, Any], copied: bool = True) -> list[list[int]]:
    """A run in which each save takes a while longer; -> of each, the steps taken when it began and ended.

    Without `copied`, what is written is the live state.
    """
    honest, seen = fragments.write, []

    def write(folder, number, pieces, step=0):
        begun = len(small.lines(out))
        time.sleep(0.3)
        seen.append([begun, len(small.lines(out))])
        return honest(folder, number, pieces, step)

    fragments.write = write
    if not copied:
        saver.Saver._copied = lambda self, pieces: list(pieces)
    small.train(out, "toy", overrides)
    return seen


def mounted(out: str, overrides: dict[str, Any]) -> None:
    """A run on a disk that has room for its first checkpoints only."""
    small.train(out, "causal", overrides)


def doomed(out: str, overrides: dict[str, Any], ranks: list[int], after_s: float) -> None:
    """A run of which `ranks` are killed `after_s` seconds in, wherever that is."""
    if rank() in ranks:
        threading.Thread(target=_kill, args=(after_s,), daemon=True).start()
    small.train(out, "toy", overrides)


def _kill(after_s: float) -> None:
    time.sleep(after_s)
    os.kill(os.getpid(), signal.SIGKILL)
