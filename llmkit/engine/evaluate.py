"""Evaluation in the loop: the objective's own sums over held-out rows, exact over ranks, without holding logits."""

from llmkit.engine.backend import Backend
from llmkit.objectives.phase import Objective, add


class Evaluator:
    """Runs the first phase of each network on fixed held-out micro-batches, split over the ranks."""

    def __init__(self, objective: Objective, backend: Backend, batches: list, every: int, steps: int):
        """`batches`: this rank's held-out micro-batches; every rank has the same number of them."""
        self.objective, self.backend, self.batches = objective, backend, batches
        self.every, self.steps = every, steps

    def run(self, done: int) -> dict[str, float]:
        """`heldout/...` figures if an evaluation is due after `done` steps, else nothing."""
        due = done == self.steps or (self.every and done % self.every == 0)
        if not due or not self.batches:
            return {}
        figures: dict[str, float] = {}
        several = len(self.objective.phases) > 1
        for phase in self.objective.phases:
            seen = add(self._seen(phase, batch) for batch in self.batches)
            sums = {key: float(value) for key, value in self.backend.total(seen).items()}
            prefix = f"heldout/{phase.name}/" if several else "heldout/"
            figures |= {prefix + key: round(v, 8) for key, v in self.objective.metrics(phase, sums).items()}
        return figures

    def _seen(self, phase, batch):
        (ready,) = self.objective.prepare(self.backend.place([batch]), self.backend.nets, self.backend.total, 0)
        return self.backend.evaluate(phase, ready)
