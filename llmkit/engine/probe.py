"""Before a run whose optimiser is not AdamW: two steps on this backend against the same two on one process.

Published combinations of optimisers and ZeRO have been silently wrong (Adafactor on flat shards by 7 %, Muon
by factors). The probe's gradients are exact in bf16 and its net is tiny, so whatever is seen is the
optimiser's.
"""

import torch
from torch import nn

from llmkit import dist
from llmkit.engine import optim
from llmkit.engine.recipe import Optim, Parallel
from llmkit.errors import ConfigError
from llmkit.models.blocks import fill_normal, initialise
from llmkit.objectives.phase import Objective, Phase, keyed

LIMIT = 1e-3
"""Largest departure, as a share of the step. Rounding gives 1e-6; the errors this is for begin at 1e-2."""

STEPS = 2


class _Net(nn.Module):
    """An embedding, a tall, a wide and a stacked matrix, a bias; sizes that no number of ranks divides."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.empty(11, 6))
        self.tall = nn.Parameter(torch.empty(13, 5))
        self.wide = nn.Parameter(torch.empty(5, 7))
        self.stack = nn.Parameter(torch.empty(3, 4, 5))
        self.bias = nn.Parameter(torch.empty(7))

    @torch.no_grad()
    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        fill_normal(p, 1.0, generator)
        p.copy_(p.bfloat16())

    def forward(self, gradients: dict[str, torch.Tensor], here: float) -> torch.Tensor:
        return here * torch.stack([(p * gradients[n]).sum() for n, p in self.named_parameters()]).sum()


class _Linear(Objective):
    """A loss whose gradient is given, all of it on rank 0."""

    phases = (Phase("probe", "model"),)

    def __init__(self):
        super().__init__(None)

    def loss(self, phase, nets, batch, total):
        return nets["model"](batch, 1.0 if dist.rank() == 0 else 0.0), {}


def _net() -> _Net:
    with torch.device("meta"):
        return _Net()


def _gradients(net: nn.Module, step: int, device: torch.device) -> dict[str, torch.Tensor]:
    shapes = {name: getattr(p, "ds_shape", p.shape) for name, p in net.named_parameters()}
    draw = lambda name, shape: torch.randn(shape, generator=keyed("probe", step, name))  # noqa: E731
    return {name: draw(name, shape).bfloat16().float().to(device) for name, shape in shapes.items()}


def check(backend: type, settings: Optim, parallel: Parallel) -> float:
    """The largest departure from one process, as a share of the step. ConfigError if it is above LIMIT."""
    if settings.name == "adamw":
        return 0.0
    off = departure(backend, settings, parallel)
    if not off <= LIMIT:
        raise ConfigError(
            f"optim.name: {settings.name} under {parallel.backend} departs by {off:.1%} from its step on one "
            "process; use parallel.backend=ddp, or optim.name=adamw"
        )
    return off


def departure(backend: type, settings: Optim, parallel: Parallel) -> float:
    """Two steps on `backend` and on one process -> how far they are apart, the same on every rank."""
    objective = _Linear()
    engine = backend(objective, {"model": _net()}, {"model": settings}, parallel, seed=0)
    (phase,) = objective.phases
    try:
        shapes = _net()
        for step in range(STEPS):
            engine.begin(phase, step, 1.0)
            engine.micro(phase, _gradients(shapes, step, engine.device), {}, last=True)
            engine.step(phase)
        before, expected = _alone(settings, engine.device)
        squares = torch.zeros(2, dtype=torch.float64)
        for name, _, start, views in engine.pieces("model", writing=True):
            part = slice(start, start + len(next(iter(views.values()))))
            if "param" in views:
                found = views["param"].cpu().double()
                old, new = (net[name].flatten()[part].double() for net in (before, expected))
                squares += torch.stack([(found - new).square().sum(), (new - old).square().sum()])
        sums = engine.total({"off": squares[0], "step": squares[1]})
        return float((sums["off"] / sums["step"]).sqrt()) if sums["off"] else 0.0  # a rate of 0: no step
    finally:
        engine.close()


def _alone(settings: Optim, device: torch.device) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights before and after the same steps in fp32, on `device`: Muon's products are bf16 on a GPU."""
    net = initialise(_net(), 0).to(device)
    before = _weights(net)
    optimizer = optim.build(net, settings)
    for step in range(STEPS):
        for name, gradient in _gradients(net, step, device).items():
            net.get_parameter(name).grad = gradient
        nn.utils.clip_grad_norm_(net.parameters(), settings.clip or float("inf"))
        optimizer.step()
    return before, _weights(net)


def _weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().clone() for name, p in net.named_parameters()}
