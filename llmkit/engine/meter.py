"""What a run measures while it trains: sums stay on the device, and are read when a line is due."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from llmkit.engine.backend import Applied
from llmkit.engine.profile import Profile
from llmkit.log import Metrics, say
from llmkit.models import size
from llmkit.objectives.phase import Batch, Numbers, Objective, add


class Meter:
    """Loss and figures per phase, gradient norm, rate, tokens/s or images/s, MFU, memory, time left."""

    def __init__(
        self, objective: Objective, backend, steps: int, log_every: int, flops: float | None, profile: Profile
    ):
        """`flops` of one token, forward and backward; None if unknown."""
        self.profile = profile
        self.objective, self.backend = objective, backend
        self.steps, self.log_every, self.flops = steps, log_every, flops
        self.peak = size.peak_flops(torch.cuda.get_device_name()) if backend.device.type == "cuda" else None
        self.skipped = lambda: 0
        self.planned: Callable[[int], str] | None = None
        """A line that sets a measured peak beside the plan's; asked once, after two steps on a GPU."""
        self.tokens = 0  # useful ones, over the whole run and all ranks; saved with the checkpoint
        self._uncounted: torch.Tensor | int = 0
        self.seconds = 0.0  # of training, before this process
        self.skips = 0  # steps skipped before this process
        self.metrics: Metrics | None = None
        self.bar: Bar | None = None
        self._first: int | None = None
        self._clear()

    def open(self, metrics: Metrics | None) -> None:
        """Say things from now on; `metrics` is None on all ranks but 0."""
        self.metrics, self.bar = metrics, Bar(self.steps) if metrics else None

    def _clear(self) -> None:
        self._seen: dict[str, Numbers] = {}
        self._norms: list[torch.Tensor] = []
        self._positions: Numbers = {}
        self._since = time.perf_counter()
        self._count = 0

    def begin(self, step: int, lr_factor: float) -> None:
        self.profile.begin(step)
        self._lr = {net: self.backend.optims[net].lr * lr_factor for net in self.backend.trained}
        if self._first is None:
            self._first, self._started = step, time.perf_counter()
            self._since = self._started

    def feed(self, group: list[Batch]) -> list[Batch]:
        """Count the rows' positions, and the useful ones among them (not padding); or images."""
        for batch in group:
            if "image" in batch:
                self._positions = add([self._positions, {"images": batch["valid"].sum()}])
            for segments in (batch[key] for key in ("segments", "source_segments") if key in batch):
                useful = (segments > 0).sum()
                self._positions = add([self._positions, {"all": segments.numel(), "useful": useful}])
                self._uncounted = self._uncounted + useful
        return group

    def add(self, phase, seen: Numbers, outcome: Applied) -> None:
        seen = {name: value for name, value in seen.items() if not getattr(value, "ndim", 0)}
        self._seen[phase.name] = add([self._seen.get(phase.name, {}), seen])
        self._norms.append(outcome.grad_norm)

    def end(self, done: int, figures: dict[str, float]) -> None:
        """Finish a step; write a line if one is due. Reading the sums is the only wait for the device."""
        self._count += 1
        if self.planned and self.metrics and done == self._first + 2 and self.backend.device.type == "cuda":
            say(self.planned(memory_bytes(self.backend.device)))
        if self.bar:
            self.bar.at(done)
        if done % self.log_every and done != self.steps and not figures:
            return
        line = self._read(done) | figures
        if self.metrics:
            self.metrics.write(done, **line)
            self.bar.show(done, line)
        self._clear()

    def _read(self, done: int) -> dict[str, float]:
        several = len(self.objective.phases) > 1
        line: dict[str, float] = {}
        for phase in self.objective.phases:
            if phase.name in self._seen:
                sums = {k: float(v) for k, v in self.backend.total(self._seen[phase.name]).items()}
                prefix = f"{phase.name}/" if several else ""
                line |= {prefix + k: v for k, v in self.objective.metrics(phase, sums).items()}
        positions = {k: float(v) for k, v in self.backend.total(self._positions).items()}
        seconds = time.perf_counter() - self._since
        lr = next(iter(self._lr.values()))
        line |= {"lr": lr, "grad_norm": float(torch.stack([n.float() for n in self._norms]).mean())}
        line["step_s"] = seconds / self._count
        if "images" in positions:
            line["images_per_s"] = positions["images"] / seconds
        if "all" in positions:
            self.count()
            line["tokens"] = self.tokens
            line["tokens_per_s"] = positions["all"] / seconds
            line["useful_tokens_per_s"] = positions["useful"] / seconds
            if self.flops and self.peak:
                line["mfu"] = line["tokens_per_s"] * self.flops / (self.peak * self.backend.world)
        line["memory_gib"] = memory_bytes(self.backend.device) / 2**30
        per_step = (time.perf_counter() - self._started) / (done - self._first)
        line["eta_s"] = per_step * (self.steps - done)
        line["skipped"] = self.skipped()
        return {key: round(value, 8) if isinstance(value, float) else value for key, value in line.items()}

    def count(self) -> None:
        """Bring `tokens` up to date: a sum over ranks, which all of them take part in."""
        self.tokens += int(self.backend.total({"useful": self._uncounted})["useful"])
        self._uncounted = 0

    def state(self) -> dict[str, float]:
        """What the checkpoint keeps: useful tokens (as of the last `count`), seconds of training, skips."""
        return {
            "tokens": self.tokens,
            "seconds": self.seconds + self._elapsed(),
            "skipped": self.skipped(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        self.skips = state.get("skipped", 0)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started if self._first is not None else 0.0

    def close(self) -> None:
        self.profile.close()
        if self.metrics:
            self.metrics.close()
            self.bar.close()


def memory_bytes(device: torch.device) -> int:
    """The peak so far: allocated on a GPU, resident for a CPU process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


SILENCE_S = 30.0


class Bar:
    """A progress bar on a terminal; elsewhere a line for each tenth of the run, at least every SILENCE_S."""

    def __init__(self, steps: int):
        self.steps, self.rich, self.told, self.spoke = steps, None, -1, time.monotonic()
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self.rich = Progress(*columns)
            self.task = self.rich.add_task("", total=steps)
            self.rich.start()

    def at(self, done: int) -> None:
        if self.rich:
            self.rich.update(self.task, completed=done)
        elif time.monotonic() - self.spoke > SILENCE_S:
            self._say(f"step {done}/{self.steps}")

    def show(self, done: int, line: dict[str, float]) -> None:
        names: tuple[str, ...] = (
            "loss",
            "accuracy",
            "bits_per_byte",
            "heldout/loss",
            "heldout/accuracy",
            "reward",
            "heldout/reward",
            "policy/reward",
            "heldout/policy/reward",
            "grad_norm",
            "tokens_per_s",
            "images_per_s",
            "mfu",
        )
        names += tuple(key for key in line if key.endswith("/loss") and key not in names)
        text = "  ".join(f"{name} {line[name]:.4g}" for name in names if name in line)
        if self.rich:
            self.rich.update(self.task, description=text)
        elif done * 10 // self.steps > self.told or "heldout/loss" in line:
            self.told = done * 10 // self.steps
            self._say(f"step {done}/{self.steps}  {text}  left {line['eta_s']:.0f} s")

    def _say(self, line: str) -> None:
        self.spoke = time.monotonic()
        say(line)

    def close(self) -> None:
        if self.rich:
            self.rich.stop()
