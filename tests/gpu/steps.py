"""Two steps of many problems on the pretended GPU and on the CPU, compared.

python -m tests.gpu.steps [NAME ...]     one line of JSON for each problem

norms     largest relative difference of a gradient norm, fp32
weights   largest difference of a weight, fp32
waits     what the host waited for in the second step, outside of `prepare`: {operation @ where: times}
bf16      the second step's waits in bf16, whose values are not compared: autocast differs between devices
error     what stopped it; the others are missing then
"""

import json
import sys
import traceback
from dataclasses import replace

import torch

from llmkit import dist, registry
from llmkit.engine import loop, probe
from llmkit.engine.backend_ddp import Ddp
from llmkit.engine.guard import Guard
from llmkit.engine.recipe import Optim, Parallel
from llmkit.models.heads import build
from tests.gpu import device
from tests.parity import cases, problems
from tests.vision import parity as vision

STEPS = 2


def shaped(of: str, name: str, **shape) -> problems.Problem:
    """Problem `of` on another net of two layers."""
    size = {
        "width": 16,
        "layers": 2,
        "heads": 2,
        "vocab_size": problems.VOCABULARY,
        "context": problems.LENGTH,
    }
    settings = registry.find("model", name).Settings(**size, **shape)

    def nets(objective):
        with torch.device("meta"):
            return objective.build(lambda head="lm": build(settings, head))

    return replace(problems.PROBLEMS[of], nets=nets, optim=problems.PROBLEMS["span"].optim)


SCALING = {"kind": "yarn", "factor": 2.0, "original": 6}
SHAPES = {
    "gpt2": shaped("causal", "decoder", positions="learned", norm="layer", mlp="gelu", bias=True),
    "sinusoids": shaped("causal", "decoder", positions="sinusoidal", dropout=0.1, recompute="full"),
    "window": shaped("causal", "decoder", window=3, qk_norm=True, attention_cap=5.0, logit_cap=5.0),
    "yarn": shaped("causal", "decoder", rope_scaling=SCALING, mup_width=8, recompute="selective", tie=False),
    "bert": shaped("masked", "encoder", style="bert"),
    "bart": shaped("denoise", "encdec", style="bart"),
    "transformer": shaped("denoise", "encdec", style="transformer"),
}
OPTIMISERS = {
    name: replace(problems.PROBLEMS["causal"], optim=Optim(name=name, lr=1e-3, clip=1.0, ema=0.9))
    for name in ("adafactor", "adamw_rms", "lion", "muon", "sgd")
}
PROBLEMS = {
    **problems.PROBLEMS,
    **problems.ADAPTED,
    **SHAPES,
    **OPTIMISERS,
    **{f"vision_{name}": problem for name, problem in vision.PROBLEMS.items()},
}


class Watch(cases.Sink):
    """The loop's meter: keeps gradient norms without reading them, and the waits of the last step."""

    def __init__(self, backend):
        super().__init__(backend)
        self.unread: list[torch.Tensor] = []
        self.waits: dict[str, int] = {}

    def add(self, phase, seen, outcome):
        self.unread.append(outcome.grad_norm)

    def feed(self, group):
        """Forget what `prepare` waited for: replies are written in steps that the host decides on."""
        if device.Gpu.current:
            device.Gpu.current.waits.clear()
        return group

    def end(self, done, figures):
        self.waits = dict(device.Gpu.current.waits) if device.Gpu.current else {}


def train(problem: problems.Problem, where: str, precision: str) -> tuple[Ddp, Watch]:
    """-> the backend and what was seen, after the real loop's two steps on cpu or gpu."""
    dist.start(where)
    objective = problem.objective()
    optims = {phase.net: problem.optim for phase in objective.phases}
    settings = Parallel(backend="ddp", precision=precision, compile="off")
    probe.check(Ddp, problem.optim, settings)
    engine = Ddp(objective, problem.nets(objective), optims, settings, problems.SEED)
    data, watch = cases.Data(problem, objective, 0, 1, 1), Watch(engine)
    loop.train(STEPS, lambda step: 1.0, objective, engine, data, watch, watch, watch, Guard(1), watch)
    return engine, watch


def compare(problem: problems.Problem) -> dict:
    """The line of one problem."""
    with device.Gpu():
        engine, watch = train(problem, "gpu", "fp32")
        weights, norms = _weights(engine), [float(norm) for norm in watch.unread]
        _, rough = train(problem, "gpu", "bf16")
    engine, plain = train(problem, "cpu", "fp32")
    expected = _weights(engine)
    return {
        "norms": max(abs(a - float(b)) / float(b) for a, b in zip(norms, plain.unread, strict=True)),
        "weights": max(float((weights[name] - expected[name]).abs().max()) for name in expected),
        "waits": watch.waits,
        "bf16": rough.waits,
    }


def _weights(engine: Ddp) -> dict[str, torch.Tensor]:
    return {
        f"{net}.{name}": p.detach().cpu().clone()
        for net in engine.trained
        for name, p in engine.nets[net].named_parameters()
    }


if __name__ == "__main__":
    device.pretend()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or PROBLEMS:
        try:
            found = compare(PROBLEMS[name])
        except Exception:  # the test wants to know which problem it was
            found = {"error": traceback.format_exc()}
        print(json.dumps({"problem": name, **found}), flush=True)
