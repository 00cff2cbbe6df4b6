"""What an objective is: a few facts about a loss. The engine does everything else, once, for all of them.

prepare(group)            no gradients: rollouts, reference log-probabilities, advantages
  for each phase due at this step, `updates` times:
    rows(phase, update)   which micro-batches this update uses
    count(batch)          the denominators, summed over micro-batches and ranks into `total`
    loss(batch, total)    this micro-batch's share of the loss, already divided by `total`; and what it saw
    ... clip, step ...
    after(seen, applied)  controllers
"""

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from llmkit.config import Section

Batch = dict[str, Any]
"""Tensors by name, rows first. A batch without rows carries one row of padding, so every rank runs it."""

Numbers = dict[str, Any]
"""Sums by name: Python numbers, or tensors on the batch's device; 0-d ones are read when something is logged,
what has dimensions is for `after` alone."""


@dataclass(frozen=True)
class Phase:
    """One kind of update: the network it trains (the others are frozen), how often, how many steps."""

    name: str
    net: str
    every: int = 1
    updates: int = 1
    double_backward: bool = False
    """The loss differentiates through a gradient (WGAN-GP, R1, path length): ZeRO-3 refuses it."""


class Objective:
    """Base of all objectives. A subclass states Settings, phases, count and loss; the rest is optional."""

    Settings: ClassVar[type[Section]]
    phases: tuple[Phase, ...]
    draws: int = 1
    """How many independent sets of rows the loader hands out per step (a GAN with 5 critic updates: 6)."""
    batch_statistics: bool = False
    """The loss depends on which rows share a micro-batch (BatchNorm): no parity across layouts."""
    whole: tuple[str, ...] = ()
    """Trained nets that `prepare` calls: a rank that holds a part of one is lent the whole net there."""
    inits: ClassVar[dict[str, str]] = {}
    """net -> the checkpoint it starts from, where that is not the recipe's `init`."""
    column: str = ""
    """Key of what a frozen net says of each row at any step: made once and kept (engine/columns.py)."""
    column_net: str = ""
    """Whose answers those are: a net of `inits`; the weights that the run starts from if empty."""
    references: ClassVar[dict[str, str]] = {}
    """Frozen net -> the trained net whose initial weights it has: with an adapter, that net without it."""
    warning: str = ""
    """Why the run is not to be trusted just now: while it says something, no checkpoint is saved."""
    verdict: str = ""
    """Why the run must end."""
    tokenizer: Any = None
    """The data's tokenizer, for those who show text."""
    comparison: Any = None
    """What sets generated rows beside held-out ones at evaluations: `rows(nets, batch)` gives arrays by row,
    `figures(rows, conditional)` the figures of those of all batches and ranks."""
    metric: ClassVar[str] = "loss"
    """The headline metric, lower is better unless `metric_mode` says max."""
    metric_mode: ClassVar[str] = "min"

    def __init__(self, settings: Section):
        self.settings = settings
        self.state: dict[str, float] = {}

    def build(self, make) -> dict[str, nn.Module]:
        """The networks by name. `make(head="lm" | "score" | "value", **changes)` builds the model,
        `make(head="classify" | "tag" | "span", outputs=L)` one that ends in labels.

        With `net="reward"`, the model is that of the checkpoint `inits["reward"]`, if there is one.
        """
        return {phase.net: make() for phase in self.phases}

    def count(self, phase: Phase, batch: Batch) -> Numbers:
        """Every denominator that `loss` uses, of this micro-batch alone."""
        raise NotImplementedError

    def loss(self, phase: Phase, nets: dict[str, nn.Module], batch: Batch, total: Numbers):
        """-> (share of the global loss, a scalar; sums seen). `nets` are raw; gradients go to `phase.net`."""
        raise NotImplementedError

    def cell(self, net: nn.Module, batch: Batch) -> torch.Tensor:
        """`column` of `batch`, rows first, from the net that the run starts from. No gradients."""
        raise NotImplementedError

    def prepare(self, group: list[Batch], nets: dict[str, nn.Module], total, key: int) -> list[Batch]:
        """Work without gradients before a step's updates. `total` sums {name: number} over ranks."""
        return group

    def rows(self, phase: Phase, update: int, group: list[Batch]) -> list[Batch]:
        """The micro-batches of update `update` of `phase`."""
        return group

    def after(self, phase: Phase, seen: Numbers, applied: torch.Tensor) -> None:
        """Controllers. `seen` is summed over micro-batches and ranks; this costs an all-reduce an update.

        Beside the sums stands `grad_norm`, of the whole gradient before it was clipped. All are tensors, and
        so is `applied`, true or false: whoever reads one waits for the device.
        """

    @property
    def shows(self) -> bool:
        """Whether `show` has anything to show."""
        return type(self).show is not Objective.show

    def show(self, nets: dict[str, nn.Module]) -> dict[str, bytes]:
        """Files by name, made at every evaluation and kept in the run's samples/: a grid of images, say."""
        return {}

    def metrics(self, phase: Phase, seen: Numbers) -> dict[str, float]:
        """Readable figures from global sums of `seen`: {"loss": ..., "accuracy": ...}."""
        raise NotImplementedError


class PhaseModule(nn.Module):
    """A network whose forward is a phase's loss: DDP, ZeRO, autocast and compile see one call, one scalar.

    Only the phase's own net is registered; the objective and other nets are held outside nn.Module's books.
    """

    def __init__(self, net: nn.Module, objective: Objective, nets: dict[str, nn.Module]):
        super().__init__()
        self.net = net
        object.__setattr__(self, "_objective", objective)
        object.__setattr__(self, "_nets", nets)

    def forward(self, phase: Phase, batch: Batch, total: Numbers):
        return self._objective.loss(phase, self._nets, batch, total)


@contextlib.contextmanager
def frozen(*nets: nn.Module):
    """No gradients for `nets` inside. Span the backward too: activation checkpointing recomputes there."""
    was = [(p, p.requires_grad) for net in nets for p in net.parameters()]
    try:
        for p, _ in was:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in was:
            p.requires_grad_(flag)


def add(dicts) -> Numbers:
    """Sum mappings of numbers key by key."""
    out: Numbers = {}
    for numbers in dicts:
        for key, value in numbers.items():
            out[key] = out[key] + value if key in out else value
    return out


def keyed(*parts) -> torch.Generator:
    """A CPU generator that is a function of `parts` alone: run seed, purpose, step, update, sample id."""
    import hashlib

    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
