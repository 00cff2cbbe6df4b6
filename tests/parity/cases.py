"""The engine's side of the comparison, run on every rank: each case trains and says how far off it is."""

import math
from dataclasses import replace

import torch

from llmkit import dist
from llmkit.engine import loop, probe
from llmkit.engine.backend_ddp import Ddp
from llmkit.engine.recipe import Optim, Parallel
from tests.parity import plain
from tests.parity.problems import ADAPTED, PROBLEMS, SEED, Problem, group

STEPS = 4


class Sink:
    """Where the loop wants a meter, a guard, a saver, an evaluator and a stop; keeps what is compared."""

    seed = SEED

    def __init__(self, backend):
        self.backend = backend
        self.norms: dict[str, list[float]] = {}
        self.first: dict[str, list[tuple]] = {}
        """net -> (name, start, gradient) of this rank's ranges at its first update, from the first moment."""

    def add(self, phase, seen, outcome):
        net = phase.net
        self.norms.setdefault(net, []).append(float(outcome.grad_norm))
        if net not in self.first and self.backend.optims[net].name == "adamw":
            beta = self.backend.optims[net].betas[0]
            pieces = self.backend.pieces(net, writing=False)
            self.first[net] = [
                (name, start, views["exp_avg"] / (1 - beta))
                for name, _, start, views in pieces
                if "exp_avg" in views  # not what an adapter leaves as it is
            ]

    def feed(self, group):
        return group

    def run(self, done):
        return {}

    def agreed(self, done):
        return None

    def newest(self):
        return None

    def ignore(self, *args, **kwargs):
        pass

    begin = end = watch = check = heed = save = ignore


class Data:
    """This rank's micro-batches of a problem."""

    def __init__(self, problem: Problem, objective, rank: int, world: int, accumulation: int):
        self.problem, self.objective = problem, objective
        self.slots = [micro * world + rank for micro in range(accumulation)]

    def group(self, step):
        return group(self.problem, self.objective, step, self.slots)


def backend_class(name: str):
    if name == "ddp":
        return Ddp
    from llmkit.engine.backend_zero import Zero

    return Zero


def train(problem: Problem, backend: str, accumulation: int, steps: int = STEPS, objective=None, **parallel):
    """-> the backend after `steps` steps of the real loop, and what was seen on the way."""
    objective = objective or problem.objective()
    nets = problem.nets(objective)
    optims = {phase.net: problem.optim for phase in objective.phases}
    settings = Parallel(**{"backend": backend, "precision": "fp32", "compile": "off", **parallel})
    engine = backend_class(backend)(objective, nets, optims, settings, SEED)
    data = Data(problem, objective, dist.rank(), dist.world(), accumulation)
    sink = Sink(engine)
    loop.train(steps, lambda step: 1.0, objective, engine, data, sink, sink, sink, sink, sink)
    return engine, sink


def difference(engine, sink, expected: plain.Result) -> dict[str, float]:
    """How far this rank is from plain torch: largest weight and average, first gradient over its norm."""
    out = {"weights": 0.0, "averages": 0.0, "norms": 0.0, "gradients": 0.0, "elements": 0}
    for net in engine.trained:
        for name, shape, start, views in engine.pieces(net, writing=False):
            if "param" not in views:
                continue
            part = slice(start, start + len(views["param"]))
            assert expected.weights[net][name].shape == shape
            out["elements"] += len(views["param"])
            for kind, where in (("param", "weights"), ("ema", "averages")):
                if kind in views:
                    want = getattr(expected, where)[net][name].detach().flatten()[part]
                    out[where] = max(out[where], float((views[kind] - want).abs().max()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in expected.gradients[net].values()))
        off = sum(
            float((g - expected.gradients[net][name].flatten()[start : start + len(g)]).square().sum())
            for name, start, g in sink.first.get(net, ())
        )
        out["gradients"] = max(out["gradients"], math.sqrt(off) / norm)
        pairs = zip(sink.norms[net], expected.norms[net])
        out["norms"] = max(out["norms"], *(abs(a - b) / b for a, b in pairs))
    state = engine.objective.state
    out["state"] = max((abs(state[key] - expected.state[key]) for key in state), default=0.0)
    return out


