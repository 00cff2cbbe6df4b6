"""What only ZeRO does, run on ranks: splitting while building, lending a whole net, keeping quiet."""

import os

import torch

from llmkit import dist
from llmkit.engine import backend_zero
from tests.parity import cases
from tests.parity.problems import PROBLEMS, packed


def built() -> dict[str, int]:
    """Build a decoder at stage 3 from the meta device -> elements of it that this rank held, and holds."""
    dist.start("cpu", 60, group=True)
    honest, most = backend_zero.initialise, [0]

    def watched(net, seed, device, placed):
        def count(p):
            most[0] = max(most[0], sum(q.numel() for q in net.parameters() if not q.is_meta))
            placed(p)

        return honest(net, seed, device, count)

    backend_zero.initialise = watched
    engine, _ = cases.train(PROBLEMS["causal"], "zero3", 1, steps=0)
    parameters = list(engine.nets["model"].parameters())
    out = {
        "whole": sum(p.ds_numel for p in parameters),
        "largest": max(p.ds_numel for p in parameters),
        "held_at_most": most[0],
        "kept": sum(p.ds_tensor.numel() for p in parameters),
    }
    engine.close()
    dist.stop()
    return out


def lent(backend: str) -> dict[str, object]:
    """Two steps, a forward of the whole net outside of any engine, two more steps -> what came out."""
    dist.start("cpu", 60, group=True)
    problem, batch = PROBLEMS["causal"], packed(9, 9, 9)
    engine, sink = cases.train(problem, backend, 1, steps=2)
    with engine.gathered("model"), torch.no_grad():
        net = engine.nets["model"]
        logits = net.logits(net.hidden(batch["tokens"][: 1 + dist.rank() % 2]))[0, 0].tolist()
        sizes = sum(p.numel() for p in net.parameters())
    data = cases.Data(problem, engine.objective, dist.rank(), dist.world(), accumulation=1)
    cases.loop.train(4, lambda step: 1.0, engine.objective, engine, data, sink, sink, sink, sink, sink, 2)
    norms = sink.norms["model"]
    engine.close()
    dist.stop()
    return {"logits": logits, "sizes": sizes, "norms": norms}


def quiet() -> None:
    """A few steps at every stage, to see what else than our own lines is printed."""
    dist.start("cpu", 60, group=True)
    for stage in (1, 2, 3):
        engine, _ = cases.train(PROBLEMS["causal"], f"zero{stage}", 1, steps=2)
        engine.close()
    dist.stop()


def without_a_compiler() -> None:
    """The same where there is no compiler, nor anything that one has built before."""
    os.environ["PATH"] = "/nowhere"
    os.environ["TORCH_EXTENSIONS_DIR"] = "/nowhere"
    os.environ.pop("CXX", None)
    quiet()
