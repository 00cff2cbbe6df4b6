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
    optimizers = {net: optimizer(problem, nets[net]) for net in trained}
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
    named = {name: p for name, p in nets[phase.net].named_parameters() if p.requires_grad}
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


def optimizer(problem: Problem, net) -> torch.optim.Optimizer:
    """torch's own, one parameter at a time; the formula as published where torch has none."""
    o = problem.optim
    scale = getattr(net, "step_scale", lambda name: 1.0)  # T5's queries
    groups = [
        {
            "params": [p],
            "weight_decay": o.weight_decay if decays(name, p) else 0.0,
            "lr": o.lr * scale(name),
            "name": name,
        }
        for name, p in net.named_parameters()
        if p.requires_grad
    ]
    if o.name == "sgd":
        return torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, foreach=False)
    if o.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=o.lr, foreach=False)
    if o.name != "adamw":
        return Written(groups, o)
    return torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, eps=o.eps, foreach=False)


class Written(torch.optim.Optimizer):
    """Lion, nanoT5's AdamW and Muon as their papers write them, in double precision."""

    def __init__(self, groups, settings):
        super().__init__(groups, {})
        self.settings, self.count = settings, 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for one in self.param_groups:
            (p,) = one["params"]
            rule = self.settings.name
            if rule == "muon" and (p.ndim != 2 or "embed" in one["name"]):
                rule = "adamw"
            p.copy_(getattr(self, rule)(p.double(), p.grad.double(), self.state[p], one["weight_decay"]))

    def lion(self, w, g, state, decay):
        (b1, b2), lr = self.settings.betas, self.settings.lr
        m = state.get("m", torch.zeros_like(w))
        state["m"] = b2 * m + (1 - b2) * g
        return w - lr * ((b1 * m + (1 - b1) * g).sign() + decay * w)

    def moments(self, g, state):
        b1, b2 = self.settings.betas
        state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
        state["v"] = b2 * state.get("v", 0) + (1 - b2) * g * g
        return state["m"], state["v"], 1 - b1**self.count, 1 - b2**self.count

    def adamw(self, w, g, state, decay):
        m, v, c1, c2 = self.moments(g, state)
        return w - self.settings.lr * (m / c1 / ((v / c2).sqrt() + self.settings.eps) + decay * w)

    def adamw_rms(self, w, g, state, decay):
        m, v, c1, c2 = self.moments(g, state)
        size = w.square().mean().sqrt().clamp(min=1e-3)
        stepped = w - self.settings.lr * size * c2**0.5 / c1 * m / (v.sqrt() + self.settings.eps)
        return stepped * (1 - self.settings.lr * decay)

    def muon(self, w, g, state, decay):
        keep, lr = self.settings.momentum, self.settings.lr
        state["m"] = keep * state.get("m", 0) + (1 - keep) * g
        x = keep * state["m"] + (1 - keep) * g
        x = x / x.norm()
        for _ in range(5):
            x = 3.4445 * x - 4.775 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
        return (1 - lr * decay) * w - lr * 0.2 * max(w.shape) ** 0.5 * x


def as_tensors(numbers):
    return {key: torch.as_tensor(value, dtype=torch.float64) for key, value in numbers.items()}