def doubled(problem: Problem):
    """The objective with a fault planted in it: one denominator counts everything twice."""
    objective = problem.objective()
    honest = objective.count

    def count(phase, batch):
        counts = dict(honest(phase, batch))
        if problem.denominator in counts:
            counts[problem.denominator] = counts[problem.denominator] * 2
        return counts

    objective.count = count
    return objective


def matrix(world: int, backends: list[str]) -> dict[str, dict[str, float] | str]:
    """Every problem, backend and accumulation, and once with a planted fault -> differences by case."""
    dist.start("cpu", 60, group=True)
    torch.set_num_threads(1)
    out = {}
    for name, problem in PROBLEMS.items():
        for accumulation in (1, 2):
            expected = plain.train(problem, STEPS, list(range(world * accumulation)))
            for backend in backends:
                for planted in (False, True) if accumulation == 1 else (False,):
                    key = f"{name}-{backend}-x{accumulation}" + ("-planted" if planted else "")
                    objective = doubled(problem) if planted else problem.objective()
                    steps = 1 if planted else STEPS
                    out[key] = _case(problem, backend, accumulation, steps, objective, expected)
    dist.stop()
    return out


OPTIMISERS = ("lion", "sgd", "adamw_rms", "adafactor", "muon")


def optimisers(world: int, backends: list[str]) -> dict[str, dict[str, float] | str]:
    """The causal problem with every other optimiser, clipped, averaged and decayed -> differences by case."""
    dist.start("cpu", 60, group=True)
    torch.set_num_threads(1)
    out = {}
    for name in OPTIMISERS:
        settings = PROBLEMS["causal"].optim.model_copy(update={"name": name, "clip": 0.5, "ema": 0.9})
        problem = replace(PROBLEMS["causal"], optim=settings)
        expected = plain.train(problem, STEPS, list(range(world)))
        for backend in backends:
            if name != "adafactor" or backend == "ddp":
                out[f"{name}-{backend}"] = _case(problem, backend, 1, STEPS, problem.objective(), expected)
    dist.stop()
    return out


def adapters(world: int, backends: list[str]) -> dict[str, dict[str, float] | str]:
    """The problems with an adapter, and once with a planted fault -> differences by case."""
    dist.start("cpu", 60, group=True)
    torch.set_num_threads(1)
    out = {}
    for name, problem in ADAPTED.items():
        expected = plain.train(problem, STEPS, list(range(world)))
        for backend in backends:
            out[f"{name}-{backend}"] = _case(problem, backend, 1, STEPS, problem.objective(), expected)
        out[f"{name}-planted"] = _case(problem, "ddp", 1, 1, doubled(problem), expected)
    dist.stop()
    return out


def probed(world: int, backends: list[str]) -> dict[str, float]:
    """What the probe finds for every optimiser and backend, Adafactor on flat shards among them."""
    dist.start("cpu", 60, group=True)
    torch.set_num_threads(1)
    out = {}
    for name in OPTIMISERS:
        for backend in backends:
            settings = Parallel(backend=backend, precision="fp32", compile="off")
            optim = Optim(name=name, lr=0.1, clip=0.5, ema=0.5)
            out[f"{name}-{backend}"] = probe.departure(backend_class(backend), optim, settings)
    dist.stop()
    return out


def _case(problem, backend, accumulation, steps, objective, expected):
    try:
        engine, sink = train(problem, backend, accumulation, steps, objective)
    except Exception as error:  # the test wants to know which case it was
        return f"{type(error).__name__}: {error}"
    try:
        found = difference(engine, sink, expected)
        return found if steps == STEPS else {key: found[key] for key in ("norms", "gradients")}
    finally:
        engine.close()
