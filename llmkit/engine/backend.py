"""What the loop asks of a backend, and what all backends do alike. The two files beside this one do the rest.

begin(phase, key, factor) ─► micro(batch) ─► micro(batch, last=True) ─► step()
                             the phase's net runs inside its engine; every other net is frozen
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llmkit import dist
from llmkit.engine.recipe import Optim, Parallel
from llmkit.objectives.phase import Batch, Numbers, Objective, Phase, PhaseModule, frozen

Piece = tuple[str, torch.Size, int, dict[str, torch.Tensor]]
"""(parameter, its whole shape, where this range starts, {kind: live 1-D view}); kinds: param, exp_avg, ..."""


@dataclass(frozen=True)
class Applied:
    """One optimiser step: applied (1 or 0), and the global gradient norm before clipping; 0-d tensors."""

    applied: torch.Tensor
    grad_norm: torch.Tensor


class Backend:
    """Runs phases of `objective` on `nets`. `self.engines[net]` is what wraps the net's PhaseModule."""

    engines: dict[str, nn.Module]

    def __init__(
        self,
        objective: Objective,
        nets: dict[str, nn.Module],
        optims: dict[str, Optim],
        parallel: Parallel,
        seed: int,
    ):
        """`nets` may be on the meta device; they get values from `seed` and the parameters' names."""
        self.seed = seed
        self.objective, self.nets, self.optims, self.parallel = objective, nets, optims, parallel
        self.device, self.rank, self.world = dist.device(), dist.rank(), dist.world()
        self.trained = list(dict.fromkeys(phase.net for phase in objective.phases))

    @classmethod
    def refuse(cls, objective: Objective, parallel: Parallel) -> None:
        """ConfigError for what this backend cannot do, before anything is built."""

    # ---- one update ----------------------------------------------------------------------------------------

    def place(self, group: list[Batch]) -> list[Batch]:
        """`group` on this rank's device."""
        move = lambda value: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value  # noqa: E731
        return [{key: move(value) for key, value in batch.items()} for batch in group]

    def total(self, numbers: Numbers) -> Numbers:
        """Sums over ranks, as float64 tensors of the same shapes on the device: no host waits for them."""
        if not numbers:
            return {}
        mine = {k: self._number(numbers[k]) for k in sorted(numbers)}
        if self.world == 1:
            return mine
        flat = torch.cat([number.reshape(-1) for number in mine.values()])
        torch.distributed.all_reduce(flat)
        parts = flat.split([number.numel() for number in mine.values()])
        return {k: part.view(mine[k].shape) for k, part in zip(mine, parts, strict=True)}

    def _number(self, x) -> torch.Tensor:
        if isinstance(x, torch.Tensor):
            return x.to(self.device, torch.float64, non_blocking=True)
        return torch.full((), x, dtype=torch.float64, device=self.device)  # a copy of x would wait

    def begin(self, phase: Phase, key: int, factor: float) -> None:
        """Start an update: learning rates times `factor`, dropout seeded by (key, rank, micro-batch)."""
        self._key, self._micro = key, 0
        optimizer = self.optimizer(phase.net)
        for group in optimizer.param_groups:
            group["lr"] = self.optims[phase.net].lr * factor * group["lr_scale"]

    def prepare(self, group: list[Batch], key: int) -> list[Batch]:
        """The objective's work before the updates, in their precision: no engine enters autocast here."""
        with Backend.autocast(self), contextlib.ExitStack() as stack:
            for net in self.objective.whole:
                stack.enter_context(self.gathered(net))
            return self.objective.prepare(group, self.nets, self.total, key)

    def micro(self, phase: Phase, batch: Batch, total: Numbers, last: bool) -> Numbers:
        """Accumulate the gradient of one micro-batch's share of the loss; -> the sums it saw."""
        seed(self.device, (self._key * 1_000_003 + self.rank * 1009 + self._micro) % (1 << 62))
        self._micro += 1
        with self.accumulate(phase, last), frozen(*self.others(phase)):
            with self.autocast():
                share, seen = self.engines[phase.net](phase, batch, total)
            self.backward(phase, share * self.world)  # undoes the mean over ranks
        return seen

    @torch.no_grad()
    def evaluate(self, phase: Phase, batch: Batch) -> Numbers:
        """The sums that a loss sees, without gradients, with all nets in eval mode."""
        total = denominators(tensors(self.objective.count(phase, batch)))
        engine = self.engines[phase.net]
        modes = [(net, net.training) for net in self.nets.values()]
        for module in (engine, *self.nets.values()):
            module.eval()
        with self.autocast():
            _, seen = engine(phase, batch, total)
        engine.train()
        for net, training in modes:
            net.train(training)
        return seen

    def others(self, phase: Phase) -> list[nn.Module]:
        return [net for name, net in self.nets.items() if name != phase.net]

    def module(self, net: str) -> PhaseModule:
        return PhaseModule(self.nets[net], self.objective, self.nets)

    def autocast(self):
        """bf16 autocast where the recipe wants it; fp32 weights in any case."""
        if self.parallel.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    # ---- what the two backends do differently --------------------------------------------------------------

    def optimizer(self, net: str) -> torch.optim.Optimizer:
        raise NotImplementedError

    def accumulate(self, phase: Phase, last: bool) -> Any:
        """A context around forward and backward of one micro-batch."""
        return contextlib.nullcontext()

    def backward(self, phase: Phase, loss: torch.Tensor) -> None:
        raise NotImplementedError

    def step(self, phase: Phase) -> Applied:
        """Clip, then apply or skip (non-finite), on all ranks alike; gradients are gone afterwards."""
        raise NotImplementedError

    def pieces(self, net: str, writing: bool) -> Iterator[Piece]:
        """Live views of the state this rank holds; with `writing`, a partition of it over the ranks."""
        raise NotImplementedError

    def allocate(self, net: str, steps: int) -> None:
        """Create the optimiser's state as after `steps` steps, ready to be filled through `pieces`."""
        raise NotImplementedError

    def steps_taken(self, net: str) -> int:
        """The optimiser's own count of applied steps (AdamW's bias correction)."""
        raise NotImplementedError

    def refresh(self, net: str) -> None:
        """Rewrite everything that is derived from the pieces after they have been filled."""

    def gathered(self, net: str):
        """A context in which `self.nets[net]` is whole on every rank, for generation."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def averaged(self, net: str):
        """A context in which a trained net's weights are their moving averages, if it keeps any."""
        self._exchange(net)
        try:
            yield
        finally:
            self._exchange(net)

    @torch.no_grad()
    def _exchange(self, net: str) -> None:
        if not self.optims[net].ema:
            return
        for _, _, _, views in self.pieces(net, writing=False):
            if "ema" in views:  # not before the first step
                weight = views["param"].clone()
                views["param"].copy_(views["ema"])
                views["ema"].copy_(weight)
        self.refresh(net)

    def close(self) -> None:
        """Free the engines."""


def seed(device: torch.device, value: int) -> None:
    """torch.manual_seed for the generators that a rank on `device` draws from.

    torch's own also queues `value` for every kind of GPU that is not there, with a traceback: 0.5 ms a call.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def denominators(total: Numbers) -> Numbers:
    """Counts to divide by: where nothing was counted, nothing is divided, and 0 / 1 is 0."""
    return {key: torch.where(value > 0, value, torch.ones_like(value)) for key, value in total.items()}


def tensors(numbers: Numbers) -> Numbers:
    return {key: torch.as_tensor(value, dtype=torch.float64) for key, value in numbers.items()}
