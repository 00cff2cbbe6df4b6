"""Evaluation in the loop: the objective's own sums over held-out rows, exact over ranks; no logits held."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

from llmkit import dist, film
from llmkit.engine.backend import Backend
from llmkit.objectives.phase import Objective, add


class Evaluator:
    """Runs each phase on fixed held-out micro-batches, over the ranks; averaged weights if there are."""

    def __init__(
        self, objective: Objective, backend: Backend, batches: dict, every: int, steps: int, samples: Path,
        pictures: Callable[[int, str, bytes], None] = lambda step, name, content: None,
    ):  # fmt: skip
        """`batches`: this rank's held-out micro-batches by group; every rank has the same number of them.

        What the objective has to show is written into the directory `samples`, and handed to `pictures`.
        """
        self.pictures = pictures
        self.objective, self.backend, self.batches = objective, backend, batches
        self.every, self.steps, self.samples = every, steps, samples

    def run(self, done: int) -> dict[str, float]:
        """`heldout/...` figures if an evaluation is due after `done` steps, else nothing."""
        due = done == self.steps or (self.every and done % self.every == 0)
        if not due or not any(self.batches.values()):
            return {}
        with contextlib.ExitStack() as stack:
            for net in self.backend.trained:
                stack.enter_context(self.backend.averaged(net))
            figures = self._figures() | self._compared()
            self._show(done)  # after the figures: an objective may show what it has just seen
            return figures

    def _figures(self) -> dict[str, float]:
        """The objective's metrics over all batches, and over those of every group that has a name."""
        figures: dict[str, float] = {}
        several = len(self.objective.phases) > 1
        groups = {name: self._sums(batches) for name, batches in self.batches.items()}
        for phase in self.objective.phases:
            prefix = f"heldout/{phase.name}/" if several else "heldout/"
            sums = {prefix + name + "/": found[phase.name] for name, found in groups.items() if name}
            sums[prefix] = add(found[phase.name] for found in groups.values())
            for where, numbers in sums.items():
                metrics = self.objective.metrics(phase, numbers)
                figures |= {where + key: round(value, 8) for key, value in metrics.items()}
        return figures

    def _sums(self, batches: list) -> dict[str, dict[str, float]]:
        """What every phase's loss sees in `batches`, summed over the ranks."""
        seen: dict[str, dict] = {phase.name: {} for phase in self.objective.phases}
        for batch in batches:
            (ready,) = self.backend.prepare(self.backend.place([batch]), 0)
            for phase in self.objective.phases:
                seen[phase.name] = add([seen[phase.name], self.backend.evaluate(phase, ready)])
        return {
            name: {key: float(value) for key, value in self.backend.total(numbers).items()}
            for name, numbers in seen.items()
        }

    @torch.no_grad()
    def _compared(self) -> dict[str, float]:
        """Figures of what the nets generate, where the objective has a comparison: the same on every rank."""
        comparison = self.objective.comparison
        if comparison is None:
            return {}
        modes = [(net, net.training) for net in self.backend.nets.values()]
        with contextlib.ExitStack() as stack:
            for name, net in self.backend.nets.items():
                stack.enter_context(self.backend.gathered(name))
                net.eval()
            batches = [batch for group in self.batches.values() for batch in self.backend.place(group)]
            mine = [comparison.rows(self.backend.nets, batch) for batch in batches]
        for net, training in modes:
            net.train(training)
        rows = [part for parts in dist.gather(mine) for part in parts]
        conditional = getattr(self.backend.nets[comparison.maker].settings, "conditional", False)
        found = comparison.figures(rows, conditional)
        return {f"heldout/{name}": round(value, 8) for name, value in found.items()}

    @torch.no_grad()
    def _show(self, done: int) -> None:
        """Write what the objective shows, on rank 0; the others help to gather the nets."""
        if not self.objective.shows:
            return
        with contextlib.ExitStack() as stack:
            for name, net in self.backend.nets.items():
                stack.enter_context(self.backend.gathered(name))
                net.eval()
            files = self.objective.show(self.backend.nets) if self.backend.rank == 0 else {}
        for net in self.backend.nets.values():
            net.train()
        for name, content in files.items():
            self.samples.mkdir(exist_ok=True)
            (self.samples / f"step_{done:08d}_{name}").write_bytes(content)
            self.pictures(done, name, content)
        if done == self.steps and files and (path := film.write(self.samples)):
            self.pictures(done, path.name, path.read_bytes())
