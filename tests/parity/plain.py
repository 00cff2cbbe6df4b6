"""The yardstick: one process, plain torch, the whole global batch in one backward. No part of the engine."""

from dataclasses import dataclass, field

import torch

from llmkit.engine.optim import decays
from llmkit.objectives.phase import add
from tests.parity.problems import Problem, build, group


@dataclass
class Result:
    """State by net and parameter name after some steps; `gradients` are the first update's, clipped."""

    weights: dict[str, dict[str, torch.Tensor]]
    averages: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    gradients: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    norms: dict[str, list[float]] = field(default_factory=dict)
    state: dict[str, float] = field(default_factory=dict)


def train(problem: Problem, steps: int, slots: list[int]) -> Result:
    """`steps` steps on the micro-batches of `slots`, all at once."""
    objective, nets = build(problem)
    trained = list(dict.fromkeys(phase.net for phase in objective.phases))
    optimizers = {net: adamw(problem, nets[net]) for net in trained}
    weights = {net: dict(nets[net].named_parameters()) for net in trained}
    clones = lambda named: {name: p.detach().clone() for name, p in named.items()}  # noqa: E731
    result = Result(weights, {net: clones(weights[net]) for net in trained})
    for step in range(steps):
        ready = objective.prepare(group(problem, objective, step, slots), nets, as_tensors, step)
        for phase in objective.phases:
            for update in range(phase.updates if step % phase.every == 0 else 0):
                rows = objective.rows(phase, update, ready)
                seen = take_update(problem, objective, phase, nets, rows, optimizers[phase.net], result)
                objective.after(phase, seen, True)
                for name, average in result.averages[phase.net].items():
                    average.lerp_(weights[phase.net][name].detach(), 1 - problem.optim.ema)
    result.state = dict(objective.state)
    return result


def take_update(problem, objective, phase, nets, rows, optimizer, result):
    """The gradient of the sum of all shares, clipped, applied."""
    total = {key: max(value, torch.ones_like(value)) for key, value in as_tensors(add(
        objective.count(phase, batch) for batch in rows)).items()}  # fmt: skip
    shares, seen = zip(*(objective.loss(phase, nets, batch, total) for batch in rows), strict=True)
    named = dict(nets[phase.net].named_parameters())
    gradients = torch.autograd.grad(sum(shares), list(named.values()), allow_unused=True)
    for p, gradient in zip(named.values(), gradients, strict=True):
        p.grad = torch.zeros_like(p) if gradient is None else gradient.detach().clone()
    limit = problem.optim.clip or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(named.values(), limit)
    result.norms.setdefault(phase.net, []).append(float(norm))
    result.gradients.setdefault(phase.net, {name: p.grad.clone() for name, p in named.items()})
    optimizer.step()
    if problem.optim.clamp:
        for p in named.values():
            p.data.clamp_(-problem.optim.clamp, problem.optim.clamp)
    return as_tensors(add(seen))


def adamw(problem: Problem, net) -> torch.optim.Optimizer:
    """torch's own, one parameter at a time."""
    o = problem.optim
    groups = [
        {"params": [p], "weight_decay": o.weight_decay if decays(name, p) else 0.0}
        for name, p in net.named_parameters()
    ]
    return torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, eps=o.eps, foreach=False)


def as_tensors(numbers):
    return {key: torch.as_tensor(value, dtype=torch.float64) for key, value in numbers.items()}
